"""What a node of a cluster does for a run: see that it is in the right place, and train it in a child.

Nothing here knows Ray: `cluster.py` hands these functions to it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

from t3d.errors import RunRefused
from t3d.execution.jobs import LEAVES_S, Job, wait_for
from t3d.execution.processes import Child
from t3d.machine import versions
from t3d.storage.lock import Lock

_LOOK_S = 1.0  # a look at a file that all nodes share, for each run
_WAITS_S = 120  # for the lock of a run whose former child may still be saving
_STOPPED = 143  # as a run that SIGTERM has stopped


class Sent(NamedTuple):
    """A file of code that travels with a job: itself, not what it imports."""

    path: str  # where it lies on the machine of the command
    copy: str  # in the folder that all nodes see
    sha256: str


class Order(NamedTuple):
    """All that a node must know of a run."""

    job: Job
    files: tuple[Sent, ...]
    environment: dict[str, str]  # variables of the command
    parent: str  # the folder that all nodes must see
    mark: str  # the content of the marker in there
    stop: str  # a file that appears when the run is to save and stop


class Ended(NamedTuple):
    """How a run's child has ended."""

    exit_code: int
    words: str  # its last


class Lost(Exception):
    """A child was killed, and nobody had asked for it: the run can go on, here or elsewhere."""


def look_around(parent: str, mark: str) -> dict[str, str]:
    """Return what must be the same on every node: versions, and if it sees the command's folder and lock.

    Args:
        parent: a folder in which the command holds a lock.
        mark: what the command has written into its marker.
    """
    marker = marker_in(Path(parent))
    sees = "nothing" if not marker.is_file() else "it" if marker.read_text("utf-8") == mark else "another one"
    if sees == "it":
        try:
            Lock(Path(parent)).close()
            sees = "it, but not that it is locked"
        except RunRefused:
            pass  # as it should be: the command holds it
    return {**versions(), "python": platform.python_version(), "folder": sees}


def marker_in(parent: Path) -> Path:
    """Return the file by which nodes know the folder."""
    return parent / "cluster"


def train(order: Order) -> Ended:
    """Train a run in a child, or go on with it, until it ends or is to stop.

    Raises:
        Lost: the child was killed.
        RunRefused: this node does not see the folder, or not the code that was sent.
    """
    if (sees := look_around(order.parent, order.mark)["folder"]) != "it":
        raise RunRefused("this node does not see the folder of the command", got=f"{order.parent}: {sees}")
    wait_for(Path(order.job.out), _WAITS_S)
    if Path(order.stop).exists():  # while it waited for room
        return Ended(_STOPPED, "stopped before it began")
    child, asked = Child(placed(order)), False
    gpu = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    try:
        child.start({**order.environment, **gpu}, "t3d.execution.apart")
        while child.running and not asked:
            if asked := Path(order.stop).exists():
                child.stop()
            else:
                time.sleep(_LOOK_S)
    finally:
        child.close(time.monotonic() + LEAVES_S)
    standing = child.look()
    assert standing.exit_code is not None
    if standing.exit_code < 0 and not asked:
        raise Lost(standing.problem)
    return Ended(standing.exit_code, standing.problem)


def placed(order: Order) -> Job:
    """Return the order's job for this node: code that is not here, or another, is taken from its copy.

    Raises:
        RunRefused: the copy is not what was sent.
    """
    env = order.job.env
    names = [env["name"], *env["wrappers"], order.job.algorithm]
    for file in order.files:
        here = file.path if holds(Path(file.path), file.sha256) else file.copy
        if here == file.copy and not holds(Path(here), file.sha256):
            raise RunRefused("a file of code is not what was sent", got=here, expected=f"SHA-256 {file.sha256}")
        names = [
            f"{here}:{name.rpartition(':')[2]}" if name.rpartition(":")[0] == file.path else name for name in names
        ]
    return order.job._replace(env={**env, "name": names[0], "wrappers": names[1:-1]}, algorithm=names[-1])


def holds(path: Path, sha256: str) -> bool:
    """Return whether a file is there and has this checksum."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
