"""Small files with a checksum of themselves: written so that any change shows, and read as what `formats.py` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from t3d.errors import ConfigRefused, FormatRefused, RunRefused
from t3d.formats import FORMAT, PolicyInfo, Record

MAX_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 16  # of a policy
_SEAL = ',\n  "sha256": "%s"\n}\n'
_POLICY_MARK, _POLICY_END = ', "sha256": "', '"}'
_SEAL_MARK = _SEAL[: _SEAL.index("%")].encode()

R = TypeVar("R", bound=Record)


def checksum(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def encode(record: Record) -> bytes:
    """Return a record as JSON text, with the checksum of that text as its last field."""
    text = json.dumps(msgspec.to_builtins(record), allow_nan=False, indent=2)[:-2].encode()
    return text + (_SEAL % checksum(text)).encode()


def read(path: Path, kind: type[R]) -> R:
    """Read what `encode` has written.

    Args:
        path: the file.
        kind: what it is.

    Raises:
        RunRefused: there is no such file, it is too large, not as it was written, or says what cannot be.
        FormatRefused: it has a format that this version does not know.
        OSError: it cannot be read, which need not be its fault.
    """
    if not path.is_file():
        raise RunRefused("a file of the run is missing", got=f"no {path}", do="name a folder that t3d train has made")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise RunRefused(f"{path.name} is too large", got=f"{path}: {size:,} bytes", expected=f"at most {MAX_BYTES:,}")
    content = path.read_bytes()
    text, _, seal = content.rpartition(_SEAL_MARK)
    try:
        parsed = msgspec.json.decode(text + b"}")
        refuse_other_format(path, parsed, kind)
        if _SEAL_MARK + seal != (_SEAL % checksum(text)).encode():
            raise RunRefused(
                f"{path.name} is not as it was written",
                got=f"{path}: bytes 0 to {len(text):,} have the checksum {checksum(text)}",
                expected="the checksum at its end",
                do="copy it again; it is a record, not a place to change options",
            )
        return decode(parsed, kind)
    except (ValueError, RecursionError, ConfigRefused) as error:
        got = f"{path}: {type(error).__name__}: {error}"
        do = "copy it again; or use the version of t3d that wrote it"
        raise RunRefused(f"{path.name} cannot be read", got=got[:1000], do=do) from error


def refuse_other_format(path: Path, parsed: Any, kind: type[Record]) -> None:
    """Refuse a file of another version, where its kind names its format.

    Raises:
        FormatRefused: with its format.
    """
    if "format" in kind.__struct_fields__ and isinstance(parsed, dict) and (version := parsed.get("format")) != FORMAT:
        raise FormatRefused(
            "this is of a format that this version of t3d does not read",
            got=f"{path}: format {str(version)[:100]}",
            expected=f"format {FORMAT}",
            do="use the version of t3d that wrote it",
        )


def decode(parsed: Any, kind: type[R]) -> R:
    """Return what parsed JSON says.

    Raises:
        ValueError, ConfigRefused: it says what cannot be, or more or less than this version knows.
    """
    record = msgspec.convert(parsed, kind)
    # A configuration's missing options would be taken for the defaults, and unknown ones overlooked.
    if json.dumps(msgspec.to_builtins(record), sort_keys=True) != json.dumps(parsed, sort_keys=True):
        raise ValueError("a field is missing or unknown, or not written as this version does")
    return record


class PolicyHeader(NamedTuple):
    """What stands before the tensors of a policy's .safetensors."""

    content: bytes
    info: PolicyInfo
    description: bytes  # what the checksum is of, before the tensors
    sha256: str


def describe_policy(info: PolicyInfo, sha256_of: Callable[[bytes], str]) -> str:
    """Return the one entry of a policy's metadata: with two, equal policies would not have equal bytes.

    Args:
        info: what it says.
        sha256_of: from the description to its checksum and that of the tensors.
    """
    text = json.dumps(msgspec.to_builtins(info), allow_nan=False)[:-1]
    return text + _POLICY_MARK + sha256_of(text.encode()) + _POLICY_END


def read_policy_header(path: Path, file: BinaryIO) -> PolicyHeader:
    """Read what a policy says of itself; the file then stands before its tensors.

    Raises:
        RunRefused: it is no policy of this format, or says what cannot be.
        OSError: it cannot be read.
    """
    try:
        size = file.read(8)
        length = int.from_bytes(size, "little")
        if len(size) < 8 or length > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length:,} bytes, at most {_MAX_HEADER_BYTES:,} are read")
        header = file.read(length)
        text = msgspec.json.decode(header)["__metadata__"]["t3d"]
        # No checksum is of its own end, nor of the padding.
        if not (text.endswith(_POLICY_END) and header.rstrip(b" ").endswith(b"}")):
            raise ValueError("the header does not end as it was written")
        description, _, sha256 = text.rpartition(_POLICY_MARK)
        parsed = msgspec.json.decode(description + "}")
        refuse_other_format(path, parsed, PolicyInfo)
        info = decode(parsed, PolicyInfo)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RunRefused(
            "this is not a policy as t3d writes it now",
            got=f"{path}: {type(error).__name__}: {str(error)[:500]}",
            expected=f"a .safetensors of t3d, format {FORMAT}",
            do="copy it again; or use the version of t3d that wrote it",
        ) from error
    return PolicyHeader(size + header, info, description.encode(), sha256[: -len(_POLICY_END)])


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
