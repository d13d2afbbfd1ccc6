"""How long a policy takes for one observation: what a control loop must be able to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.machine import usable_cores
from t3d.policy.policy import Policy
from t3d.spaces import ObsPart, Spaces

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
    play = policy.player() if spaces.view is not None else policy
    for _ in range(_WARM + calls):
        obs = as_given([_drawn(rng, part) for part in spaces.obs], spaces)
        began = time.perf_counter()
        play(obs)
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


def _drawn(rng: np.random.Generator, part: ObsPart) -> NDArray[Any]:
    if part.dtype == "uint8":
        return rng.integers(0, 256, part.shape, np.uint8)
    return rng.standard_normal(part.shape, np.float32)


def as_given(parts: Sequence[NDArray[Any]], spaces: Spaces) -> Any:
    """Return the parts of an observation as a policy is called with one: an array, or a Dict of them."""
    if spaces.is_array:
        return parts[0]
    obs: dict[str, Any] = {}
    for part, array in zip(spaces.obs, parts, strict=True):
        *way, last = part.name.split("/")[1:]
        inside = obs
        for key in way:
            inside = inside.setdefault(key, {})
        inside[last] = array
    return obs
