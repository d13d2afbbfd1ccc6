"""Environments in processes of their own, for those that are slow, hang or crash: the side that starts them.

A worker is a fresh interpreter that is told how to make the environment, and runs `in_process.Instances` on its
share of the rows, which lie in shared memory without a name: nothing is left behind, however this process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Rows, row_dtype
from t3d.environments.renderer import hand_down
from t3d.environments.worker import COMMAND, SIGNALS, STEP, Made, Task, map_rows
from t3d.errors import ConfigRefused, EnvFailed, EnvRefused, T3DError

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from t3d.environments.worker import Task, main; main(Task(**json.loads(sys.argv[2])))"
)
_MAKING_S = 60.0  # an interpreter starts and imports, perhaps from a slow disk, whatever a step may take
_CLOSING_S = 2.0
_SLICE_S = 1.0


class InWorker(Exception):
    """Show the traceback of an exception that was raised in a worker."""


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    first: int  # its environments are first to first + n_envs - 1
    n_envs: int
    due: deque[int]  # environments that owe an answer, in the order in which it will come
    ended: int  # a descriptor that can be read once the process is gone; -1 where the system has none
    waited_s: float = 0.0  # for the answer that comes next


class Workers:
    """Hold N environments in W processes, each with its share of them.

    What `begin_reset` and `begin_step` begin goes on in the workers; `wait` waits for all of it. Once a worker has died
    or was killed, all are of no more use.

    Args:
        env: which.
        n_envs: N.
        workers: W, 1 to N.
        timeout_s: a step or a reset that takes longer is taken for one that never ends.

    Raises:
        ConfigRefused: this system cannot hand sockets to a process it starts; or another process cannot make it.
        EnvRefused: as `make.make` and `make.spaces_of`.
        EnvFailed: a worker died, or had not made its environments in time.
    """

    def __init__(self, env: EnvSpec, n_envs: int, workers: int, timeout_s: float) -> None:
        if os.name != "posix":
            raise ConfigRefused(
                "worker processes are not supported on this system",
                got=sys.platform,
                expected="Linux or macOS",
                do="leave --env-workers out",
            )
        env.refuse_unnamed("a worker process", "leave --env-workers out")
        self._timeout_s = timeout_s
        self._broken: Broken | None = None
        self._workers: list[_Worker] = []
        self._memory = _unnamed_memory()
        self._end = weakref.finalize(self, _end, self._workers, self._memory)
        self._poll = select.poll()
        try:
            with _signals_held_back():
                for k in range(workers):
                    first, last = k * n_envs // workers, (k + 1) * n_envs // workers
                    self._workers.append(_start(env, first, last - first, self._memory))
            self._by_descriptor = {worker.connection.fileno(): worker for worker in self._workers}
            self._by_descriptor |= {worker.ended: worker for worker in self._workers if worker.ended >= 0}
            for descriptor in self._by_descriptor:
                self._poll.register(descriptor, select.POLLIN)
            self.spaces, self.period_s, self.drawn_by = self._made(env)
            hand_down(self.drawn_by)
            self.rows = self._share(n_envs)
        except BaseException:
            self._end()
            raise
        self._of = [worker for worker in self._workers for _ in range(worker.n_envs)]

    def begin_reset(self, i: int, seed: int, *, anew: bool) -> None:
        """Begin an episode; once `wait` returns, its first observation stands in row i.

        Args:
            i: which.
            seed: of the episode.
            anew: in an instance made anew.

        Raises:
            Broken: a worker is dead.
        """
        self._send(i, COMMAND.pack(i - self._of[i].first, seed, anew))

    def begin_step(self, i: int, action: NDArray[np.float32]) -> None:
        """Step environment i; once `wait` returns, what it answered stands in row i.

        Args:
            i: which.
            action: in its action shape and its own units.

        Raises:
            Broken: a worker is dead.
        """
        self.rows.action[i] = action
        self._send(i, COMMAND.pack(i - self._of[i].first, STEP, False))

    def wait(self) -> None:
        """Wait for everything that was begun.

        Raises:
            Broken: an environment raised, gave what it may not, or took too long, or its worker died.
        """
        answers = self._answers(self._timeout_s, "the environment did not answer")
        failures = {i: message for i, message in answers if message}
        if failures:  # the first one of those that raised, as in one process, whoever was faster
            i = min(failures)
            error, cause = _failure(failures[i])
            assert isinstance(error, EnvFailed)
            raise Broken(i, error) from cause

    def close(self) -> None:
        """Close every environment and end the workers; those that do not end in two seconds are killed."""
        self._end()
        self.rows = Rows._make(column.copy() for column in self.rows)  # the shared memory goes back to the system

    def _made(self, env: EnvSpec) -> Made:
        """Return what the first worker says of its environments, once all workers have made their environments."""
        made = {}
        try:
            for first, message in self._answers(max(_MAKING_S, self._timeout_s), "the environment was not made"):
                if "what" in json.loads(message):
                    error, cause = _failure(message)
                    raise _hinted(error, env) from cause
                made[first] = msgspec.json.decode(message, type=Made)
        except Broken as broken:
            got = f"{env.title}, while environment {broken.env} and those that share its worker were made"
            raise EnvFailed(broken.failed.what, **broken.failed.rows | {"got": got}) from broken.__cause__
        return made[0]

    def _share(self, n_envs: int) -> Rows:
        os.ftruncate(self._memory, n_envs * row_dtype(self.spaces).itemsize)
        for worker in self._workers:
            with contextlib.suppress(ConnectionError):  # it died just now: the first reset will say how
                worker.connection.send_bytes(str(n_envs).encode())
        return Rows.of(map_rows(self._memory, self.spaces, n_envs))

    def _send(self, i: int, command: bytes) -> None:
        if self._broken:
            raise self._broken
        worker = self._of[i]
        try:
            worker.connection.send_bytes(command)
        except ConnectionError:
            raise self._died(worker, i) from None
        worker.due.append(i)

    def _answers(self, limit_s: float, overdue: str) -> Iterator[tuple[int, bytes]]:
        """Yield (environment, message) for every answer that is due, as it comes; each has limit_s of its own."""
        while busy := [worker for worker in self._workers if worker.due]:
            began, patience = time.monotonic(), min(_SLICE_S, *(limit_s - worker.waited_s for worker in busy))
            polled = [descriptor for descriptor, _ in self._poll.poll(math.ceil(1000 * patience))]
            ready = list(dict.fromkeys(self._by_descriptor[descriptor] for descriptor in polled))
            # In slices: while both sides were stopped (Ctrl-Z) nobody was late.
            waited = min(time.monotonic() - began, _SLICE_S)
            for worker in ready:
                i = worker.due[0] if worker.due else worker.first
                # Its socket need not close with it: a process that the environment has forked may hold the other end.
                if worker.connection.fileno() not in polled:
                    raise self._died(worker, i)
                try:
                    message = worker.connection.recv_bytes()
                except (EOFError, ConnectionError):
                    raise self._died(worker, i) from None
                worker.due.popleft()
                worker.waited_s = 0.0
                yield i, message
            for worker in busy:
                if worker in ready:
                    continue
                worker.waited_s += waited
                if worker.waited_s >= limit_s:
                    _kill(worker)
                    do = "raise --env-timeout if it may take that long, or fix the environment"
                    raise self._break(
                        worker.due[0],
                        EnvFailed(f"{overdue} within {limit_s:g} s, and its worker process was killed", do=do),
                    )

    def _died(self, worker: _Worker, i: int) -> Broken:
        return self._break(
            i,
            EnvFailed(
                f"the environment's worker process {_end_of(worker)}",
                do="fix the environment; after SIGKILL look whether memory ran out, and lower --env-workers",
            ),
        )

    def _break(self, i: int, failed: EnvFailed) -> Broken:
        self._broken = Broken(i, failed)
        return self._broken


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let processes be started in which the signals that a worker ignores cannot strike before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unnamed_memory() -> int:
    """Return a descriptor of memory that has no name, so that it ends with its last user."""
    if sys.platform == "linux":
        return os.memfd_create("t3d-envs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _start(env: EnvSpec, first: int, n_envs: int, memory: int) -> _Worker:
    ours, its = Pipe()
    task = Task(
        env=env.as_json(),
        first=first,
        n_envs=n_envs,
        socket=its.fileno(),
        memory=memory,
        parent=os.getpid(),
        tied=threading.current_thread() is threading.main_thread(),
    )
    # -P: nothing in the folder where it is called may stand before the interpreter's own modules.
    command = [sys.executable, "-P", "-X", "faulthandler", "-c", _START]
    with its:
        process = subprocess.Popen(  # noqa: S603 (its words are ours, and the environment's name goes as JSON)
            [*command, json.dumps([str(folder) for folder in sys.path]), json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.DEVNULL,
            pass_fds=(its.fileno(), memory),
        )
    ended = os.pidfd_open(process.pid) if sys.platform == "linux" else -1
    return _Worker(process, ours, first, n_envs, deque([first]), ended)


def _failure(message: bytes) -> tuple[T3DError, InWorker | None]:
    """Return the error that a worker described, and its cause."""
    failure = json.loads(message)
    cause = InWorker("\n" + failure["traceback"]) if failure["traceback"] else None
    kind = EnvRefused if failure["refused"] else EnvFailed
    return kind(failure["what"], **failure["rows"]), cause


def _hinted(error: T3DError, env: EnvSpec) -> T3DError:
    """Return the refusal with a hint for those whose id is known in their own script alone."""
    if ":" in env.name:
        return error
    hint = "worker processes do not run your script: name what it registers as module:Id or path/to/file.py:Class"
    return type(error)(error.what, **error.rows | {"do": "; ".join([*filter(None, [error.rows.get("do")]), hint])})


def _end_of(worker: _Worker) -> str:
    """Return how a worker ended whose socket is closed."""
    try:
        code = worker.process.wait(_CLOSING_S)
    except subprocess.TimeoutExpired:
        _kill(worker)
        return "closed its socket"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"was killed by {name}" if code < 0 else f"exited with code {code}"


def _kill(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()


def _end(workers: list[_Worker], memory: int) -> None:
    """End every worker: asked first, then killed."""
    for worker in workers:
        with contextlib.suppress(ConnectionError):  # it is dead already
            worker.connection.send_bytes(b"")
        worker.connection.close()
    deadline = time.monotonic() + _CLOSING_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(worker)
        if worker.ended >= 0:
            os.close(worker.ended)
    os.close(memory)
