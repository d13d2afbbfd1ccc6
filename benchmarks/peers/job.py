"""The job that every library gets, and the one line that every worker prints. Needs nothing but Python."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training job: an update at every env step after the random ones, policy_delay 2, noise 0.1.

    gamma, tau, policy_noise and noise_clip are left to the libraries, which agree on them.
    """

    env: str
    hidden: tuple[int, ...]
    batch_size: int
    steps: int  # timed
    threads: int = 1
    lr: float = 3e-4
    random_steps: int = 1_000
    warm_updates: int = 500  # made before the clock starts
    buffer_size: int = 1_000_000
    engine: str | None = None  # t3d's; None leaves it to t3d

    @classmethod
    def from_argv(cls) -> Job:
        """Return the job that the driver passed as this process's one argument."""
        fields = json.loads(sys.argv[1])
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})

    @property
    def untimed_steps(self) -> int:
        """Env steps before the clock starts."""
        return self.random_steps + self.warm_updates


@dataclass(frozen=True)
class Instant:
    """What the clocks show."""

    wall_s: float
    cpu_s: float  # of all threads of this process

    @classmethod
    def now(cls) -> Instant:
        """Read the clocks."""
        return cls(time.perf_counter(), time.process_time())


def time_steps(step: Callable[[], object], job: Job) -> tuple[Instant, Instant]:
    """Call step until warm, then job.steps times; return the instants before and after those."""
    for _ in range(job.untimed_steps):
        step()
    began = Instant.now()
    for _ in range(job.steps):
        step()
    return began, Instant.now()


def report(job: Job, began: Instant, ended: Instant, *packages: str, blas: str, **more: object) -> None:
    """Print a measurement as one JSON line.

    Args:
        job: what was done.
        began: when the first timed step began.
        ended: when the last one ended.
        packages: distributions whose versions matter, the library's own first.
        blas: what multiplied the matrices.
        more: further fields.
    """
    seconds = ended.wall_s - began.wall_s
    fields = {
        "library": packages[0],
        "version": version(packages[0]),
        "versions": {name: version(name) for name in packages},
        "env": job.env,
        "threads": job.threads,
        "steps": job.steps,
        "seconds": seconds,
        "steps_per_s": job.steps / seconds,
        "cores_busy": (ended.cpu_s - began.cpu_s) / seconds,
        "blas": blas,
        **more,
    }
    print(json.dumps(fields), flush=True)
