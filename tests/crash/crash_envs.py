"""Environments that take their time. Used as "path/to/crash_envs.py:Class"."""

import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Slow(gymnasium.Env):
    """Each step takes half a millisecond and more."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    step_s = 0.0005

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.at.copy(), {}

    def step(self, action):
        time.sleep(self.step_s)
        self.steps += 1
        self.at = 0.9 * self.at + action
        return self.at.copy(), -float(np.square(self.at).sum()), False, self.steps >= 50, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)


class Hangs(Slow):
    """Never answers."""

    step_s = 3600
