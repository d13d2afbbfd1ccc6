"""metrics.jsonl, one object a line."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from t3d.errors import RunRefused
from t3d.formats import MetricsState, Row
from t3d.runs.tensorboard import TensorBoard
from t3d.storage.append_log import AppendLog
from t3d.storage.row_lines import HalfRow, RowReader, as_line

_log = logging.getLogger("t3d")


def last_env_steps(folder: Path) -> int:
    """Return the env steps of the last whole row in a run's metrics.jsonl; 0 if there is none.

    Raises:
        RunRefused: a row is not as it was written, or cannot be read.
    """
    path, env_steps = folder / "metrics.jsonl", 0
    try:
        for row in RowReader(path).rows(path.stat().st_size if path.is_file() else 0):
            env_steps = row["env_steps"]
    except HalfRow:
        pass
    except (ValueError, RecursionError, OSError) as error:
        raise RunRefused("metrics.jsonl cannot be read", got=f"{path}: {str(error)[:500]}") from error
    return env_steps


class Metrics:
    """Append rows to a run's metrics.jsonl as they happen; the system has each when `write` returns.

    A row that cannot be written waits, and is tried again with the next one: none is lost while the run lives.

    Args:
        folder: the run folder.
        run: the run's id, which the first row says.
        tensorboard: where TensorBoard's files go.
    """

    def __init__(self, folder: Path, run: str, tensorboard: Path) -> None:
        self.lost: tuple[int, int] | None = None  # env steps between which rows were gone when the file was opened
        self.problem = ""  # why
        self.longest_episode = 0  # in steps
        self._log = AppendLog(folder / "metrics.jsonl")
        self._run, self._crc = run, 0
        self._waiting = b""
        self._unflushed = b""
        self._began = time.monotonic()
        self._troubled = False  # rows wait, and it has been said
        self.tensorboard = TensorBoard(tensorboard)

    @property
    def wall_s(self) -> float:
        """Seconds since the run began, those in which it did not run left out."""
        return time.monotonic() - self._began

    @property
    def state(self) -> MetricsState:
        """What a manifest must say of the file as it now is."""
        now = self._log.state
        return MetricsState(now.bytes, now.sha256, self.wall_s)

    def open(self, state: MetricsState, env_steps: int) -> None:
        """Stand where a manifest says the file stood, or behind its last row before that which is as it was written.

        Nothing on disk is changed. `lost` says what is gone, and `problem` why.

        Args:
            state: what `state` was then.
            env_steps: where the run stood then.

        Raises:
            RunRefused: the file is another run's.
            OSError: it cannot be read.
        """
        reader, last = RowReader(self._log.path), {"env_steps": 0}
        self.lost, self.problem, self.longest_episode = None, "", 0
        size = self._log.path.stat().st_size if self._log.path.is_file() else 0
        try:
            rows = reader.rows(size)
            while reader.position < state.bytes:
                if (row := next(rows, None)) is None:
                    raise HalfRow(f"{size:,} bytes, {state.bytes:,} had been written")
                if reader.run != self._run:
                    raise _another_runs(self._log.path, reader.run, self._run)
                last = row
                self.longest_episode = max(self.longest_episode, row.get("length", 0))
        except (ValueError, RecursionError) as error:
            self.lost = (last["env_steps"], env_steps)
            self.problem = f"{self._log.path}, behind byte {reader.position:,}: {str(error)[:500]}"
        self._log.read(reader.position)
        if not self.lost and self._log.state.sha256 != state.sha256:
            raise _another_runs(self._log.path, self._log.state.sha256, state.sha256)
        self._crc, self._began = reader.crc, time.monotonic() - state.wall_s

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of a kind up to the position where this stands."""
        return [row for row in RowReader(self._log.path).rows(self._log.length) if row["kind"] == kind]

    def move(self, folder: Path) -> None:
        """Go on in the same file in a folder that has another name by now."""
        self._log.path = folder / self._log.path.name

    def cut(self) -> None:
        """Remove the rows behind the position that was opened."""
        self._log.cut()

    def write(self, kind: str, env_steps: int, **fields: Any) -> Row:
        """Append one row.

        Args:
            kind: episode, update, evaluation, health or event.
            env_steps: where the run stands.
            fields: finite numbers, lists of them, texts or None.

        Returns:
            The row as it was written.
        """
        if not self._log.length and not self._waiting:
            self._add_line({"kind": "run", "env_steps": 0, "wall_s": 0.0, "run": self._run}, crc=0)
        row: Row = {"kind": kind, "env_steps": env_steps, "wall_s": round(self.wall_s, 3), **fields}
        self._add_line(row, self._crc)
        self.longest_episode = max(self.longest_episode, row.get("length", 0))
        try:
            self._write_waiting()
            self._troubled = False
        except OSError as error:
            if not self._troubled:
                _log.warning("metrics.jsonl: %s; its rows wait in memory, TensorBoard's files end here", error)
            self._troubled = True
            self.tensorboard.give_up()
        self.tensorboard.add(row)
        return row

    def _add_line(self, row: Row, crc: int) -> None:
        line, self._crc = as_line(row, crc)
        self._waiting += line

    def flush(self) -> None:
        """Return once every row has reached the disk.

        Raises:
            OSError: it cannot.
        """
        self._write_waiting()
        if not self._unflushed:
            return
        try:
            self._log.flush()
        except OSError:
            # The system may have dropped what it was to flush: write it again.
            self._waiting, self._unflushed = self._unflushed, b""
            raise
        self._unflushed = b""

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        self._log.append(self._waiting)
        self._unflushed += self._waiting
        self._waiting = b""


def _another_runs(path: Path, got: str, expected: str) -> RunRefused:
    return RunRefused(
        "metrics.jsonl is another run's",
        got=f"{path}: {got}",
        expected=f"{expected}, says the checkpoint",
        do="copy the run again",
    )
