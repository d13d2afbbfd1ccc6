"""The numbers of metrics.jsonl as TensorBoard events, where it is installed."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from typing import Any

from t3d.formats import Row

_log = logging.getLogger("t3d")


class TensorBoard:
    """Write rows as they come, in a file of this process's own.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._works = importlib.util.find_spec("tensorboard") is not None

    def resumed(self, env_steps: int) -> None:
        """Let TensorBoard forget what an earlier process has written of later steps: they are computed again."""
        if self._works and self._folder.exists():
            from tensorboard.compat.proto.event_pb2 import SessionLog

            self._write(env_steps + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Row) -> None:
        """Write the numbers of a row that has just been made."""
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        if not self._works or len(numbers) == 2:  # env_steps and wall_s alone
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        del numbers["env_steps"], numbers["wall_s"]
        values = [Summary.Value(tag=f"{row['kind']}/{name}", simple_value=x) for name, x in numbers.items()]
        self._write(row["env_steps"], summary=Summary(value=values))

    def _write(self, env_steps: int, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        try:
            self._writer = self._writer or EventFileWriter(str(self._folder))
            self._writer.add_event(Event(wall_time=time.time(), step=env_steps, **what))
        except OSError as error:  # of this event, or of one before, which a thread of its own has written
            self.give_up()
            _log.warning("TensorBoard's files end here: %s", error)

    def give_up(self) -> None:
        """Write no more; the run goes on without."""
        self._works, self._writer = False, None

    def close(self) -> None:
        """Close the file; a row written later begins another."""
        try:
            if self._writer is not None:
                self._writer.flush()  # closing alone does not say what went wrong before
                self._writer.close()
        except OSError as error:
            self._works = False
            _log.warning("TensorBoard's files are not complete: %s", error)
        self._writer = None
