"""Where jobs are trained: in processes of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from t3d.env_spec import EnvSpec
from t3d.environments.make import spaces_in
from t3d.execution import processes
from t3d.execution.jobs import Job
from t3d.execution.processes import Child, Runner, Standing
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
