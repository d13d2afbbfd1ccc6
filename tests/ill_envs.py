"""Environments in which training goes wrong in a known way. Used as "path/to/ill_envs.py:Class"."""

import gymnasium
import numpy as np
from own_envs import Walk


class HugeObs(Walk):
    """The same walk, seen in other units: a second number around 10,000."""

    def see(self):
        return self.at * np.array([1, 1e4, 1, 1])


class HugeObsSmallReward(HugeObs):
    """The same, with rewards far smaller than what one step of the optimiser does to a critic that sees this."""

    def reward(self):
        return 1e-4 * super().reward()


class SameReward(Walk):
    """Whatever one does, each step gives 0.5, and nothing but the time limit ends an episode."""

    def reward(self):
        return 0.5


class NoReward(Walk):
    """Every step gives 0."""

    def reward(self):
        return 0.0


class EndsAtOnce(Walk):
    """A mistake in the condition for an end: every second step is one."""

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, self.steps >= 2, truncated, info


class HugePendulum(gymnasium.ObservationWrapper):
    """Gymnasium's pendulum, its speed in other units: a third number around 10,000."""

    def __init__(self, render_mode=None):
        super().__init__(gymnasium.make("Pendulum-v1", render_mode=render_mode))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def observation(self, obs):
        return obs * np.float32([1, 1, 1e4])
