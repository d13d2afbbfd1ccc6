"""What PyTorch, NumPy and Python keep for the whole process, and an environment may change for its own purposes.

No PyTorch is imported here: a process that has not done so has nothing to keep.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from types import TracebackType
from typing import Any

import numpy as np

_log = logging.getLogger("t3d")


class ProcessState:
    """While entered an environment may change what it likes; afterwards it is as it was.

    It goes on in the folder that it has changed to; nobody else does. It is entered at every step, so it looks at no
    more than it must: NumPy's error state, which takes a microsecond to look at, is kept as it was when this was made.

    Args:
        name: the environment's, for what is said of it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._float_errors = np.geterr()
        self._torch, self._filters = _look(), list(warnings.filters)
        self._folder, self._its_folder = "", ""  # working directories: everybody's, and the environment's own
        self.notes: list[str] = []  # what a reader of the run must know, a sentence each, said once

    def __enter__(self) -> None:
        self._folder = _working_directory()
        if self._its_folder:
            os.chdir(self._its_folder)
        self._torch, self._filters = _look(), list(warnings.filters)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (folder := _working_directory()) != self._folder:
            self._its_folder = folder
            os.chdir(self._folder)
        if np.geterr() != self._float_errors:
            np.seterr(**self._float_errors)
        if warnings.filters != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
            with warnings.catch_warnings():
                pass  # at its end Python notices that they have changed
        if (after := _look()) != self._torch and self._torch:
            self._put_back(after)

    def _put_back(self, after: tuple[Any, ...]) -> None:
        torch = sys.modules["torch"]
        dtype, grad, inference, threads = self._torch
        torch.set_default_dtype(dtype)
        if after[2] != inference:
            torch.inference_mode(inference).__enter__()
        torch.set_grad_enabled(grad)
        if after[3] != threads:
            torch.set_num_threads(threads)
            self._note(f"{self._name} set PyTorch to {after[3]} threads; put back to {threads}")

    def _note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)
            _log.warning("%s", what)


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - at every step, and a Path takes longer
    except OSError:  # somebody has removed it
        return ""


def _look() -> tuple[Any, ...]:
    """Return PyTorch's default dtype, whether it takes gradients, whether it only infers, and its threads."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ()
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
    )
