"""Several seeds of one training, side by side: independent processes that share nothing but a parent folder."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from t3d.address import address_of
from t3d.config import Config
from t3d.diagnosis.hints import Hint, hints
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused, T3DError
from t3d.formats import HalfRow, Row, RowReader
from t3d.presets import Choice
from t3d.runs import run_folder
from t3d.runs.session import Session
from t3d.runs.signals import Signals
from t3d.td3 import TD3
from t3d.variants.sources import class_at

_LOOK_S = 0.2
_LAST_WORDS = 2_000
_LEAVES_S = 30  # after SIGTERM; saving takes seconds, a step of an environment perhaps as many


class Job(NamedTuple):
    """One run: all that the process that trains it must know, and all that JSON can hold."""

    env: dict[str, Any]  # as `EnvSpec.as_json` gave it
    preset: str
    config: dict[str, Any]  # fields of `Config`
    out: str
    algorithm: str = ""  # address of a caller's class; empty takes the one that the configuration names
    algorithm_changed: bool = False  # it may be written otherwise than what has trained


def train_run(job: Job) -> None:
    """Train one run to its end, or go on with it; one that has ended is left as it is.

    Raises:
        Refused, Failed, Stopped: as `Session` says.
    """
    choice = Choice(job.preset, msgspec.convert(job.config, Config), "as asked")
    own = class_at(job.algorithm) if job.algorithm else None
    session = Session(
        EnvSpec.from_json(job.env),
        choice,
        Path(job.out),
        resume=True,
        algorithm=own,
        algorithm_changed=job.algorithm_changed,
    )
    with closing(session.run()) as rows:
        for _ in rows:
            pass


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
        choice: preset and configuration; threads left to chance become one, as the runs share the cores.
        seeds: how many.
        out: the parent folder; None takes runs/<env>/<preset>-n<seeds>, with a counter behind it if that is taken.
        resume: go on with the runs that are there; else the folder is made.
        algorithm: a caller's class, which the process of a seed must find by its address.
        algorithm_changed: it may be written otherwise than what has trained.

    Raises:
        ConfigRefused: another process finds the environment, or the algorithm, nowhere.
        RunRefused: the folder holds a single run; or others, and they are not to be gone on with.
    """
    env.refuse_unnamed("the process of a seed", "train one seed here")
    own = "" if algorithm is None else address_of(algorithm)
    parent = out or Path("runs") / env.folder / f"{choice.preset}-n{seeds}"
    if (parent / "config.json").exists() or any(parent.glob("checkpoints/*/manifest.json")):
        raise RunRefused("this folder holds a single run", got=str(parent), do="give another --out")
    if not resume:
        parent = run_folder.create(parent, counted=out is None)
    threads = 1 if choice.config.threads == "auto" else choice.config.threads
    first = choice.config.seed
    configs = [dataclasses.replace(choice.config, seed=first + k, threads=threads) for k in range(seeds)]
    return parent, [
        Job(
            env.as_json(),
            choice.preset,
            dataclasses.asdict(config),
            str(parent / f"s{config.seed}"),
            own,
            algorithm_changed,
        )
        for config in configs
    ]


class Seed(NamedTuple):
    """How one seed stands."""

    seed: int
    path: Path
    env_steps: int
    evaluation: Row | None  # its last
    hints: list[Hint]  # what is wrong with its training now
    problem: str  # why it ended early; empty if it did not
    running: bool


class _Run:
    """A job, its process once it has one, and what its metrics.jsonl has said so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process: subprocess.Popen[str] | None = None
        self._reader = RowReader(Path(job.out) / "metrics.jsonl")
        self._env_steps = 0
        self._evaluation: Row | None = None
        self._health: list[Row] = []
        self._hints: list[Hint] = []
        self._words = ""

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "t3d.runs.seeds", json.dumps(self.job._asdict())]
        # A session of its own: Ctrl-C reaches this process alone, which hands it on once.
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module; arguments reach no shell
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # environments print what they like
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self._listener.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        while line := process.stderr.readline(_LAST_WORDS):
            self._words = (self._words + line)[-_LAST_WORDS:]

    def close(self, until: float) -> None:
        """Wait for its end, and for its last words; killed if it has not left by then, on the monotonic clock."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        self._listener.join(1)
        if not self._listener.is_alive():  # else something that its environment has started lives on, and may print
            self.process.stderr.close()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look(self) -> Seed:
        """Read what is new in metrics.jsonl; a run that was resumed has cut it, and is read from its beginning."""
        health = False
        for row in self._new_rows():
            self._env_steps = row["env_steps"]
            if row["kind"] == "evaluation":
                self._evaluation = row
            elif row["kind"] == "health":
                self._health.append(row)
                health = True
        if health:
            self._hints = hints(self._health)
        problem = ""
        if self.process is not None and not self.running and self.process.returncode:
            problem = self._words.strip() or _ending(self.process.returncode)
        seed = self.job.config["seed"]
        return Seed(seed, Path(self.job.out), self._env_steps, self._evaluation, self._hints, problem, self.running)

    def _new_rows(self) -> list[Row]:
        path = self._reader.path
        rows: list[Row] = []
        size = path.stat().st_size if path.exists() else 0
        try:
            if size < self._reader.position:
                raise ValueError("it was cut")
            rows.extend(self._reader.rows(size))
        except HalfRow:
            pass  # it is being written
        except ValueError:
            self._reader, self._health, self._hints = RowReader(path), [], []
        return rows


def _ending(returncode: int) -> str:
    return f"killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"


def train_seeds(jobs: Sequence[Job], at_once: int, show: Callable[[list[Seed]], None]) -> list[Seed]:
    """Train jobs, some at a time; one that fails or is killed does not take the others down.

    Args:
        jobs: what to train.
        at_once: processes side by side.
        show: called some times a second with how every seed stands.

    Returns:
        How every seed ended.

    Raises:
        Stopped: by a signal, once every running seed has saved its state.
    """
    runs = [_Run(job) for job in jobs]
    try:
        with Signals() as signals:
            for _ in _started_in_turn(runs, at_once):
                show([run.look() for run in runs])
                signals.stop_here()
                time.sleep(_LOOK_S)
    finally:
        _end(runs)
    ended = [run.look() for run in runs]
    show(ended)
    return ended


def _started_in_turn(runs: list[_Run], at_once: int) -> Iterator[None]:
    while any(run.process is None or run.running for run in runs):
        waiting = [run for run in runs if run.process is None]
        for run in waiting[: max(0, at_once - sum(run.running for run in runs))]:
            run.start()
        yield


def _end(runs: list[_Run]) -> None:
    """Ask those that still run to save and stop, and wait for them; a second signal to this process ends the wait."""
    running = [run.process for run in runs if run.process is not None and run.running]
    for process in running:
        process.terminate()
    until = time.monotonic() + _LEAVES_S
    try:
        for run in runs:
            run.close(until)
    except KeyboardInterrupt:
        for process in running:
            process.kill()
        raise


def _end_with_parent() -> None:
    """Stop as after SIGTERM once the parent is gone: nothing ever comes through stdin but its end."""

    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Train one job, in a process of its own."""
    _end_with_parent()
    try:
        train_run(Job(**json.loads(sys.argv[1])))
    except T3DError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))


if __name__ == "__main__":
    main()
