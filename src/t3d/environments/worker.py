"""One worker process: it steps its share of a run's environments for the process that started it.

Messages go over a socket: first what was made, then an empty one for every command carried out, or what failed as
JSON. The numbers themselves stand in shared memory, one row an environment.
"""

from __future__ import annotations

import ctypes
import io
import json
import mmap
import os
import signal
import struct
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Instances, Rows, row_dtype
from t3d.errors import EnvFailed, EnvRefused
from t3d.spaces import Spaces

COMMAND = struct.Struct("<qq?")  # index in this worker, seed of the episode to begin, in an instance made anew?
STEP = -1  # instead of a seed: step, with the action that stands in the row
# The starting process alone decides what these mean. Looked up by name: not every system has all of them.
SIGNALS = tuple(known for known in signal.Signals if known.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"))
_PR_SET_PDEATHSIG = 1
_MAX_TRACEBACK = 20_000


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is started with; nothing but numbers and words, as JSON."""

    env: dict[str, Any]  # as `EnvSpec.as_json` gave it
    first: int  # its environments are rows first to first + n_envs - 1
    n_envs: int
    socket: int
    memory: int
    parent: int
    tied: bool  # the kernel may end it with the thread that started it: that is the main one


class Made(NamedTuple):
    """What a worker says of its environments."""

    spaces: Spaces
    period_s: float | None
    drawn_by: str


def main(task: Task) -> None:
    """Serve until the starting process says it is enough, or is no more."""
    _ignore_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _end_with_parent(task)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    # By whole lines: what an environment printed is not lost with it, nor torn by what another one prints.
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    connection = Connection(task.socket)
    try:
        instances = Instances(EnvSpec.from_json(task.env), task.n_envs)
    except EnvRefused as error:
        connection.send_bytes(_message(error, error.__cause__))
        return
    _ignore_signals()
    connection.send_bytes(msgspec.json.encode(Made(instances.spaces, instances.period_s, instances.drawn_by)))
    try:
        rows = map_rows(task.memory, instances.spaces, int(connection.recv_bytes()))
        instances.rows = Rows.of(rows[task.first : task.first + task.n_envs])
        _serve(connection, instances)
    except (EOFError, ConnectionError):
        pass  # the starting process is no more, so nobody is left to tell
    finally:
        instances.close()


def map_rows(memory: int, spaces: Spaces, n_envs: int) -> NDArray[np.void]:
    """Return the rows (N,) that stand in a file of shared memory; they keep it mapped as long as they live."""
    dtype = row_dtype(spaces)
    return np.frombuffer(mmap.mmap(memory, n_envs * dtype.itemsize), dtype)


def _serve(connection: Connection, instances: Instances) -> None:
    while command := connection.recv_bytes():
        i, seed, anew = COMMAND.unpack(command)
        answer = b""
        try:
            if seed == STEP:
                instances.begin_step(i, instances.rows.action[i])
            else:
                instances.begin_reset(i, seed, anew=anew)
                _ignore_signals()
        except Broken as broken:
            answer = _message(broken.failed, broken.__cause__)
        connection.send_bytes(answer)


def _message(error: EnvFailed | EnvRefused, cause: BaseException | None) -> bytes:
    trace = "" if cause is None else "".join(traceback.format_exception(cause))
    refused = isinstance(error, EnvRefused)
    message = {"refused": refused, "what": error.what, "rows": error.rows, "traceback": trace[-_MAX_TRACEBACK:]}
    return json.dumps(message).encode()


def _ignore_signals() -> None:
    """Leave them to the starting process, also after an environment, or a library behind it, has set its handlers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with_parent(task: Task) -> None:
    """Ask the kernel to end this process with its parent, even in the midst of a step; where there is only the socket,
    its end is noticed after the step.
    """
    if sys.platform == "linux" and task.tied:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != task.parent:
        sys.exit(0)
