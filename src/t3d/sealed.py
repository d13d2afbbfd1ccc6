"""What is read from a run folder, held to be what was written: JSON with a checksum of itself, rows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3d.errors import RunRefused

MAX_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
_SEAL = "sha256"


def checksum(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _checksum_of(content: dict[str, Any]) -> str:
    return checksum(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def seal(content: dict[str, Any]) -> bytes:
    """Return an object as JSON text with its checksum in it.

    Args:
        content: finite numbers, texts, lists and dicts of such.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))
    return (json.dumps({**plain, _SEAL: _checksum_of(plain)}, indent=2) + "\n").encode()


def whole(value: Any, least: int = 0) -> int:
    """Return a whole number that was read from JSON.

    Raises:
        ValueError: it is none, or is below `least` or beyond 64 bits.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise ValueError(f"{str(value)[:100]!r} is not a whole number, {least} or above")
    return value


def finite(value: Any) -> float:
    """Return a number that was read from JSON.

    Raises:
        ValueError: it is none, or not finite.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:100]!r} is not a finite number")
    return float(value)


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities where JSON is read: it has no such numbers.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not a finite number")


def unseal(path: Path) -> dict[str, Any]:
    """Read what `seal` has written.

    Raises:
        RunRefused: there is no such file, it cannot be read, is too large, no JSON object, or not as it was written.
    """
    try:
        content = read(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return opened(path, content)


def read(path: Path) -> bytes:
    """Return the bytes of a file that `opened` may take.

    Raises:
        RunRefused: there is no such file, or it is too large.
        OSError: it cannot be read, which need not be its fault.
    """
    if not path.is_file():
        raise RunRefused("a file of the run is missing", got=f"no {path}", do="name a folder that t3d train has made")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise RunRefused(f"{path.name} is too large", got=f"{path}: {size:,} bytes", expected=f"at most {MAX_BYTES:,}")
    return path.read_bytes()


def opened(path: Path, sealed: bytes) -> dict[str, Any]:
    """Return what was sealed.

    Args:
        path: where it stands, for messages.
        sealed: what `seal` has returned.

    Raises:
        RunRefused: it is no JSON object, or not as it was written.
    """
    try:
        content = json.loads(sealed, parse_constant=refuse_constant)
        if not isinstance(content, dict):
            raise ValueError(f"a JSON {type(content).__name__}, not an object")
        recorded, found = content.pop(_SEAL, None), _checksum_of(content)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if recorded != found:
        raise RunRefused(
            f"{path.name} is not as it was written",
            got=f"{path}: bytes 0 to {len(sealed):,} have the checksum {found}",
            expected=f"the checksum in it, {recorded}",
            do="copy it again; it is a record, not a place to change options",
        )
    return content


def _unreadable(path: Path, error: Exception) -> RunRefused:
    # Not its repr: that of a UnicodeDecodeError is the whole file.
    got = f"{path}: {type(error).__name__}: {error}"
    return RunRefused(f"{path.name} cannot be read", got=got[:1000], do="copy it again")


def lines(path: Path, length: int, begin: int = 0) -> Iterator[bytes]:
    """Yield the lines in the first bytes of a file; one beyond MAX_LINE_BYTES comes in parts.

    Args:
        path: the file; with a length of 0 it need not be there.
        length: how many bytes.
        begin: how many of them to pass over, to the end of a line.
    """
    if length <= begin:
        return
    with path.open("rb") as file:
        file.seek(begin)
        length -= begin
        while length and (line := file.readline(min(length, MAX_LINE_BYTES))):
            length -= len(line)
            yield line


def refuse_another(path: Path, size: int, sha256: str, length: int, recorded: str, by: Path, do: str) -> None:
    """Refuse a file that grows, if it no longer begins as it did when something vouched for it.

    Args:
        path: the file.
        size: its bytes now.
        sha256: the checksum of its first bytes now, of which `length` were vouched for.
        length: how many.
        recorded: their checksum then.
        by: what vouched for them.
        do: the next thing to try.

    Raises:
        RunRefused: they are others, or fewer.
    """
    what, got, expected = "", f"{path}: {size:,} bytes", f"{length:,} or more"
    if size < length:
        what = f"{path.name} is cut short"
    elif sha256 != recorded:
        what = f"{path.name} is not as it was written"
        got, expected = f"{path}: checksum {sha256} of its first {length:,} bytes", recorded[:64]
    if what:
        raise RunRefused(what, got=got, expected=f"{expected}, says {by}", do=do)


def refuse_links(*paths: Path) -> None:
    """Refuse links where a run has files: a stranger's may lead anywhere on this machine.

    Raises:
        RunRefused: one is.
    """
    for path in paths:
        if path.is_symlink():
            raise RunRefused(
                "this is not a run folder as t3d writes it", got=f"a link: {path}", do="look at where it comes from"
            )
