"""The only file that changes a run on disk: every write, flush, rename and removal goes through here.

So a test can make the N-th of them fail, for every N.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Without O_NOFOLLOW (Windows) there are no symlinks to be followed by accident either.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def create(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk; what a failed attempt began is removed.

    Raises:
        OSError: it exists, or could not be written.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666)
    try:
        try:
            _write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def replace(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for a half-written one.

    Raises:
        OSError: it could not be written; what stood there before still does.
    """
    beside = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    create(beside, content)
    rename(beside, path)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder another name, and flush the folder that says so."""
    os.replace(old, new)
    flush(new.parent)


def extend(path: Path, length: int, content: bytes, known: int | None = None) -> int:
    """Write behind the first `length` bytes of a file, and nothing else behind those; made if need be. Not flushed.

    Args:
        path: the file.
        length: of what stands there.
        content: what comes behind it.
        known: what this returned for it before, None at first.

    Returns:
        Which file it is, whatever its name.

    Raises:
        OSError: it could not be written, and the file is cut back to `length` if that is possible; or it is shorter
            than that, or another one, since somebody has cut, removed or replaced it.
    """
    file = os.open(path, os.O_WRONLY | (0 if length else os.O_CREAT) | _NO_LINKS, 0o666)
    try:
        now = os.fstat(file)
        if known not in (None, now.st_ino):
            raise OSError(f"{path} is not the file that was written before: somebody has put another in its place")
        refuse_shorter(path, now.st_size, length)
        if now.st_size > length:
            os.ftruncate(file, length)
        os.lseek(file, length, os.SEEK_SET)
        try:
            _write_all(file, content)
        except OSError:
            os.ftruncate(file, length)
            raise
    finally:
        os.close(file)
    return now.st_ino


def refuse_shorter(path: Path, size: int, length: int) -> None:
    """Refuse a file that has lost what was written into it: what is appended would stand behind zeros.

    Raises:
        OSError: its size is below the length that it had.
    """
    if size < length:
        raise OSError(f"{path} has {size:,} bytes, where {length:,} were written: somebody has cut it")


def cut(path: Path, length: int) -> None:
    """Shorten a file."""
    file = os.open(path, os.O_WRONLY | _NO_LINKS)
    try:
        os.ftruncate(file, length)
        os.fsync(file)
    finally:
        os.close(file)


def flush(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, has reached the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for folders
    file = os.open(path, os.O_RDONLY | _NO_LINKS)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; no error if it is there."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        make_new_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise
        # Another run, begun at the same moment, has just made it: several seeds share the folders above theirs.
        flush(path.parent)
        return
    try:
        flush(path.parent)
    except OSError:
        # Whoever tries again would find it there, and take it for flushed.
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise


def make_new_folder(path: Path) -> None:
    """Make a folder. Not flushed.

    Raises:
        FileExistsError: something of this name is there.
    """
    os.mkdir(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with the files and folders in it; a link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        for inside in sorted(path.iterdir()):
            remove(inside)
        os.rmdir(path)
    else:
        os.unlink(path)


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
