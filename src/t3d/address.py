"""Classes and functions by name: from what a caller has in hand to where another process finds it, and back there.

An address comes from a caller's object or from a command line, never from a file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from t3d.errors import ConfigRefused, EnvRefused

FILE_AND_NAME = re.compile(r"(?P<file>.+\.py):(?P<name>[\w.]+)")
_importing: list[str] = []  # scripts that are being imported for what they define
_PREFIX = "t3d_file_"  # of the names of modules that are files


def address_of(thing: Callable[..., Any]) -> str:
    """Return where another process finds a class or function: module:Name, or file.py:Name for one of the main script.

    Raises:
        ConfigRefused: another process cannot find it, as where it stands within a function.
    """
    where, name = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "")
    module = sys.modules.get(where)
    if where == "__main__" or where.startswith(_PREFIX):
        where = str(Path(getattr(module, "__file__", None) or "").resolve())
    found = within(module, name) if name else None
    if found is not thing or (module is sys.modules.get("__main__") and not where.endswith(".py")):
        raise ConfigRefused(
            "another process cannot find this class or function",
            got=in_words(thing),
            expected="one at the top level of a module, or of the script that is run",
            do="move it there",
        )
    return f"{where}:{name}"


def in_words(thing: Callable[..., Any]) -> str:
    """Return how a class or function is called, whether another process finds it or not."""
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def object_at(address: str) -> Any:
    """Return what stands at module:Name or file.py:Name; None where the module or file has no such name.

    Raises:
        EnvRefused: there is no such file.
        Exception: what the module or file raises when it is imported.
    """
    return within(module_at(address), address.rpartition(":")[2])


def module_at(address: str) -> ModuleType:
    """Return the module or file of an address.

    Raises:
        As `object_at`.
    """
    where = address.rpartition(":")[0]
    return _module_in(where) if FILE_AND_NAME.fullmatch(address) else importlib.import_module(where)


class _Text(SourceFileLoader):
    """Runs a file's text, whose checksum is looked at, never bytecode beside it; and leaves none there."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@functools.cache  # by the path as it was given: the working directory may be another one later
def _module_in(file: str) -> ModuleType:
    path = Path(file).resolve()
    if not path.is_file():
        raise EnvRefused("there is no such file", got=str(path), do="check the path before the colon")
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]  # files of two folders may have one name
    name = f"{_PREFIX}{path.stem}_{mark}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Text(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    importable_from(path.parent)  # as `python file.py` does: a file may import its neighbours
    with _noted(file):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _noted(file: str) -> Iterator[None]:
    _importing.append(file)
    try:
        yield
    finally:
        _importing.pop()


def importable_from(folder: Path) -> None:
    """Let modules in a folder be imported, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def refuse_while_imported() -> None:
    """Refuse to train while a script is imported for what it defines: the training itself belongs behind a guard.

    Raises:
        ConfigRefused: one is.
    """
    if _importing:
        raise ConfigRefused(
            "this script would train again in every process that imports it for what it defines",
            got=_importing[-1],
            do='put the call of t3d.train under if __name__ == "__main__":',
        )


def within(module: object, name: str) -> Any:
    """Return what a dotted name means within a module; None if it is not there."""
    return functools.reduce(lambda outer, part: getattr(outer, part, None), name.split("."), module)
