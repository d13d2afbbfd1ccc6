"""metrics.jsonl, one object a line, and the same numbers as TensorBoard events where it is installed."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import sys
import time
from pathlib import Path
from typing import Any

from t3d.errors import RunRefused
from t3d.formats import HalfRow, MetricsState, Row, RowReader, as_line
from t3d.runs import disk
from t3d.runs.append_log import AppendLog

# What is shown at once of rows that were written before: a tenth of a millisecond each, and a signal must not wait.
_SHOWN_AT_ONCE = 1_000

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
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.lost: tuple[int, int] | None = None  # env steps between which rows were gone when the file was opened
        self.problem = ""  # why
        self._log = AppendLog(folder / "metrics.jsonl")
        self._run, self._crc = run, 0
        self._waiting = b""
        self._unflushed = b""
        self._began = time.monotonic()
        self._tensorboard: Any = None
        self._shown = importlib.util.find_spec("tensorboard") is not None  # and until its files cannot be written
        self._troubled = False  # rows wait, and it has been said
        self._reader = RowReader(self._log.path)  # of the rows that are in TensorBoard's files
        self._tensorboard_folder = folder / "tensorboard"

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
        self.lost, self.problem = None, ""
        size = self._log.path.stat().st_size if self._log.path.is_file() else 0
        try:
            rows = reader.rows(size)
            while reader.position < state.bytes:
                if (row := next(rows, None)) is None:
                    raise HalfRow(f"{size:,} bytes, {state.bytes:,} had been written")
                if reader.run != self._run:
                    raise _another_runs(self._log.path, reader.run, self._run)
                last = row
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

    def cut(self) -> None:
        """Remove the rows behind the position that was opened."""
        self._log.cut()

    def show_if_gone(self) -> None:
        """Write TensorBoard's events anew if somebody has removed them."""
        if not self._tensorboard_folder.exists():
            self.show_anew()
            self.show_all()

    def show_anew(self) -> None:
        """Remove TensorBoard's events. They are written anew, some with each new row: training has waited enough."""
        if self._tensorboard_folder.exists():
            disk.remove(self._tensorboard_folder)
        self._reader = RowReader(self._log.path)

    def show_all(self) -> None:
        """Write what TensorBoard's files still lack, and close them."""
        self._show(sys.maxsize)
        self.close()

    def close(self) -> None:
        """Close TensorBoard's files; a row written later begins another."""
        if self._tensorboard is not None:
            try:
                self._tensorboard.flush()  # closing alone does not say what went wrong before
                self._tensorboard.close()
            except OSError as error:
                self._shown = False
                _log.warning("TensorBoard's files are not complete: %s", error)
            self._tensorboard = None

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
        try:
            self._write_waiting()
            self._troubled = False
        except OSError as error:
            if not self._troubled:
                _log.warning("metrics.jsonl: %s; its rows wait in memory, TensorBoard's files end here", error)
            # TensorBoard would fail as well, in a thread of its own that nobody can catch.
            self._troubled, self._shown = True, False
        if kind != "event":  # it has no numbers
            self._show(_SHOWN_AT_ONCE)
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

    def _show(self, most: int) -> None:
        """Show the next rows of the file."""
        if not self._shown:
            return
        try:
            for row in itertools.islice(self._reader.rows(self._log.length), most):
                self._show_row(row)
        except (OSError, ValueError) as error:
            self._shown, self._tensorboard = False, None
            _log.warning("TensorBoard's files end here; once removed, t3d resume writes them anew: %s", error)

    def _show_row(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._tensorboard is None:
            # Its thread is not waited for.
            self._tensorboard = EventFileWriter(str(self._tensorboard_folder), max_queue_size=2 * _SHOWN_AT_ONCE)
        values = [
            Summary.Value(tag=f"{row['kind']}/{name}", simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, int | float) and name not in ("env_steps", "wall_s")
        ]
        if not values:
            return
        wall_time = time.time() - self.wall_s + row["wall_s"]
        self._tensorboard.add_event(Event(wall_time=wall_time, step=row["env_steps"], summary=Summary(value=values)))


def _another_runs(path: Path, got: str, expected: str) -> RunRefused:
    return RunRefused(
        "metrics.jsonl is another run's",
        got=f"{path}: {got}",
        expected=f"{expected}, says the checkpoint",
        do="copy the run again",
    )
