"""Follow runs while they are trained, or send what finished ones have left."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from t3d.errors import ConfigRefused, RunRefused, Stopped, T3DError
from t3d.formats import RunRecord
from t3d.runs.run_folder import read_config
from t3d.runs.signals import Signals
from t3d.runs.tail import Tail
from t3d.storage import disk
from t3d.storage.lock import Lock, is_held
from t3d.tracking import Keys, Sink, key_of
from t3d.tracking.mlflow import MlflowRun
from t3d.tracking.wandb import WandbRun

TRACKERS: dict[str, Callable[[RunRecord, Path], Sink]] = {"wandb": WandbRun, "mlflow": MlflowRun}
FOLDER = "tracking"  # in a run's: who tracks it
_LOOK_S = 1.0
_LEAVES_S = 60  # a tracker that has lost its run sends the last rows and leaves
_QUIET_S = 3.0  # nobody trains: between two seeds of a parent folder there may be a moment without one
# What stands beside the numbers, once a run has ended.
_FILES = ("video/best.mp4", "video/last.mp4", "report.html")


class _Followed:
    """One run and its tracker."""

    def __init__(self, path: Path, to: str) -> None:
        self.path = path
        self._lock = _only_one(path / FOLDER / to)
        self._sink = TRACKERS[to](read_config(path), path)
        self._sent = self._sink.sent()
        self._tail, self._keys = Tail(path / "metrics.jsonl"), Keys()

    def send_new(self) -> int:
        """Send what has not been sent, and return how many rows that were."""
        rows = self._tail.rows()
        if rows is None:  # the file begins anew
            self._keys = Keys()
            if (rows := self._tail.rows()) is None:
                raise RunRefused(
                    "a row cannot be read", got=str(self._tail.path), do="t3d resume RUN reports and mends it"
                )
        keyed = [(self._keys.of(row), row) for row in rows]
        new = [(key, row) for key, row in keyed if key not in self._sent]
        if new:
            self._sink.send(new)
            self._sent |= {key for key, _ in new}
        return len(new)

    def close(self) -> None:
        """Send films and pages that are there, and end."""
        try:
            self.send_new()
            for name in _FILES:
                path = self.path / name
                if path.is_file() and not path.is_symlink():
                    seen = path.stat()
                    if (key := key_of(f"{name}:{seen.st_size}:{seen.st_mtime_ns}")) not in self._sent:
                        self._sink.keep(key, name, path)
            self._sink.close()
        finally:
            self._lock.close()


def _only_one(folder: Path) -> Lock:
    disk.make_folder(folder)
    until = time.monotonic() + _LEAVES_S
    while True:
        try:
            return Lock(folder)
        except RunRefused:
            if time.monotonic() > until:
                raise RunRefused(
                    "another process tracks this run there", got=str(folder), do="wait until it has ended"
                ) from None
            time.sleep(_LOOK_S)


def follow(parent: Path, to: str, ended: Callable[[], bool] | None = None) -> int:
    """Send the rows of a run, or of every run below a folder, as long as any of them is trained.

    Args:
        parent: a run folder, or one that holds some; it need not be there yet where `ended` is given.
        to: one of TRACKERS.
        ended: whether there will be no more; None asks the runs' locks.

    Returns:
        How many rows were sent.

    Raises:
        ConfigRefused: the tracker cannot be used.
        RunRefused: there is no run.
        Stopped: a signal asked for it; what was read until then is sent.
    """
    refuse_without(to)
    followed: dict[Path, _Followed] = {}
    count, quiet_since = 0, time.monotonic()
    with Signals() as signals:
        try:
            while True:
                over = ended is not None and ended()
                for path in _runs_in(parent):
                    if path not in followed:
                        followed[path] = _Followed(path, to)
                new = sum(run.send_new() for run in followed.values())
                count += new
                if new or any(is_held(path) for path in followed):
                    quiet_since = time.monotonic()
                if over or (ended is None and time.monotonic() - quiet_since > (_QUIET_S if len(followed) != 1 else 0)):
                    break
                signals.stop_here()
                time.sleep(_LOOK_S)
        finally:
            for run in followed.values():
                run.close()
    if not followed:
        raise RunRefused("there is no run here", got=str(parent), expected="a run folder, or one that holds some")
    return count


def refuse_without(to: str) -> None:
    """Refuse a tracker whose library is not installed.

    Raises:
        ConfigRefused: it is not.
    """
    if importlib.util.find_spec(to) is None:
        raise ConfigRefused(f"tracking by {to} needs {to}", got="it is not installed", do=f"pip install 't3d[{to}]'")


def _runs_in(parent: Path) -> list[Path]:
    if (parent / "config.json").is_file():
        return [parent]
    return sorted(path.parent for path in parent.glob("*/config.json"))


def main(arguments: Sequence[str]) -> int:
    """Track what a command trains, from a process beside it, until standard input ends; return an exit code."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        follow(Path(arguments[0]), arguments[1], ended.is_set)
    except T3DError as error:
        print(f"tracking: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
