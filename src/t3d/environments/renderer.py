"""Draw a MuJoCo model small and fast, as an observation: no shadows, reflections, skybox, haze and multisampling.

What OpenGL draws with is tried in a child process first, since a failed driver can abort its process; what worked is
chosen for the whole process, and handed down to those that it starts. MuJoCo is imported by those alone who have it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.errors import EnvRefused

# Packages of mujoco, by the names that MUJOCO_GL gives them; those that need no screen come first.
_BACKENDS = ("egl", "osmesa", "glfw") if sys.platform == "linux" else ("glfw",)
# Beside MUJOCO_GL: which of them was tried, and the driver's own name, as in "egl, llvmpipe (LLVM 15.0.6, 256 bits)".
_TRIED = "T3D_MUJOCO_GL_TRIED"
_TRIAL_S = 60.0
_TRIAL = """
import importlib, sys
import mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 50)
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode(), end="")
"""
_MAX_GEOMS = 10_000  # as in mujoco.Renderer; more are left out


class Renderer:
    """Draw a model as a square picture.

    The model is as it was before once this is made, so that its physics and larger pictures of it are, too.

    Args:
        model: a `mujoco.MjModel`.
        camera: a `mujoco.MjvCamera`.
        size: pixels of a side.

    Raises:
        EnvRefused: OpenGL does not work here.
    """

    def __init__(self, model: Any, camera: Any, size: int) -> None:
        import mujoco

        self._mujoco, self.model, self._size = mujoco, model, size
        self.drawn_by = choose()
        self._context = _context(self.drawn_by.partition(",")[0], size)
        self._context.make_current()
        quality, whole = model.vis.quality, model.vis.global_
        kept = quality.offsamples, whole.offwidth, whole.offheight
        quality.offsamples, whole.offwidth, whole.offheight = 0, size, size
        self._drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        quality.offsamples, whole.offwidth, whole.offheight = kept
        self._end = weakref.finalize(self, _end, self._context, self._drawer)
        self._end.atexit = False  # its display may be gone by then
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawer)
        self._scene, self._rect = mujoco.MjvScene(model, _MAX_GEOMS), mujoco.MjrRect(0, 0, size, size)
        self._camera, self._option, self._nothing = camera, mujoco.MjvOption(), mujoco.MjvPerturb()
        flag = mujoco.mjtRndFlag
        left_out = flag.mjRND_SHADOW, flag.mjRND_REFLECTION, flag.mjRND_SKYBOX, flag.mjRND_HAZE
        self._left_out = [int(flag) for flag in left_out]

    def draw(self, data: Any) -> NDArray[np.uint8]:
        """Return the picture (size, size, 3) of where the model stands.

        Args:
            data: its `mujoco.MjData`, which is only read.
        """
        mujoco, everything = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, data, self._option, self._nothing, self._camera, everything, self._scene)
        self._scene.flags[self._left_out] = 0
        # Another environment of this process may have drawn meanwhile.
        self._context.make_current()
        mujoco.mjr_render(self._rect, self._scene, self._drawer)
        upside_down = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(upside_down, None, self._rect, self._drawer)
        return upside_down[::-1].copy()

    def other_view(self) -> str:
        """Return what to add to a command for another view, in words."""
        if cameras := _cameras(self.model):
            return f"take another camera: --env-arg camera_id=N, of {cameras}, or -1, a free one"
        nearer = json.dumps({"distance": round(self._camera.distance / 2, 3)})
        return f"come nearer: --env-arg 'default_camera_config={nearer}', or give azimuth, elevation and lookat there"

    def close(self) -> None:
        """Give back what OpenGL holds."""
        self._end()


def _context(backend: str, size: int) -> Any:
    if backend == "egl":
        from mujoco.egl import GLContext
    elif backend == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.glfw import GLContext
    return GLContext(size, size)


def _end(context: Any, drawer: Any) -> None:
    # Freed while another context is current, or later by itself, it would take that one's buffers with it.
    context.make_current()
    drawer.free()
    context.free()


def camera_of(model: Any, camera_id: int | None, settings: dict[str, Any]) -> Any:
    """Return the camera that Gymnasium's renderer would take, as a `mujoco.MjvCamera`.

    Args:
        model: a `mujoco.MjModel`.
        camera_id: of the model's cameras, -1 for a free one; None takes its camera named track, if it has that.
        settings: of a free camera, by their names in `MjvCamera`.

    Raises:
        EnvRefused: the model has no such camera.
    """
    import mujoco

    if camera_id is None:
        camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, "track")
    if not -1 <= camera_id < model.ncam:
        raise EnvRefused(
            "the model has no such camera",
            got=f"camera_id {camera_id}",
            expected=f"-1, a free one, or one of its own: {_cameras(model) or 'it has none'}",
        )
    camera = mujoco.MjvCamera()
    if camera_id >= 0:
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, camera_id
        return camera
    # Of the model at rest: every instance looks from the same place, whatever its first episode began with.
    at_rest = mujoco.MjData(model)
    mujoco.mj_forward(model, at_rest)
    camera.lookat = np.median(at_rest.geom_xpos, axis=0)
    camera.distance = model.stat.extent
    for name, value in settings.items():
        setattr(camera, name, value)
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE.value
    return camera


def _cameras(model: Any) -> str:
    return ", ".join(f"{i} ({model.camera(i).name})" for i in range(model.ncam))


def choose() -> str:
    """Return what OpenGL draws with in this process, tried once; MUJOCO_GL says it from then on.

    Raises:
        EnvRefused: nothing that could be tried works here.
    """
    given = os.environ.get("MUJOCO_GL", "").strip().lower()
    tried = os.environ.get(_TRIED, "")
    if given and tried.partition(",")[0] == given:
        return tried
    problems = []
    for backend in [given] if given else _BACKENDS:
        driver, problem = _try(backend)
        if not problem:
            hand_down(f"{backend}, {driver}")
            return os.environ[_TRIED]
        problems.append(f"MUJOCO_GL={backend}: {problem}")
    raise EnvRefused(
        "nothing on this machine could draw this MuJoCo environment",
        got="; ".join(problems),
        do="unset MUJOCO_GL"
        if given
        else "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri; elsewhere a driver that has EGL or OSMesa",
    )


def hand_down(drawn_by: str) -> None:
    """Let this process, and those that it starts, draw with what was tried already.

    Args:
        drawn_by: as `choose` returned it, here or in another process; anything else changes nothing.
    """
    backend = drawn_by.partition(",")[0]
    if backend in _BACKENDS:
        os.environ |= {"MUJOCO_GL": backend, _TRIED: drawn_by}


def _try(backend: str) -> tuple[str, str]:
    """Return the driver's name, and what went wrong in the place of it."""
    if backend not in _BACKENDS:
        return "", f"not one of {', '.join(_BACKENDS)}"
    variables = os.environ | {"MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and words
            [sys.executable, "-P", "-c", _TRIAL, backend],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"not done after {_TRIAL_S:g} s"
    if child.returncode == 0:
        return child.stdout.decode(errors="replace"), ""
    words = child.stderr.decode(errors="replace").strip().splitlines()
    return "", (words or [f"exit code {child.returncode}"])[-1]
