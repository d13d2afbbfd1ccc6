"""The lines of metrics.jsonl: rows as `formats.ROWS` declares them, with the checksum that runs through them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from t3d.errors import printable
from t3d.formats import ROWS, Row, Values

MAX_LINE_BYTES = 1 << 20
_CRC = b', "crc32": "%08x"}\n'
_CRC_MARK = _CRC[: _CRC.index(b"%")]


def as_line(row: Row, crc: int) -> tuple[bytes, int]:
    """Return a row as a line of metrics.jsonl, and the checksum up to there.

    Args:
        row: finite numbers, lists of them, texts or None.
        crc: the checksum up to the row before; 0 for the first.
    """
    row = {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}
    text = json.dumps(row, allow_nan=False)[:-1].encode()
    crc = zlib.crc32(text, crc)
    return text + _CRC % crc, crc


class HalfRow(ValueError):
    """The last line lacks its end: it is still being written, or whoever wrote it is gone."""


class RowReader:
    """Read a metrics.jsonl, from its beginning and on whenever there is more.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0  # behind the last row that was read
        self.crc = 0
        self.run = ""  # its id, once the first row was read

    def rows(self, end: int) -> Iterator[Row]:
        """Yield the rows from where this stands to the byte `end`.

        Raises:
            HalfRow: the last one has no end.
            ValueError, RecursionError: a line is not as it was written, or does not follow on the one before.
            OSError: the file cannot be read.
        """
        if self.position >= end:
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            while self.position < end:
                # However long a file of nothing says it is, its first line is refused.
                line = file.readline(min(MAX_LINE_BYTES, end - self.position))
                if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                    raise HalfRow(f"{len(line):,} bytes without the end of a row")
                row, crc = _row_from(line, self.crc)
                if (row["kind"] == "run") != (self.position == 0):
                    raise ValueError("the first row, and no other, says which run it is of")
                self.run = self.run or row["run"]
                self.position, self.crc = self.position + len(line), crc
                yield row


def _row_from(line: bytes, crc: int) -> tuple[Row, int]:
    text, mark, checksum = line.rpartition(_CRC_MARK)
    crc = zlib.crc32(text, crc)
    if mark + checksum != _CRC % crc:
        raise ValueError(f"not as it was written: {line[:100]!r}")
    row: Row = msgspec.json.decode(text + b"}", type=Values)
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in ROWS:
        raise ValueError(f"a row of no kind: {line[:100]!r}")
    if not all(map(str.isidentifier, row)):
        raise ValueError(f"a name that is none: {line[:100]!r}")
    msgspec.convert(row, ROWS[kind])
    return row, crc
