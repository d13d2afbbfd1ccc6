"""`--pixels`: the observation is the picture that an environment draws, and what it observes itself is hidden."""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from t3d.environments.images import problem_of
from t3d.environments.renderer import Renderer, camera_of
from t3d.environments.values import first_of, five_of
from t3d.errors import EnvFailed, EnvRefused

_log = logging.getLogger("t3d")


def without_a_screen() -> None:
    """Let pygame draw where there is no screen, in this process and those that it starts."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        for name, value in (("SDL_VIDEODRIVER", "dummy"), ("SDL_AUDIODRIVER", "dummy")):
            os.environ.setdefault(name, value)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


class Pixels(gym.Wrapper[Any, Any, Any, Any]):
    """Observe one picture a step, (H, W, 3) of uint8.

    MuJoCo is known by what the environment holds, a model and its data, and drawn small and fast. Any other one is
    asked to render, which takes a first reset, with seed 0, to see how large its picture is. `render` still draws what
    the environment itself does, for films.

    Args:
        env: made to render RGB arrays; nothing of the user's is around it yet.
        name: what it is called.
        size: pixels of a side of what MuJoCo draws.

    Raises:
        EnvRefused: it draws no picture; or it is one physical device.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, size: int) -> None:
        super().__init__(env)
        self._name, self._size, self._looked_at = name, size, False
        self._renderer: Renderer | None = None
        self.drawn_by = "its own render"
        self._shape: tuple[int, ...] | None = None
        try:
            self._begin()
        except EnvFailed as failed:
            raise EnvRefused(failed.what, **failed.rows) from failed.__cause__
        assert self._shape is not None
        self.observation_space = gym.spaces.Box(0, 255, self._shape, np.uint8)

    def _begin(self) -> None:
        if (found := _mujoco_of(self.unwrapped)) is not None:
            self._shape = self._size, self._size, 3
            self.drawn_by = self._mujoco_renderer(found[0]).drawn_by
            return
        if getattr(self.unwrapped, "is_hardware", False):
            raise EnvRefused(
                "--pixels resets an environment to see how large its picture is, and this one is a physical device",
                got=self._name,
                do="let its observations be what its camera sees, and leave --pixels out",
            )
        self.env.reset(seed=0)
        self._shape = self.picture().shape

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; return its first picture, and what the environment tells."""
        given = self.env.reset(seed=seed, options=options)
        first_of(given)
        picture = self.picture()
        if not self._looked_at and (problem := self.problem_of(picture)):
            _warn(self._name, problem)
        self._looked_at = True
        return picture, given[1]

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step; return the picture of where that led, and what else the environment answered."""
        given = self.env.step(action)
        five_of(given)
        return self.picture(), *given[1:]

    def picture(self) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) of where the environment stands.

        Raises:
            EnvFailed: it draws none, or one of another size than before.
        """
        if (found := _mujoco_of(self.unwrapped)) is not None:
            model, data = found
            return self._mujoco_renderer(model).draw(data)
        drawn = self._render()
        if isinstance(drawn, np.ndarray) and drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3:
            if self._shape in (None, drawn.shape) and 0 not in drawn.shape:
                return np.array(drawn, order="C")  # a copy: an environment may draw into the same memory again
            raise EnvFailed(
                "the environment's picture has another size than before",
                got=f"shape {drawn.shape}",
                expected=f"shape {self._shape}" if self._shape else "at least one pixel",
                do="let its render draw pictures of one size",
            )
        kind = f"{drawn.dtype}, shape {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
        mode = self.env.render_mode
        raise EnvFailed(
            "the environment draws no picture",
            got=f"{kind}, render_mode {mode}",
            expected="an array of uint8, shape (H, W, 3)",
            do="let what makes it take render_mode, and pass that on" if mode is None else "see its render",
        )

    def problem_of(self, picture: NDArray[np.uint8]) -> str:
        """Return what is wrong with a picture from which somebody is to learn, and what to do; empty if nothing is."""
        what = problem_of(picture)
        return what and f"{what}; {self._renderer.other_view() if self._renderer else 'see its render'}"

    def render(self) -> Any:
        """Return what the environment itself draws, at its own size."""
        self._large_viewer()
        return self.env.render()

    def close(self) -> None:
        """Close the environment, and what draws it."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if viewer := self._large_viewer():
            viewer.con.free()
        super().close()

    def _large_viewer(self) -> Any:
        """Return what Gymnasium draws MuJoCo with, once it has done so; it expects that its own context is current."""
        viewer = getattr(getattr(self.unwrapped, "mujoco_renderer", None), "viewer", None)
        if viewer is not None:
            viewer.make_context_current()
        return viewer

    def _render(self) -> Any:
        try:
            return self.env.render()
        except NotImplementedError as error:  # of gymnasium.Env, in the place of one of its own
            do = "let it have a render that returns an RGB array"
            raise EnvFailed("the environment has no render", got=type(self.unwrapped).__qualname__, do=do) from error

    def _mujoco_renderer(self, model: Any) -> Renderer:
        """Return what draws the model; another one where the environment has made itself another model."""
        if self._renderer is None or self._renderer.model is not model:
            if self._renderer is not None:
                self._renderer.close()
            own = getattr(self.unwrapped, "mujoco_renderer", None)
            settings = getattr(own, "default_cam_config", None) or {}
            camera = camera_of(model, getattr(own, "camera_id", None), settings)
            self._renderer = Renderer(model, camera, self._size)
        return self._renderer


def _mujoco_of(env: Any) -> tuple[Any, Any] | None:
    """Return the model and the data of MuJoCo that an environment holds; None if it holds none."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return None
    model, data = getattr(env, "model", None), getattr(env, "data", None)
    return (model, data) if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None


@functools.cache
def _warn(name: str, what: str) -> None:
    """Say something of an environment once in this process."""
    _log.warning("%s: %s", name, what)
