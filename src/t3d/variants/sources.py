"""A caller's algorithm: its class by address, and the checksum of what it is written in.

The address comes from a command line or from a class in hand, never from a file of a run.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from t3d.address import FILE_AND_NAME, importable_from, object_at
from t3d.errors import ConfigRefused, Refused, message_of
from t3d.td3 import TD3
from t3d.variants.contract import OURS, kind_of

UNKNOWN = "unknown"
# Packages whose classes an algorithm may be derived from, or made of, and which are not part of its own text.
_NOT_ITS_OWN = {"t3d", "torch", "builtins"} | sys.stdlib_module_names - {"__main__"}


def class_at(address: str) -> type[TD3]:
    """Return the class at module:Name or path/to/file.py:Name.

    Raises:
        Refused: there is none, it is no algorithm, or what defines it cannot be imported.
    """
    if not all(address.rpartition(":")):
        raise ConfigRefused(
            "this says not where to find the algorithm", got=address, expected="module:Name or path/to/file.py:Name"
        )
    try:
        if not FILE_AND_NAME.fullmatch(address):
            importable_from(Path.cwd())  # as `python -m` does
        found = object_at(address)
    except Refused:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigRefused(
            "the algorithm cannot be imported: its own code raised",
            got=f"{address}: {message_of(error)}",
            expected="a module or file that defines the class, and does nothing else when it is imported",
            do='mend it; what it does as a script belongs under if __name__ == "__main__":',
        ) from error
    if found is None:
        raise ConfigRefused(
            "there is no such algorithm",
            got=address,
            expected="module:Name or path/to/file.py:Name of a class derived from t3d.TD3",
            do="check the name after the colon",
        )
    kind_of(found)
    return found  # type: ignore[no-any-return] # `kind_of` has looked


def source_of(algorithm: type[TD3]) -> str:
    """Return the SHA-256 of a caller's algorithm: of the files of its classes; "" for one of t3d's own.

    Its classes are itself, those that it is derived from, and those of its actor and critic. A class that stands in no
    file, as in a notebook, has its functions' text instead. What these import is not looked at.

    Returns:
        64 hexadecimal digits; "unknown" where nothing that can be read defines it.
    """
    if algorithm in OURS.values():
        return ""
    try:
        texts = dict.fromkeys(text for kind in _own_classes(algorithm) for text in _texts(kind))
    except (OSError, TypeError):  # typed at a prompt
        return UNKNOWN
    digests = (hashlib.sha256(text).digest() for text in texts)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _own_classes(algorithm: type[TD3]) -> Iterator[type]:
    for part in (algorithm, algorithm.actor_class, algorithm.critic_class):
        for kind in part.__mro__:
            if kind.__module__.partition(".")[0] not in _NOT_ITS_OWN:
                yield kind


def _texts(kind: type) -> Iterator[bytes]:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is not None:
        yield Path(file).read_bytes()
        return
    yield kind.__qualname__.encode()
    for name, part in sorted(vars(kind).items()):
        inner = inspect.unwrap(getattr(part, "__func__", getattr(part, "fget", part)))
        if inspect.isfunction(inner):
            yield inspect.getsource(inner).encode()
        elif not name.startswith("__"):
            yield f"{name} = {getattr(part, '__qualname__', part)!r}".encode()
