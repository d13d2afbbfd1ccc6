"""A run at Weights & Biases, online or offline."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3d.errors import ConfigRefused
from t3d.formats import Row, RunRecord
from t3d.tracking import numbers_of, options_of

_KEY = "t3d/row"
_HEADER, _BLOCK, _RECORD = 7, 1 << 15, struct.Struct("<IHB")  # of W&B's own log, which is LevelDB's
_WHOLE, _LAST = 1, 4
_STILL_S = 1.0


class WandbRun:
    """A run of W&B, named after ours: whoever tracks the same run continues it.

    What W&B's own log on this disk holds was sent, and nothing else: it keeps back up to 32 KB, which a kill loses.

    Args:
        record: of the run.
        path: its folder.

    Raises:
        ConfigRefused: W&B does not take the run.
    """

    def __init__(self, record: RunRecord, path: Path) -> None:
        import wandb

        self._id = record.run[:32]
        self._folder = Path(os.environ.get("WANDB_DIR", "."))
        self._sent = self._logged()
        quiet = wandb.Settings(
            console="off", disable_git=True, save_code=False, symlink=False, silent=True, x_disable_stats=True
        )
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "t3d"),
                id=self._id,
                resume="allow",
                reinit="create_new",
                dir=str(self._folder),
                name=f"{path.parent.name}/{path.name}",
                group=record.spec.title,
                config=options_of(record),
                settings=quiet,
            )
        except wandb.errors.Error as error:
            raise ConfigRefused(
                "W&B does not take this run",
                got=str(error),
                do="wandb login; or WANDB_MODE=offline, and wandb sync later",
            ) from error
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def sent(self) -> set[int]:
        """Return the keys of what its log holds."""
        return set(self._sent)

    def send(self, rows: list[tuple[int, Row]]) -> None:
        """Log each row, by its env steps."""
        for key, row in rows:
            what = {"event/what": row["what"]} if row["kind"] == "event" else {}
            self._log(key, {**numbers_of(row), **what, "env_steps": row["env_steps"]})

    def keep(self, key: int, name: str, path: Path) -> None:
        """Log a film or a page."""
        import wandb

        shown: Any = wandb.Video(str(path)) if path.suffix == ".mp4" else wandb.Html(path.read_text("utf-8"))
        self._log(key, {name: shown})

    def _log(self, key: int, values: dict[str, Any]) -> None:
        # Steps go on where an earlier tracker stopped: W&B drops a step that it has already.
        self._run.log({**values, _KEY: str(key)}, step=len(self._sent), commit=True)
        self._sent.add(key)

    def close(self) -> None:
        """Return once its log is on the disk and, online, at W&B."""
        self._run.finish()

    def _logged(self) -> set[int]:
        """Return the keys in every log of this run, once nobody writes them any more."""
        logs = f"wandb/*run-*-{self._id}/run-{self._id}.wandb"
        sizes: dict[Path, int] | None = None
        while sizes != (now := {path: path.stat().st_size for path in self._folder.glob(logs)}):
            sizes = now
            if sizes:
                time.sleep(_STILL_S)
        return {key for path in now for key in keys_in(path)}


def keys_in(log: Path) -> Iterator[int]:
    """Yield the keys of the rows in one of W&B's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _records(log.read_bytes()):
        record = Record.FromString(content)
        for item in record.history.item:
            if _KEY in (item.key, *item.nested_key):
                yield int(item.value_json.strip('"'))


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the whole records of a log; the part of one at its end is left out."""
    position, parts = _HEADER, b""
    while position + _RECORD.size <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD.size:
            position += left
            continue
        _, length, kind = _RECORD.unpack_from(content, position)
        begin = position + _RECORD.size
        position = begin + length
        if kind == 0 or position > len(content):
            return
        parts += content[begin:position]
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
