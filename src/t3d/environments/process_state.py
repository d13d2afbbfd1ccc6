"""What PyTorch, NumPy and Python keep for the whole process, and an environment may change for its own purposes."""

from __future__ import annotations

import logging
import warnings
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

_log = logging.getLogger("t3d")


class _State(NamedTuple):
    """All that would change what is learned, or stop it."""

    default_dtype: torch.dtype
    grad: bool
    inference: bool
    threads: int
    float_errors: dict[str, str]
    warnings: list[object]


class ProcessState:
    """While entered an environment may change what it likes; afterwards it is as it was.

    Args:
        name: the environment's, for what is said of it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._before = _look()
        self.notes: list[str] = []  # what a reader of the run must know, a sentence each, said once

    def __enter__(self) -> None:
        self._before = _look()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (after := _look()) != self._before:
            self._put_back(after)

    def _put_back(self, after: _State) -> None:
        before = self._before
        torch.set_default_dtype(before.default_dtype)
        if after.inference != before.inference:
            torch.inference_mode(before.inference).__enter__()
        torch.set_grad_enabled(before.grad)
        if after.threads != before.threads:
            torch.set_num_threads(before.threads)
            self._note(f"{self._name} set PyTorch to {after.threads} threads; put back to {before.threads}")
        np.seterr(**before.float_errors)  # type: ignore[arg-type]
        if after.warnings != before.warnings:
            warnings.filters[:] = before.warnings  # type: ignore[index]
            with warnings.catch_warnings():
                pass  # Python notices at its end that they have changed

    def _note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)
            _log.warning("%s", what)


def _look() -> _State:
    return _State(
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        np.geterr(),  # type: ignore[arg-type]
        list(warnings.filters),
    )
