"""The threads that share an update with the caller's."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from t3d.engines import blas_and_threads
from t3d.engines.kernels import STOP, Ints


class Memory(Protocol):
    """What the threads are told by."""

    @property
    def control(self) -> Ints:
        """Whether they are to stop, among others."""

    @property
    def sync(self) -> Ints:
        """How often they have waited for each other."""


M = TypeVar("M", bound=Memory)


class Team:
    """The threads beside the caller's, asleep between updates. Thread 0 is whoever calls for an update.

    Args:
        memory: that of the updates.
        threads: how many share an update, the caller's among them.
        serve: what thread t > 0 runs, called with the memory, t, and the lock that wakes it.
    """

    def __init__(self, memory: M, threads: int, serve: Callable[[M, int, int], None]) -> None:
        memory.control[STOP] = 0
        memory.sync[:] = 0
        self.locks = np.array([blas_and_threads.new_lock() for _ in range(threads - 1)], np.int64)
        workers = [
            threading.Thread(target=serve, args=(memory, t, int(lock)), daemon=True)
            for t, lock in enumerate(self.locks, start=1)
        ]
        for worker in workers:
            worker.start()
        self.stop = weakref.finalize(self, _stop, memory.control, self.locks, workers)


def _stop(control: Ints, locks: NDArray[np.int64], workers: list[threading.Thread]) -> None:
    control[STOP] = 1
    for lock in locks:
        blas_and_threads.let_go(int(lock))
    for worker in workers:
        worker.join()
