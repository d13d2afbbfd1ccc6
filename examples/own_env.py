"""An environment of your own: a flat drone with two rotors that shall fly to a point and stay there.

    t3d check examples/own_env.py:Drone
    t3d train examples/own_env.py:Drone --steps 20000

Any class with Gymnasium's API will do. All chance comes from `self.np_random`, so that runs can be repeated; a crash
terminates an episode, the time limit truncates it: TD3 must know which of the two it was.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

DT_S, EPISODE_STEPS, ROOM_M = 0.02, 200, 2.0
GRAVITY, ROTOR_MAX = 9.81, 9.81  # m/s²; each rotor's full thrust a kilogram of drone: it hovers at half of that
SPIN, DRAG = 30.0, 0.3  # rad/s² at full thrust on one side; of the speed lost a second
PIXELS = 160


class Drone(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Observe (x, z, vx, vz, sin tilt, cos tilt, spin); play the thrusts of the left and right rotor, in [0, 1].

    The reward of a step is 1 at the point, falling with the distance from it, less a little for tilt.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - as Gymnasium declares it
    observation_space = Box(-np.inf, np.inf, (7,), np.float32)
    action_space = Box(0, 1, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.place = self.np_random.uniform(-1, 1, 2)  # m
        self.speed = self.np_random.normal(0, 0.2, 2)  # m/s
        self.tilt, self.spin = self.np_random.normal(0, 0.1, 2)  # rad, rad/s
        return self.observe(), {}

    def observe(self) -> NDArray[np.float32]:
        return np.array([*self.place, *self.speed, np.sin(self.tilt), np.cos(self.tilt), self.spin], np.float32)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        left, right = np.clip(action, 0, 1).astype(float)
        up = np.array([-np.sin(self.tilt), np.cos(self.tilt)])
        self.speed += DT_S * ((left + right) * ROTOR_MAX * up - [0, GRAVITY] - DRAG * self.speed)
        self.spin += DT_S * (SPIN * (right - left) - DRAG * self.spin)
        self.place += DT_S * self.speed
        self.tilt += DT_S * self.spin
        self.steps += 1
        reward = 1 / (1 + 4 * self.place @ self.place) - 0.1 * abs(self.tilt)
        crashed = bool(abs(self.place).max() > ROOM_M or abs(self.tilt) > np.pi / 2)
        return self.observe(), float(reward), crashed, self.steps == EPISODE_STEPS, {}

    def render(self) -> NDArray[np.uint8]:
        picture = np.full((PIXELS, PIXELS, 3), 245, np.uint8)
        self.draw(picture, np.zeros((1, 2)), (200, 80, 60))
        along = np.linspace(-0.2, 0.2, 40)[:, None] * [np.cos(self.tilt), np.sin(self.tilt)]
        self.draw(picture, self.place + along, (15, 113, 115))
        return picture

    def draw(self, picture: NDArray[np.uint8], points: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
        x, z = ((points.T / ROOM_M + 1) / 2 * PIXELS).astype(int).clip(1, PIXELS - 2)
        for side in (-1, 0, 1):
            picture[PIXELS - 1 - z, x + side] = picture[PIXELS - 1 - z + side, x] = colour
