"""The job that every library gets, and the one line that every worker prints. Needs nothing but Python."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """An update at every env step after the random ones; policy_delay 2, exploration noise 0.1.

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
    images: bool = False  # of frames_env.py, three grey ones at once, in place of env

    @classmethod
    def from_argv(cls) -> Job:
        """Return the job that the driver passed as this process's first argument."""
        fields = json.loads(sys.argv[1])
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})

    @property
    def untimed_steps(self) -> int:
        """Env steps before the clock starts."""
        return self.random_steps + self.warm_updates

    @property
    def filling(self) -> tuple[int, int]:
        """Env steps between which the memory fills and nothing else is done, warm from the first on."""
        return self.random_steps // 4, self.random_steps


def clocks() -> tuple[float, float]:
    """Return wall time and the processor time of all threads of this process, in s."""
    return time.perf_counter(), time.process_time()


def resident_bytes() -> int:
    """Return what this process holds of the machine's memory. Linux alone."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def time_steps(step: Callable[[], object], job: Job, resident: list[int] | None = None) -> list[tuple[float, float]]:
    """Call step until warm, then job.steps times; return the clocks before and after those.

    Args:
        step: makes an env step, and an update where one is due.
        job: how many.
        resident: takes what the process holds at both ends of `job.filling`.
    """
    for done in range(job.untimed_steps):
        if resident is not None and done in job.filling:
            resident.append(resident_bytes())
        step()
    began = clocks()
    for _ in range(job.steps):
        step()
    return [began, clocks()]


def report(
    library: str, job: Job, read: list[tuple[float, float]], blas: str, resident: tuple[int, ...] = (), **more: object
) -> None:
    """Print the measurement.

    Args:
        library: what was measured.
        job: what it did.
        read: the clocks before the first timed step and after the last.
        blas: what multiplies its matrices.
        resident: what the process held at both ends of `job.filling`; nothing if nobody looked.
        more: what else is to be told.
    """
    if resident:
        began, ended = job.filling
        more["resident_bytes_per_row"] = (resident[1] - resident[0]) / (ended - began)
    wall_s, cpu_s = (after - before for before, after in zip(*read, strict=True))
    fields = {"library": library, "version": version(library), "env": job.env, "threads": job.threads}
    fields |= {"steps": job.steps, "seconds": wall_s, "steps_per_s": job.steps / wall_s, "cores_busy": cpu_s / wall_s}
    print(json.dumps({**fields, "blas": blas, **more}), flush=True)
