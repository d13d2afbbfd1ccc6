"""A model of a disk whose power is cut: what was flushed is there afterwards, of the rest any part is.

Files and folders are flushed each for themselves, as POSIX has it: flushing a file does not flush its name. Of a
file's unflushed writes some are there, whole, in part, as zeros or as garbage; of a folder's unflushed new, changed
and removed names some are there, applied in their order.
"""

import errno
import os
from pathlib import Path

from crash_runs import Disk


class File:
    def __init__(self, content=b""):
        self.flushed = content
        self.pending = []  # (offset, bytes), or (length, None) for a cut

    def flush(self):
        self.flushed, self.pending = self.now(self.pending), []

    def lose(self):
        """After a flush that failed the system takes the rest for written, and never writes it."""
        self.pending = []

    def now(self, changes):
        content = bytearray(self.flushed)
        for at, data in changes:
            if data is None:
                content[at:] = bytes(max(0, at - len(content)))
            else:
                content += bytes(max(0, at - len(content)))
                content[at : at + len(data)] = data
        return bytes(content)

    def left(self, rng):
        return self.now([torn(change, rng) for change in some(self.pending, rng)])


class Folder:
    def __init__(self):
        self.flushed, self.names = {}, {}
        self.pending = []  # {name: what it now stands for, or None}, one a call

    def change(self, names):
        self.pending.append(names)
        self.names = applied(self.names, [names])

    def flush(self):
        self.flushed, self.pending = dict(self.names), []

    def lose(self):
        """Names are in the file system's journal: they wait for the next flush."""

    def left(self, rng):
        return applied(self.flushed, some(self.pending, rng))


def applied(names, changes):
    names = dict(names)
    for change in changes:
        names.update(change)
    return {name: what for name, what in names.items() if what is not None}


def some(changes, rng):
    """Return nothing, everything, a beginning, or any of the changes, in their order."""
    kind = rng.integers(5)
    if kind < 2:
        return changes if kind else []
    if kind == 2:
        return changes[: rng.integers(len(changes) + 1)]
    return [change for change in changes if rng.random() < 0.5]


def torn(change, rng):
    """Return a change to a file as a cut of the power may leave it."""
    at, data = change
    if data is None or rng.random() < 0.4:
        return change
    kind = rng.integers(3)
    if kind == 0:
        return at, data[: rng.integers(len(data) + 1)]
    return at, bytes(len(data)) if kind == 1 else rng.bytes(len(data))


class Recorder(Disk):
    """A working disk that notes every call that changes it.

    Args:
        failing_flush: the number of the flush that fails, if one does, counted from 1.
    """

    def __init__(self, failing_flush=0):
        super().__init__()
        self._failing_flush = failing_flush
        self.flushes = 0
        self.calls_made = []
        self._paths = {}

    def committed(self, env_steps):
        self.calls_made.append(("committed", env_steps))

    def do(self, name, arguments):
        if name == "open":
            path = Path(arguments[0])
            new = not path.exists()
            number = os.open(*arguments)
            self._paths[number] = path
            if new:
                self.calls_made.append(("create", path))
            return number
        if name == "write":
            number, data = arguments
            at = os.lseek(number, 0, os.SEEK_CUR)
            self.calls_made.append(("write", self._paths[number], at, bytes(data)))
        elif name == "ftruncate":
            self.calls_made.append(("cut", self._paths[arguments[0]], arguments[1]))
        elif name == "fsync":
            self.flushes += 1
            if self.flushes == self._failing_flush:
                self.calls_made.append(("lose", self._paths[arguments[0]]))
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.calls_made.append(("flush", self._paths[arguments[0]]))
        else:
            done = super().do(name, arguments)
            self.calls_made.append((name, *map(Path, arguments[: 2 if name == "replace" else 1])))
            return done
        return super().do(name, arguments)


class Model:
    """The disk as the calls made it, and as it may be after a cut.

    Args:
        root: a folder; what is in it now has reached the disk.
    """

    def __init__(self, root):
        self._root, self._top = root, Folder()
        for path in sorted(root.rglob("*")):
            above = self._at(path.parent)
            above.change({path.name: Folder() if path.is_dir() else File(path.read_bytes())})
            above.flush()

    def _at(self, path):
        here = self._top
        for part in path.relative_to(self._root).parts:
            here = here.names[part]
        return here

    def apply(self, name, *rest):
        """Make a recorded call."""
        if name == "committed":
            return
        path, *rest = rest
        if name in ("flush", "lose"):
            getattr(self._at(path), name)()
        elif name == "write":
            self._at(path).pending.append(tuple(rest))
        elif name == "cut":
            self._at(path).pending.append((rest[0], None))
        elif name == "replace":
            (new,) = rest
            assert new.parent == path.parent, "the model knows one folder a rename"
            self._at(path.parent).change({path.name: None, new.name: self._at(path)})
        else:
            made = {"create": File, "mkdir": Folder, "unlink": lambda: None, "rmdir": lambda: None}[name]()
            self._at(path.parent).change({path.name: made})

    def leave(self, there, rng, folder=None):
        """Make what the cut leaves, in a new folder."""
        there.mkdir()
        for name, what in (folder or self._top).left(rng).items():
            if isinstance(what, Folder):
                self.leave(there / name, rng, what)
            else:
                (there / name).write_bytes(what.left(rng))
