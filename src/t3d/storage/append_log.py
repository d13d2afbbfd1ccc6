"""A file that only grows, how long it is and what its checksum is: metrics.jsonl, and each segment of the replay."""

from __future__ import annotations

import hashlib
from pathlib import Path

from t3d.formats import FileState
from t3d.storage import disk


class AppendLog:
    """Append to a file. What failed has not happened: the same bytes can be given again.

    Args:
        path: the file; made by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._known: int | None = None  # which file it is, once something was appended
        self._sha256 = hashlib.sha256()
        self._flushed = (0, self._sha256.copy())  # length and checksum of what has reached the disk for certain

    @property
    def state(self) -> FileState:
        """What a manifest must say of the file as it now is."""
        return FileState(self.length, self._sha256.hexdigest())

    def read(self, length: int) -> bytes:
        """Return the first `length` bytes of the file, or all it has, and stand behind them. Nothing is changed.

        Raises:
            OSError: it cannot be read.
        """
        content = b""
        if length and self.path.is_file() and not self.path.is_symlink():
            with self.path.open("rb") as file:
                content = file.read(length)
        self.length, self._sha256 = len(content), hashlib.sha256(content)
        self._flushed = (self.length, self._sha256.copy())
        return content

    def append(self, content: bytes) -> None:
        """Write behind what stands there. The system has it then; only `flush` brings it to the disk.

        Raises:
            OSError: it could not be written; nothing of it counts.
        """
        self._known = disk.extend(self.path, self.length, content, self._known)
        self.length += len(content)
        self._sha256.update(content)

    def flush(self) -> None:
        """Return once everything has reached the disk.

        Raises:
            OSError: it could not. This stands where it stood at the last flush: the system may have dropped what it
                was to flush, and flushing once more would say that all is well.
        """
        try:
            disk.flush(self.path)
            if not self._flushed[0]:
                disk.flush(self.path.parent)  # its name
        except OSError:
            self.length, self._sha256 = self._flushed[0], self._flushed[1].copy()
            raise
        self._flushed = (self.length, self._sha256.copy())

    def cut(self) -> None:
        """Remove what lies behind the place where this stands."""
        if self.path.exists() and self.path.stat().st_size > self.length:
            disk.cut(self.path, self.length)
