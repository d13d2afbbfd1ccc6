"""An algorithm's class, handed by name to a process of ours: from a caller's class to its address, and back there.

The address comes from the class that a caller has given, never from a file.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from t3d.errors import ConfigRefused
from t3d.td3 import TD3


def address_of(algorithm: type[TD3]) -> str:
    """Return where another process finds a class: module:Class, or file.py:Class for one of the script that is run.

    Raises:
        ConfigRefused: another process cannot find it, as where it stands within a function.
    """
    module = sys.modules.get(algorithm.__module__)
    where = algorithm.__module__
    if where == "__main__":
        where = str(Path(getattr(module, "__file__", None) or "").resolve())
    named = _within(module, algorithm.__qualname__)
    if named is not algorithm or (algorithm.__module__ == "__main__" and not where.endswith(".py")):
        raise ConfigRefused(
            "another process cannot be given this algorithm",
            got=f"{algorithm.__module__}.{algorithm.__qualname__}",
            expected="a class at the top level of a module, or of the script that is run",
            do="move it there",
        )
    return f"{where}:{algorithm.__qualname__}"


def class_at(address: str) -> type[TD3]:
    """Return the class that `address_of` was given, in the process that was started with its address."""
    where, _, name = address.rpartition(":")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"t3d_algorithm_{Path(where).stem}", where)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    algorithm = _within(module, name)
    assert isinstance(algorithm, type) and issubclass(algorithm, TD3), address
    return algorithm


def _within(module: object, name: str) -> Any:
    return functools.reduce(lambda outer, part: getattr(outer, part, None), name.split("."), module)
