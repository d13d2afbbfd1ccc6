"""Runs side by side: independent processes that share nothing but a parent folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from t3d.diagnosis.hints import Hint, hints
from t3d.execution.jobs import LEAVES_S, Job
from t3d.formats import Row
from t3d.runs.signals import Signals
from t3d.runs.tail import Tail

LOOK_S = 0.2
_LAST_WORDS = 2_000


class Standing(NamedTuple):
    """How one run stands."""

    seed: int
    path: Path
    env_steps: int
    evaluation: Row | None  # its last
    hints: list[Hint]  # what is wrong with its training now
    problem: str  # why it ended early; empty if it did not
    running: bool
    exit_code: int | None  # of its process, which has ended; negative: the signal that killed it


class Child:
    """A job, its process once it has one, and what its metrics.jsonl has said so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process: subprocess.Popen[str] | None = None
        self._tail = Tail(Path(job.out) / "metrics.jsonl")
        self._env_steps = 0
        self._evaluation: Row | None = None
        self._health: list[Row] = []
        self._hints: list[Hint] = []
        self._words = ""
        self.curve: dict[int, float] = {}  # the mean return of every evaluation, by the env steps it was due at

    @property
    def started(self) -> bool:
        """Whether it has, or had, a process."""
        return self.process is not None

    def start(self, environment: Mapping[str, str] = os.environ, module: str = "t3d.execution.jobs") -> None:
        """Start its process, or another one where that has ended: a run goes on from its checkpoint.

        Args:
            environment: its variables, but for where Python looks for modules.
            module: what trains the job.
        """
        self.close(time.monotonic())
        self._words = ""
        command = [sys.executable, "-P", "-m", module, json.dumps(self.job._asdict())]
        # A session of its own: Ctrl-C reaches this process alone, which hands it on once.
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module; arguments reach no shell
            command,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
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

    def stop(self) -> None:
        """Ask it to save its state and leave."""
        if self.process is not None and self.running:
            self.process.terminate()

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
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> Standing:
        """Read what is new in metrics.jsonl; a run that was resumed has cut it, and is read from its beginning."""
        health = False
        if (rows := self._tail.rows()) is None:
            self._health, self._hints, self.curve = [], [], {}
            rows = self._tail.rows()
        for row in rows or []:
            self._env_steps = row["env_steps"]
            if row["kind"] == "evaluation":
                self._evaluation = row
                self.curve[row.get("due") or row["env_steps"]] = row["return_mean"]
            elif row["kind"] == "health":
                self._health.append(row)
                health = True
        if health:
            self._hints = hints(self._health)
        problem = ""
        if self.process is not None and not self.running and self.process.returncode:
            problem = self._words.strip() or _ending(self.process.returncode)
        code = None if self.process is None else self.process.poll()
        return Standing(
            seed=self.job.seed,
            path=Path(self.job.out),
            env_steps=self._env_steps,
            evaluation=self._evaluation,
            hints=self._hints,
            problem=problem,
            running=self.running,
            exit_code=code,
        )


def _ending(returncode: int) -> str:
    return f"killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"


class Runner(Protocol):
    """What trains a job: a `Child` of this process, or a task of a cluster."""

    job: Job

    @property
    def curve(self) -> dict[int, float]:
        """The mean return of every evaluation seen, by the env steps it was due at."""

    @property
    def started(self) -> bool:
        """Whether it has begun."""

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""

    def start(self) -> None:
        """Begin, or go on where it was stopped."""

    def stop(self) -> None:
        """Ask the run to save its state and end."""

    def close(self, until: float) -> None:
        """Wait for its end, on the monotonic clock; from then on it is ended by force."""

    def look(self) -> Standing:
        """Return how the run stands."""


def train_jobs(
    jobs: Sequence[Job],
    at_once: int,
    show: Callable[[list[Standing]], None],
    runner: Callable[[Job], Runner] = Child,
) -> list[Standing]:
    """Train jobs, some at a time; one that fails or is killed does not take the others down.

    Args:
        jobs: what to train.
        at_once: processes side by side.
        show: called some times a second with how every run stands.
        runner: makes what trains a job.

    Returns:
        How every run ended.

    Raises:
        Stopped: by a signal, once every running one has saved its state.
    """
    runs = [runner(job) for job in jobs]
    try:
        with Signals() as signals:
            for _ in _started_in_turn(runs, at_once):
                show([run.look() for run in runs])
                signals.stop_here()
                time.sleep(LOOK_S)
    finally:
        end(runs)
    ended = [run.look() for run in runs]
    show(ended)
    return ended


def _started_in_turn(runs: list[Runner], at_once: int) -> Iterator[None]:
    while any(not run.started or run.running for run in runs):
        waiting = [run for run in runs if not run.started]
        for run in waiting[: max(0, at_once - sum(run.running for run in runs))]:
            run.start()
        yield


def end(runs: Sequence[Runner]) -> None:
    """Ask those that still run to save and stop, and wait for them; a second signal to this process ends the wait."""
    for run in runs:
        run.stop()
    until = time.monotonic() + LEAVES_S
    try:
        for run in runs:
            run.close(until)
    except KeyboardInterrupt:
        for run in runs:
            run.close(time.monotonic())
        raise
