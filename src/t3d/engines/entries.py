"""What the fused engine calls: compiled updates, the other threads' share of them, and acting."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import acquire, compiled, entry, release, set_blas_threads, yield_core
from t3d.engines.draw import Source, draw
from t3d.engines.kernels import (
    DELAYED,
    LAYERS,
    OBS_ACTION,
    OUT,
    STOP,
    A,
    B,
    Ints,
    Memory,
    S,
    forward,
    update_rows,
)
from t3d.engines.layers import Floats

PATIENCE = 5000  # about 1 ms: a thread asleep takes up to 50 us to wake, and the next update is often nearer than that


@compiled
def wait_for(lock: int) -> None:
    """Return once another thread has released the lock."""
    tries = 0
    while acquire(lock, 0) == 0:
        tries += 1
        yield_core()
        if tries == PATIENCE:
            acquire(lock, 1)
            break


@entry
def serve(m: Memory, t: int, lock: int) -> None:
    """Be thread t: whenever the lock is released, do a share of an update, until it is to stop."""
    set_blas_threads(1)
    while True:
        wait_for(lock)
        if m.control[STOP] != 0:
            break
        update_rows(m, t)


@entry
def update(m: Memory, locks: Ints, source: Source, rates: Floats, delayed: Ints, means: NDArray[np.float64]) -> None:
    """Make an update for each row of means (count, 5): what it saw. rates and delayed: of each.

    The batch is drawn, or it lies already where all threads read it. One function for both, so that a batch leads to
    the same bits wherever it comes from.
    """
    blas_threads = set_blas_threads(1)
    for update in range(len(means)):
        if source.n_envs > 0:
            draw(source, m.at, m.work)
        m.rates[:] = rates[update]
        m.control[DELAYED] = delayed[update]
        for lock in locks:
            release(lock)
        update_rows(m, 0)
        for kind in range(means.shape[1]):
            means[update, kind] = m.sums[:, kind].sum() / m.at[B]
    set_blas_threads(blas_threads)


@entry
def act(m: Memory, obs: Floats, action: Floats) -> None:
    """Let the actor play: action (B, A) for obs (B, S)."""
    at, work, size, actions, batch = m.at, m.work, m.at[S], m.at[A], m.at[B]
    for i in range(batch):
        for j in range(size):
            work[at[OBS_ACTION] + i * size + j] = obs[i, j]
    blas_threads = set_blas_threads(1)
    forward(m, 0, m.weights[0], at[OBS_ACTION], size, 0, batch, OUT)
    set_blas_threads(blas_threads)
    for i in range(batch):
        for j in range(actions):
            action[i, j] = math.tanh(work[m.net[at[LAYERS] - 1, OUT] + i * actions + j])
