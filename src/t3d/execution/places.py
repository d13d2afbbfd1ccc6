"""Where jobs are trained: in processes of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.environments.make import spaces_in
from t3d.errors import ConfigRefused
from t3d.execution import processes
from t3d.execution.jobs import Job
from t3d.execution.processes import Child, Runner, Standing
from t3d.machine import usable_cores
from t3d.replay import slot_dtype

# What a run takes beside its replay memory: PyTorch, NumPy, an environment.
_BESIDE_REPLAY_BYTES = 600_000_000


@contextmanager
def place(on: str, parent: Path, env: EnvSpec, buffer_size: int) -> Iterator[Callable[[Job], Runner]]:
    """While entered, give what makes a job's runner.

    Args:
        on: local; ray, a cluster that is started here; or ray:HOST:PORT, one that this machine is one of.
        parent: the folder of all runs.
        env: of them all.
        buffer_size: the largest of them.

    Raises:
        Refused: there is no such place, or it cannot be used.
    """
    if on == "local":
        yield Child
        return
    from t3d.execution.cluster import Cluster, address_of

    run_bytes = _BESIDE_REPLAY_BYTES + buffer_size * slot_dtype(spaces_in(env)).itemsize
    with Cluster(address_of(on), parent, run_bytes) as cluster:
        yield cluster.runner


def side_by_side(asked: int | None, runs: int, config: Config, on: str) -> tuple[int, int]:
    """Return how many runs there shall be at a time, and how many of these on this machine, whose memory they share.

    Args:
        asked: as many; None takes what the usable cores allow here, and all of them on a cluster.
        runs: how many there are.
        config: of one of them.
        on: as for `place`.

    Raises:
        ConfigRefused: there is no such place, or it is none for such runs.
    """
    if on == "local":
        here = min(runs, asked or (1 if config.hardware else usable_cores()))
        return here, here
    from t3d.execution.cluster import address_of

    address_of(on)
    if config.hardware or config.device not in ("cpu", "cuda"):
        raise ConfigRefused(
            "a cluster trains runs wherever it has room",
            got=f"on = {on}, hardware = {config.hardware}, device = {config.device}",
            expected="no hardware, and --device cpu or cuda",
            do="leave --on out, or change these",
        )
    return min(runs, asked or runs), 1


def train_jobs(
    jobs: Sequence[Job], at_once: int, show: Callable[[list[Standing]], None], on: str = "local"
) -> list[Standing]:
    """Train jobs in one of these places, as `processes.train_jobs` does.

    Args:
        jobs: what to train, in folders of one parent.
        at_once: how many side by side.
        show: called some times a second with how every run stands.
        on: as for `place`.

    Raises:
        Stopped, Refused: as it does, and as `place` does.
    """
    largest = max(job.config["buffer_size"] for job in jobs)
    with place(on, Path(jobs[0].out).parent, EnvSpec.from_json(jobs[0].env), largest) as runner:
        return processes.train_jobs(jobs, at_once, show, runner)
