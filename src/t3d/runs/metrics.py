"""metrics.jsonl, one object a line, and the same numbers as TensorBoard events where it is installed."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Row = dict[str, Any]


class Metrics:
    """Append rows to a run's metrics.jsonl as they happen; each is on its way to the disk when `write` returns.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
        self._began = time.monotonic()
        self._tensorboard: Any = None
        if importlib.util.find_spec("tensorboard"):
            from tensorboard.summary import Writer

            self._tensorboard = Writer(str(folder / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def write(self, kind: str, env_steps: int, **fields: Any) -> Row:
        """Append one row.

        Args:
            kind: episode, update, evaluation or event.
            env_steps: where the run stands.
            fields: finite numbers, lists of them, texts or None.

        Returns:
            The row as it was written.
        """
        wall_s = round(time.monotonic() - self._began, 3)
        row: Row = {"kind": kind, "env_steps": env_steps, "wall_s": wall_s, **fields}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._tensorboard is not None:
            for name, value in fields.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", float(value), env_steps)
        return row
