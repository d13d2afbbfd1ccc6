"""Keep what libraries print on their own from the terminal and from the user's folder."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import sys
from collections.abc import Iterator

_MUJOCO_GL = {"egl", "osmesa", "glfw", "disable"}


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Send what C code writes to a file descriptor nowhere."""
    _flush()
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)


def send_nowhere(descriptor: int) -> None:
    """Let what is still written to a file descriptor go nowhere: its terminal is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _flush() -> None:
    """Hand the system what Python's and C's own buffers hold: where stdout is no terminal, C code keeps its words."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None if os.name == "posix" else "ucrtbase").fflush(None)


def quiet_pybullet() -> contextlib.AbstractContextManager[None]:
    """Keep PyBullet's own words (`argv[0]=`, printed by C code when it connects) from stdout."""
    return silenced(1) if "pybullet_envs_gymnasium" in sys.modules else contextlib.nullcontext()


def tame_mujoco() -> None:
    """Send MuJoCo's warnings to the log: without a handler it prints, and writes MUJOCO_LOG.TXT where it is run."""
    if "mujoco" in sys.modules:
        _tame_mujoco()


# How often MuJoCo has called a simulation in this process unstable (once an episode, at most).
unstable_simulations = 0


@functools.cache
def _tame_mujoco() -> None:
    import mujoco

    log = logging.getLogger("t3d.mujoco")

    def handle(message: str) -> None:
        global unstable_simulations
        unstable_simulations += "unstable" in message
        log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message.strip())

    mujoco.set_mju_user_warning(handle)


@contextlib.contextmanager
def any_mujoco_gl(drawing: bool) -> Iterator[None]:
    """Unless something is to be drawn, hide a MUJOCO_GL that names no renderer: MuJoCo could not be imported."""
    given = os.environ.get("MUJOCO_GL", "egl")
    if drawing or given.lower() in _MUJOCO_GL:
        yield
        return
    del os.environ["MUJOCO_GL"]
    try:
        yield
    finally:
        os.environ["MUJOCO_GL"] = given
