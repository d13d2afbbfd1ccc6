"""How long a policy takes for one observation: what a control loop must be able to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.machine import usable_cores
from t3d.policy.policy import Policy
from t3d.spaces import Spaces

CALLS = 10_000
_WARM = 100
# It keeps a core busy for as long as its parent lives, which may be gone before this has begun.
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(10_000))"


class Latency(NamedTuple):
    """Of calls with one observation each, in microseconds."""

    median_us: float
    p99_us: float
    worst_us: float


def measure(policy: Policy, calls: int = CALLS) -> Latency:
    """Time a policy's calls, each with another observation drawn from a standard normal distribution."""
    rng, spaces, spans = np.random.default_rng(0), policy.info.spaces, []
    observations = rng.standard_normal((_WARM + calls, spaces.obs_size), np.float32)
    for flat in observations:
        obs = as_given(flat, spaces)
        began = time.perf_counter()
        policy(obs)
        spans.append((time.perf_counter() - began) * 1e6)
    median, p99, worst = np.quantile(spans[_WARM:], [0.5, 0.99, 1.0]).tolist()
    return Latency(median, p99, worst)


@contextmanager
def others_busy() -> Iterator[int]:
    """Keep every usable core but one busy, one at least, meanwhile. Give how many."""
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    children = [subprocess.Popen(command) for _ in range(max(1, usable_cores() - 1))]  # noqa: S603 - our own text
    try:
        yield len(children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def as_given(flat: NDArray[np.float32], spaces: Spaces) -> Any:
    """Return a flattened observation (S,) as a policy is called with one: an array, or a Dict of its parts."""
    if spaces.is_array:
        return flat.reshape(spaces.obs[0].shape)
    obs: dict[str, Any] = {}
    at = 0
    for part in spaces.obs:
        *way, last = part.name.split("/")[1:]
        inside = obs
        for key in way:
            inside = inside.setdefault(key, {})
        size = int(np.prod(part.shape))
        inside[last] = flat[at : at + size].reshape(part.shape)
        at += size
    return obs
