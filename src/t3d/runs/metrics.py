"""metrics.jsonl, one object a line, and the same numbers as TensorBoard events where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from t3d import sealed
from t3d.errors import RunRefused
from t3d.runs import disk
from t3d.sealed import finite, whole

Row = dict[str, Any]
# What is shown at once of rows that were written before: a tenth of a millisecond each, and a signal must not wait.
_SHOWN_AT_ONCE = 1_000

_log = logging.getLogger("t3d")


def last_env_steps(folder: Path) -> int:
    """Return the env steps of the last whole row in a run's metrics.jsonl; 0 if there is none.

    Raises:
        RunRefused: it is no row.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        # A line and the half of one behind it, however long the file is.
        file.seek(max(0, path.stat().st_size - 2 * sealed.MAX_LINE_BYTES))
        end = file.read(2 * sealed.MAX_LINE_BYTES)
    rows, newline, _ = end.rpartition(b"\n")
    try:
        if not newline and len(end) >= sealed.MAX_LINE_BYTES:
            raise ValueError(f"no end of a row in its last {len(end):,} bytes")
        return whole(_row(rows.rpartition(b"\n")[2])["env_steps"]) if newline else 0
    except (ValueError, OverflowError, RecursionError) as error:
        raise RunRefused("metrics.jsonl cannot be read", got=f"{path}, last row: {error!r}") from error


class Metrics:
    """Append rows to a run's metrics.jsonl as they happen; the system has each when `write` returns.

    A row that cannot be written waits, and is tried again with the next one: none is lost while the run lives. What a
    checkpoint has been committed with stands in metrics.copy, too: no row could be computed again.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.damage = ""  # what was not as it was written when the file was opened, and is to be mended
        self._path, self._copy = folder / "metrics.jsonl", folder / "metrics.copy"
        self._sound = self._path  # the one of them that is as it was written
        self._copied = True  # whether there has to be a copy
        self._length = 0
        self._sha256 = hashlib.sha256()
        self._waiting = b""
        self._flushed = (0, self._sha256.copy())  # length and checksum of what has reached the disk for certain
        self._unflushed = b""
        self._began = time.monotonic()
        self._tensorboard: Any = None
        self._shown = importlib.util.find_spec("tensorboard") is not None  # and until its files cannot be written
        self._troubled = False  # rows wait, and it has been said
        self._shown_to = 0  # the byte of the file up to which its rows are in TensorBoard's
        self._tensorboard_folder = folder / "tensorboard"

    @property
    def wall_s(self) -> float:
        """Seconds since the run began, those in which it did not run left out."""
        return time.monotonic() - self._began

    def facts(self) -> dict[str, Any]:
        """Return what a manifest must say of the file as it now is."""
        return {"bytes": self._length, "sha256": self._sha256.hexdigest(), "wall_s": self.wall_s, "copied": True}

    def open(self, facts: dict[str, Any], manifest: Path) -> None:
        """Stand where a manifest says the file stood. Nothing on disk is changed.

        Args:
            facts: what `facts` returned then.
            manifest: where that is recorded.

        Raises:
            RunRefused: what it held then is not there any more.
            ValueError: the manifest says what cannot be.
        """
        length, wall_s = whole(facts["bytes"]), finite(facts["wall_s"])
        self.damage, self._sound = "", self._path
        self._copied = "copied" in facts  # not in the first format
        try:
            sha256 = _checked(self._path, length, str(facts["sha256"]), manifest)
            if self._copied and _checksum(self._copy, length) != sha256.digest():
                self.damage = f"{self._copy.name} is not as it was written, or gone"
        except RunRefused as error:
            try:
                sha256 = _checked(self._copy, length, str(facts["sha256"]), manifest)
            except RunRefused:
                raise error from None
            self.damage, self._sound = error.what_and_got(), self._copy
        self._length, self._sha256, self._began = length, sha256, time.monotonic() - wall_s
        self._flushed = (length, sha256.copy())

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of a kind up to the position where this stands."""
        if not self._length:
            return []
        found: list[Row] = [json.loads(line) for line in _beginning(self._path, self._length).splitlines()]
        return [row for row in found if row["kind"] == kind]

    def cut(self, *, begin_copy: bool) -> None:
        """Remove the rows behind the position that was opened. Mend the file, or its copy, if it is not as it was.

        Args:
            begin_copy: make the copy if there is none, as in a run of the first format.
        """
        for path in (self._path, self._copy):
            if path == self._copy and not (self._copied or begin_copy):
                continue
            if _checksum(path, self._length) != self._sha256.digest():
                disk.replace(path, _beginning(self._sound, self._length))
            elif path.exists() and path.stat().st_size > self._length:
                disk.cut(path, self._length)

    def show_if_gone(self) -> None:
        """Write TensorBoard's events anew if somebody has removed them."""
        if not self._tensorboard_folder.exists():
            self.show_anew()
            self.show_all()

    def show_anew(self) -> None:
        """Remove TensorBoard's events. They are written anew, some with each new row: training has waited enough."""
        if self._tensorboard_folder.exists():
            disk.remove(self._tensorboard_folder)
        self._shown_to = 0

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
        row: Row = {"kind": kind, "env_steps": env_steps, "wall_s": round(self.wall_s, 3), **fields}
        self._waiting += (json.dumps(row, allow_nan=False) + "\n").encode()
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

    def flush(self) -> None:
        """Return once every row has reached the disk, twice.

        Raises:
            OSError: it cannot.
        """
        self._write_waiting()
        if not self._unflushed:
            return
        try:
            disk.flush(self._path)
            disk.extend(self._copy, self._flushed[0], self._unflushed)
            disk.flush(self._copy)
            if not self._flushed[0]:
                disk.flush(self._path.parent)  # their names
        except OSError:
            # The system may have dropped what it was to flush: write it again.
            (self._length, self._sha256), self._waiting = self._flushed, self._unflushed
            self._flushed, self._unflushed = (self._length, self._sha256.copy()), b""
            raise
        self._flushed, self._unflushed = (self._length, self._sha256.copy()), b""

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        disk.extend(self._path, self._length, self._waiting)
        self._length += len(self._waiting)
        self._sha256.update(self._waiting)
        self._unflushed += self._waiting
        self._waiting = b""

    def _show(self, most: int) -> None:
        """Show the next rows of the file."""
        if not self._shown:
            return
        try:
            for line in itertools.islice(sealed.lines(self._path, self._length, self._shown_to), most):
                self._shown_to += len(line)
                self._add(json.loads(line))
        except OSError as error:
            self._shown, self._tensorboard = False, None
            _log.warning("TensorBoard's files end here; once removed, t3d resume writes them anew: %s", error)

    def _add(self, row: Row) -> None:
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


def _checked(path: Path, length: int, recorded: str, manifest: Path) -> hashlib._Hash:
    """Return the checksum of the first bytes of a file of rows.

    Raises:
        RunRefused: they are not what the manifest says of them, or not there.
    """
    size = path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    sha256 = hashlib.sha256()
    for line in sealed.lines(path, length if length <= size else 0):
        sha256.update(line)
        # Here, so that a file of nothing is not read to its end, however long it says it is.
        try:
            _row(line)
        except (ValueError, OverflowError, RecursionError) as error:
            raise RunRefused(f"{path.name} is not as it was written", got=f"{path}: {str(error)[:200]}") from error
    sealed.refuse_another(path, size, sha256.hexdigest(), length, recorded, by=manifest, do="copy the run again")
    return sha256


def _checksum(path: Path, length: int) -> bytes:
    is_there = path.is_file() and not path.is_symlink()
    return hashlib.sha256(_beginning(path, length) if is_there else b"").digest()


def _beginning(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _row(line: bytes) -> Row:
    """Read a row back.

    Raises:
        ValueError: it is none that `write` has written.
    """
    row = json.loads(line, parse_constant=sealed.refuse_constant)
    if not isinstance(row, dict) or not all(map(str.isidentifier, (str(row.get("kind")), *row))):
        raise ValueError(f"no row of metrics.jsonl: {line[:100]!r}")
    whole(row.get("env_steps"))
    finite(row.get("wall_s"))
    if not all(map(math.isfinite, (value for value in row.values() if isinstance(value, int | float)))):
        raise ValueError(f"a row with a number that is not finite: {line[:100]!r}")
    return row
