"""One process a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import time
from pathlib import Path

import psutil

from t3d.errors import RunRefused

# The system knows that this process holds a lock, but would let the same process take it twice.
_held: set[Path] = set()
_WAIT_S = 0.02


class Lock:
    """Hold a run folder until closed, or until this process ends however it ends.

    The lock is the process's own: a forked child does not hold it on, and what a killed process leaves is a file
    that nobody holds. The file says who holds it, for people.

    Args:
        folder: the run folder.

    Raises:
        RunRefused: another process holds it, or this one does already.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.resolve() / "lock"
        if self._path in _held:
            raise _taken(folder, "this process itself")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file: int | None = os.open(self._path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        except OSError as error:
            raise RunRefused(
                "the run folder cannot be locked", got=str(error), do="make room, or give --out a place to write to"
            ) from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise RunRefused("the run's lock is no plain file", got=str(self._path), do="look at where it comes from")
        try:
            _lock(self._file)
        except OSError:
            holder = os.read(self._file, 200).decode(errors="replace").strip()
            os.close(self._file)
            raise _taken(folder, holder or "a process that has just begun") from None
        _held.add(self._path)
        self._process = os.getpid()
        with contextlib.suppress(OSError):  # a full disk keeps nobody from holding it
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that holds the folder."""
        return os.getpid() != self._process

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None and not self.forked:
            _held.discard(self._path)
            with contextlib.suppress(OSError):  # a name in there holds nothing
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def is_held(folder: Path) -> bool:
    """Return whether somebody seems to hold a run folder, without a try at its lock, which would be in somebody's way.

    The file says so, and whoever was killed could not change that: where its process was of this machine, it must live.
    """
    try:
        with (folder / "lock").open(encoding="utf-8", errors="replace") as file:
            words = file.read(200).split()
    except OSError:
        return False
    if len(words) != len(("process", "number", "on", "host")) or not words[1].isdigit():
        return False
    return words[3] != socket.gethostname() or psutil.pid_exists(int(words[1]))


class Turn:
    """A file that one process at a time has, while others wait; whoever is killed has it no longer.

    Args:
        path: the file, made if need be; held open as long as this lives.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)

    def acquire(self) -> bool:
        """Return once it is this process's."""
        while True:
            try:
                _lock(self._file)
                return True
            except OSError:
                time.sleep(_WAIT_S)

    def release(self) -> None:
        """Let go of it."""
        _unlock(self._file)


class OpenFolder:
    """A folder that is held open, and so can be told from another one of its name.

    Args:
        path: its name now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Windows has no such descriptors; there a folder in use cannot be renamed either.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if hasattr(os, "O_DIRECTORY") else None

    def place(self) -> Path:
        """Return where the folder is: the name that it was opened by as long as that leads to it.

        Raises:
            OSError: it was removed, or moved where this system cannot say.
        """
        if self._descriptor is None:
            return self._path
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return self._path
        link = self.lasting_path
        place = self._path if link == self._path else link.readlink()
        if place == self._path or not os.path.samestat(place.stat(), os.fstat(self._descriptor)):
            raise OSError(f"{self._path} is no longer the folder that this run has opened")
        return place

    @property
    def lasting_path(self) -> Path:
        """A path that leads to the folder whatever it is called, as long as this is open; Linux alone has one."""
        link = Path(f"/proc/self/fd/{self._descriptor}")
        return link if link.exists() else self._path

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _taken(folder: Path, holder: str) -> RunRefused:
    return RunRefused(
        "another process trains in this run folder",
        got=f"{folder}, held by {holder}",
        do="wait until it has ended, or give another --out",
    )


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        # A byte far behind the text, so that the text can still be read.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

    def _unlock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        # Not flock: that belongs to the open file, which a forked worker would keep after its parent's death.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_UN)
