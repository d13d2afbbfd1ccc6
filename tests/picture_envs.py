"""Environments that are seen as pictures: what they ask of an algorithm is known, and small enough to learn at once."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

SIDE = 16


class Picture(gymnasium.Env):
    """A grey picture of SIDE pixels and one action in [-1, 1]; a subclass says what is drawn and what is right."""

    observation_space = Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space = Box(-1, 1, (1,), np.float32)
    episode_steps = 4

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.begin()
        return self.picture(), {}

    def step(self, action):
        reward = -float((action[0] - self.right()) ** 2)
        self.steps += 1
        self.go_on()
        return self.picture(), reward, False, self.steps >= self.episode_steps, {}

    def picture(self):
        drawn = np.zeros((SIDE, SIDE, 1), np.uint8)
        drawn[:, max(0, self.at - 1) : self.at + 2] = 255
        return drawn

    def render(self):
        return self.picture().repeat(3, axis=2)


class Bar(Picture):
    """Where the bright bar stands is the right action: -1 on the left, 1 on the right."""

    def begin(self):
        self.at = int(self.np_random.integers(SIDE))

    go_on = begin

    def right(self):
        return 2 * self.at / (SIDE - 1) - 1


class Moving(Picture):
    """Which way the bar moves is the right action, and a single frame does not show it."""

    episode_steps = 5

    def begin(self):
        self.at = int(self.np_random.integers(SIDE))
        self.way = int(self.np_random.choice([-1, 1]))

    def go_on(self):
        self.at = (self.at + self.way) % SIDE  # so that where it stands tells nothing

    def right(self):
        # Nobody can know it at the first step: half of the way is then right for both.
        return 0.8 * self.way if self.steps else 0.0


class Camera(Picture):
    """A larger picture in colour, of which every pixel of every step is another, and a vector beside it."""

    observation_space = Dict(
        {"camera": Box(0, 255, (24, 20, 3), np.uint8), "joints": Box(-np.inf, np.inf, (2,), np.float32)}
    )

    def __init__(self, episode_steps=7):
        self.episode_steps = episode_steps

    def begin(self):
        self.length = int(self.np_random.integers(1, self.episode_steps + 1))

    def go_on(self):
        pass

    def picture(self):
        camera = self.np_random.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        return {"camera": camera, "joints": self.np_random.standard_normal(2).astype(np.float32)}

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self.steps >= self.length, info

    def right(self):
        return 0.0


class Cracked(Camera):
    """Measures no number from the third step on."""

    def picture(self):
        observed = super().picture()
        return {**observed, "joints": np.array([np.nan, 0], np.float32)} if self.steps > 3 else observed
