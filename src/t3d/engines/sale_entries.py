"""What td7's fused engine calls: a compiled update, the other threads' share of it, and acting."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import acquire, entry, release, set_blas_threads, yield_core
from t3d.engines.kernels import OBS_ACTION, PATIENCE, STOP, A, B, Ints, S
from t3d.engines.layers import Floats, max_of, min_of
from t3d.engines.sale_kernels import ACTOR, LARGEST, LEAST, ZS, Memory, Y, forward, head, play, update_rows


@entry
def serve(m: Memory, t: int, lock: int) -> None:
    """Be thread t: whenever the lock is released, do a share of an update, until it is to stop."""
    set_blas_threads(1)
    while True:
        tries = 0
        while acquire(lock, 0) == 0:
            tries += 1
            yield_core()
            if tries == PATIENCE:
                acquire(lock, 1)
                break
        if m.control[STOP] != 0:
            break
        update_rows(m, t)


@entry
def update(m: Memory, locks: Ints, means: NDArray[np.float64]) -> None:
    """Learn from the batch that lies where all threads read it: start them, do the first one's share.

    means (5,): what it saw. The extremes take in its targets.
    """
    blas_threads = set_blas_threads(1)
    for lock in locks:
        release(lock)
    update_rows(m, 0)
    for kind in range(means.size):
        means[kind] = m.sums[:, kind].sum() / m.at[B]
    for t in range(len(m.sums)):
        m.extremes[0] = min_of(m.extremes[0], m.extremes.dtype.type(m.sums[t, LEAST]))
        m.extremes[1] = max_of(m.extremes[1], m.extremes.dtype.type(m.sums[t, LARGEST]))
    set_blas_threads(blas_threads)


@entry
def act(m: Memory, obs: Floats, action: Floats) -> None:
    """Let the policy play: action (B, A) for obs (B, S)."""
    at, work, size, actions, batch = m.at, m.work, m.at[S], m.at[A], m.at[B]
    for i in range(batch):
        for j in range(size):
            work[at[OBS_ACTION] + i * (size + actions) + j] = obs[i, j]
    blas_threads = set_blas_threads(1)
    forward(m, ZS, 3, 0, batch)
    play(m, 0, batch)
    set_blas_threads(blas_threads)
    for i in range(batch):
        for j in range(actions):
            action[i, j] = math.tanh(work[m.net[head(m, ACTOR + 1) - 1, Y] + i * actions + j])
