"""Environments so small that the right answer is known. Used as "path/to/probes.py:Class"."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

GAMMA = 0.9
EPISODE_STEPS = 5


class Probe(gymnasium.Env):
    """One observation in [-1, 1], one action in [-1, 1]; a subclass says what the rest is."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.obs = self.first()
        return self.see(), {}

    def step(self, action):
        self.steps += 1
        assert self.action_space.contains(action)
        reward = float(self.reward(action))
        return self.see(), reward, self.terminated(), self.truncated(), {}

    def see(self):
        return np.array([self.obs], np.float32)

    def first(self):
        return 0.0

    def terminated(self):
        return True

    def truncated(self):
        return False

    def reward(self, action):
        return 1.0


class ConstantReward(Probe):
    """Probe 1: one step, reward 1. The value is 1, if the critic learns at all."""


class RewardByObs(Probe):
    """Probe 2: one step, the reward is the observation, -1 or 1. So is the value."""

    def first(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def reward(self, action):
        return self.obs


class DelayedReward(Probe):
    """Probe 3: two steps, observations -1 and 1, reward 0 and 1. The values are gamma and 1."""

    def first(self):
        return -1.0

    def reward(self, action):
        self.obs = 1.0 if self.steps == 1 else 0.0
        return float(self.steps == 2)

    def terminated(self):
        return self.steps == 2


class RewardByAction(Probe):
    """Probe 4: one step, best at BEST; two dimensions with bounds of their own, neither symmetric."""

    action_space = Box(np.array([0, -4], np.float32), np.array([1, 2], np.float32))
    BEST = (0.25, 1.0)

    def reward(self, action):
        low, high = self.action_space.low, self.action_space.high
        return 1 - np.square((action - self.BEST) / (high - low)).sum() * 4


class RewardByObsAndAction(Probe):
    """Probe 5: one step, best where the action is half the observation, -1 or 1. The value is then 0."""

    def first(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def reward(self, action):
        return -np.square(action - 0.5 * self.obs).sum()


class EndlessButTruncated(Probe):
    """Reward 1 for ever; a time limit cuts it after EPISODE_STEPS. The value is 1 / (1 - gamma)."""

    def over(self):
        return self.steps == EPISODE_STEPS

    def terminated(self):
        return False

    def truncated(self):
        return self.over()


class Terminated(EndlessButTruncated):
    """The same with a true end, which nothing announces: V = 1 + gamma (1 - 1 / EPISODE_STEPS) V."""

    def terminated(self):
        return self.over()

    def truncated(self):
        return False


class TerminatedOnTheTimeLimit(Terminated):
    """The same, falling on the very step at which the time limit strikes."""

    def truncated(self):
        return self.over()


class Counting(Probe):
    """Four random numbers in [0, 1) at the start; then each step adds 1 to them. Three steps an episode."""

    observation_space = Box(-100, 100, (4,), np.float32)

    def first(self):
        return self.np_random.uniform(0, 1, 4)

    def see(self):
        return np.float32(self.obs + self.steps)

    def terminated(self):
        return self.steps == 3
