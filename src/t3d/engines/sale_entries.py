"""What td7's fused engine calls: a share of an update, and acting."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import entry, release, set_blas_threads
from t3d.engines.entries import wait_for
from t3d.engines.kernels import LAYERS, OBS_ACTION, STOP, A, B, Ints, S
from t3d.engines.layers import Floats, max_of, min_of
from t3d.engines.sale_kernels import (
    ACTOR,
    LARGEST,
    LEAST,
    ZS,
    Memory,
    Y,
    forward,
    last_of,
    share_zs,
    update_rows,
)


@entry
def update(m: Memory, t: int, locks: Ints, means: NDArray[np.float64]) -> None:
    """Be thread t of an update whose batch lies where all threads read it.

    Thread 0 lets those go that wait for the locks, does its share once and returns; means (5,) becomes what the update
    saw. Another one does its share whenever its one lock is released, until it is to stop. One function for both: the
    update is compiled once.
    """
    blas_threads = set_blas_threads(1)
    while True:
        if t == 0:
            for lock in locks:
                release(lock)
        else:
            wait_for(locks[0])
            if m.control[STOP] != 0:
                break
        update_rows(m, t)
        if t == 0:
            for kind in range(means.size):
                means[kind] = m.sums[:, kind].sum() / m.at[B]
            for row in m.sums:
                m.extremes[0] = min_of(m.extremes[0], m.extremes.dtype.type(row[LEAST]))
                m.extremes[1] = max_of(m.extremes[1], m.extremes.dtype.type(row[LARGEST]))
            break
    set_blas_threads(blas_threads)


@entry
def act(m: Memory, obs: Floats, action: Floats) -> None:
    """Let the policy play: action (B, A) for obs (B, S)."""
    at, work, size, actions, batch = m.at, m.work, m.at[S], m.at[A], m.at[B]
    for i in range(batch):
        for j in range(size):
            work[at[OBS_ACTION] + i * (size + actions) + j] = obs[i, j]
    blas_threads = set_blas_threads(1)
    for network, layers in ((at[ZS], 3), (at[ACTOR], at[LAYERS])):
        forward(m, network, layers, 0, batch)
        share_zs(m, 0, batch)
    set_blas_threads(blas_threads)
    for i in range(batch):
        for j in range(actions):
            action[i, j] = math.tanh(work[m.net[last_of(m, ACTOR), Y] + i * actions + j])
