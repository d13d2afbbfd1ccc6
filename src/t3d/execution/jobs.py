"""A job is one run, in words that another process can read; as a module of its own this trains one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from t3d.address import address_of
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused, SaveFailed, T3DError
from t3d.presets import Choice
from t3d.runs import run_folder
from t3d.runs.session import Session
from t3d.storage.lock import Lock
from t3d.td3 import TD3
from t3d.variants.sources import class_at

LEAVES_S = 30  # after SIGTERM; saving takes seconds, a step of an environment perhaps as many
NOT_SAVED = 74  # exit code of a process whose run is well, and its disk is not


class Job(NamedTuple):
    """One run: all that the process that trains it must know, and all that JSON can hold."""

    env: dict[str, Any]  # as `EnvSpec.as_json` gave it
    preset: str
    config: dict[str, Any]  # fields of `Config`
    out: str
    algorithm: str = ""  # address of a caller's class; empty takes the one that the configuration names
    algorithm_changed: bool = False  # it may be written otherwise than what has trained

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])


def job_of(
    env: EnvSpec,
    choice: Choice,
    seed: int,
    out: Path,
    algorithm: type[TD3] | None = None,
    algorithm_changed: bool = False,
) -> Job:
    """Return the job that trains one seed of a configuration, beside others.

    Args:
        env: which environment.
        choice: preset and configuration; threads left to chance become one, as the runs share the cores.
        seed: in the place of the configuration's own.
        out: the run folder.
        algorithm: a caller's class, which the process of a run must find by its address.
        algorithm_changed: it may be written otherwise than what has trained.

    Raises:
        ConfigRefused: another process finds the algorithm nowhere.
    """
    own = "" if algorithm is None else address_of(algorithm)
    threads = 1 if choice.config.threads == "auto" else choice.config.threads
    config = dataclasses.replace(choice.config, seed=seed, threads=threads)
    named = env.looked_at(config.view).as_json()
    return Job(named, choice.preset, dataclasses.asdict(config), str(out), own, algorithm_changed)


def train_run(job: Job) -> None:
    """Train one run to its end, or go on with it; one that has ended is left as it is.

    Raises:
        Refused, Failed, Stopped: as `Session` says.
    """
    choice = Choice(job.preset, msgspec.convert(job.config, Config), "as asked")
    wait_for(Path(job.out), LEAVES_S)
    session = Session(
        EnvSpec.from_json(job.env),
        choice,
        Path(job.out),
        resume=True,
        algorithm=class_at(job.algorithm) if job.algorithm else None,
        algorithm_changed=job.algorithm_changed,
    )
    with closing(session.run()) as rows:
        for _ in rows:
            pass


def wait_for(run: Path, seconds: float) -> None:
    """Wait while a process whose parent was killed saves a run and leaves it, but no longer than that."""
    until = time.monotonic() + seconds
    while (run / "lock").exists() and time.monotonic() < until:
        try:
            Lock(run).close()
            return
        except RunRefused:  # if it lasts, the session says so
            time.sleep(0.2)


def jobs_of(
    env: EnvSpec,
    choice: Choice,
    seeds: int,
    out: Path | None,
    *,
    resume: bool,
    algorithm: type[TD3] | None = None,
    algorithm_changed: bool = False,
) -> tuple[Path, list[Job]]:
    """Return the parent folder and a job for each seed, from the configuration's own seed on.

    Args:
        env: which environment.
        choice: preset and configuration, as for `job_of`.
        seeds: how many.
        out: the parent folder; None takes runs/<env>/<preset>-n<seeds>, with a counter behind it if that is taken.
        resume: go on with the runs that are there; else the folder is made.
        algorithm: as for `job_of`.
        algorithm_changed: as for `job_of`.

    Raises:
        ConfigRefused: another process finds the environment, or the algorithm, nowhere.
        RunRefused: the folder holds a single run; or others, and they are not to be gone on with.
    """
    if algorithm is not None:
        address_of(algorithm)  # refused before a folder is made
    parent = out or Path("runs") / env.folder / f"{choice.preset}-n{seeds}"
    refuse_as_parent(env, parent)
    if not resume:
        parent = run_folder.create(parent, counted=out is None)
    first = choice.config.seed
    return parent, [
        job_of(env, choice, seed, parent / f"s{seed}", algorithm, algorithm_changed)
        for seed in range(first, first + seeds)
    ]


def refuse_as_parent(env: EnvSpec, parent: Path) -> None:
    """Refuse what cannot be trained in processes of its own, or not below this folder.

    Raises:
        ConfigRefused: no other process can make the environment.
        RunRefused: the folder holds a single run.
    """
    env.refuse_unnamed("the process of a seed", "train one seed here")
    if (parent / "config.json").exists() or any(parent.glob("checkpoints/*/manifest.json")):
        raise RunRefused("this folder holds a single run", got=str(parent), do="give another --out")


def _end_with_parent() -> None:
    """Stop as after SIGTERM once the parent is gone: nothing ever comes through stdin but its end."""

    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    """Train one job, in a process of its own."""
    _end_with_parent()
    try:
        train_run(Job(**json.loads(arguments[0])))
    except T3DError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_SAVED if isinstance(error, SaveFailed) else error.exit_code)
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))


if __name__ == "__main__":
    main(sys.argv[1:])
