"""Environments of a user's own, most of them misbehaving. Used as "path/to/own_envs.py:Class"."""

import os
import time

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

FAILS_AT = 30  # steps of one instance, so in its second episode


class Walk(gymnasium.Env):
    """A point pushed about: four numbers seen, three actions of different bounds, cut after 20 steps."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float64)
    action_space = Box(np.array([0, -0.4, -2], np.float32), np.array([1, 0.4, 2], np.float32))
    limit = 20

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.steps_ever = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.at = self.np_random.uniform(-1, 1, 4)
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.steps_ever += 1
        self.at = 0.9 * self.at
        self.at[:3] += action.reshape(-1)
        truncated = self.limit is not None and self.steps >= self.limit
        return self.see(), self.reward(), False, truncated, {}

    def see(self):
        return self.at.copy()

    def reward(self):
        return -float(np.square(self.at).sum())

    def render(self):
        frame = np.zeros((65, 97, 3), np.uint8)  # odd sides
        frame[:, : 10 + 4 * self.steps] = (255, 128, 0)
        return frame


class Failing(Walk):
    """Behaves until its step FAILS_AT."""

    @property
    def fails(self):
        return self.steps_ever == FAILS_AT


class NanObs(Failing):
    def see(self):
        seen = self.at.copy()
        if self.fails:
            seen[[1, 3]] = np.nan, -np.inf
        return seen


class InfReward(Failing):
    def reward(self):
        return np.inf if self.fails else super().reward()


class RewardArray(Failing):
    def reward(self):
        return np.array([1.0, 2.0]) if self.fails else super().reward()


class WrongShape(Failing):
    def see(self):
        return self.at[:3].copy() if self.fails else self.at.copy()


class Raises(Failing):
    def reward(self):
        if self.fails:
            raise RuntimeError("the motor is stuck")
        return super().reward()


class RaisesInEveryEpisode(Walk):
    """Fails whoever made it, and however often it was made."""

    def reward(self):
        if self.steps == 13:
            raise RuntimeError("the motor is stuck")
        return super().reward()


class RaisesInReset(Walk):
    def reset(self, *, seed=None, options=None):
        if self.steps_ever:
            raise KeyError("no second episode")
        return super().reset(seed=seed)


class RaisesInFirstReset(Walk):
    def reset(self, *, seed=None, options=None):
        raise KeyError("no episode at all")


class SecondFails(Failing):
    """Of three instances made one after the other only the second fails: every third, counted from the second."""

    made = 0

    def __init__(self):
        super().__init__()
        self.number = SecondFails.made
        SecondFails.made += 1

    def see(self):
        seen = self.at.copy()
        seen[2] = np.nan if self.fails and self.number % 3 == 1 else seen[2]
        return seen


class Square(Walk):
    """Observations and actions in two dimensions each."""

    observation_space = Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = Box(-1, 1, (3, 1), np.float32)

    def see(self):
        return self.at.reshape(2, 2).copy()


class Leaks(Walk):
    """An episode begins where the last one ended."""

    def reset(self, *, seed=None, options=None):
        left = getattr(self, "at", np.zeros(4))
        super().reset(seed=seed)
        self.at += 0.01 * left
        return self.see(), {}


class Unrepeatable(Walk):
    """Draws from a generator that no seed reaches."""

    def see(self):
        return self.at + np.random.default_rng().normal(0, 0.01, 4)


class Endless(Walk):
    limit = None


class Prints(Walk):
    def step(self, action):
        if self.steps == 0:
            print("my own words")
        return super().step(action)


class DrawsNothing(Walk):
    def __init__(self):
        super().__init__()

    def render(self):
        return None if self.render_mode is None else super().render()


class NeedsArguments(Walk):
    def __init__(self, size):
        super().__init__()


class DiscreteActions(Walk):
    action_space = Discrete(3)


class MultiDiscreteActions(Walk):
    action_space = MultiDiscrete([3, 3])


class WholeActions(Walk):
    action_space = Box(-5, 5, (3,), np.int64)


class Unbounded(Walk):
    action_space = Box(-np.inf, np.inf, (3,), np.float32)


class AsGoodAsUnbounded(Walk):
    action_space = Box(-3e38, 3e38, (3,), np.float32)


class LowIsHigh(Walk):
    action_space = Box(np.array([0, 0, 1], np.float32), np.array([1, 1, 1], np.float32))


class LowAboveHigh(Walk):
    def __init__(self):
        super().__init__()
        self.action_space = Box(np.array([0, 2, 0], np.float32), np.array([1, 1, 1], np.float32))


class LowAboveHighLater(Walk):
    """Gymnasium refuses such a Box when it is made, not when it is changed."""

    def __init__(self):
        super().__init__()
        self.action_space = Box(np.zeros(3, np.float32), np.ones(3, np.float32))
        self.action_space.low[1] = 2


class Image(Walk):
    observation_space = Box(0, 255, (64, 64, 3), np.uint8)


class DictObs(Walk):
    observation_space = Dict({"at": Box(-1, 1, (4,)), "gear": Discrete(3)})


class TupleObs(Walk):
    observation_space = Tuple((Box(-1, 1, (4,)), Box(0, 255, (8, 8, 3), np.uint8)))


class NotAnEnv:
    pass


class Hangs(Failing):
    """Does not come back from its step FAILS_AT."""

    def see(self):
        while self.fails:
            time.sleep(3600)
        return super().see()


class HangsInPython(Failing):
    """The same, busy."""

    def see(self):
        while self.fails:
            pass
        return super().see()


class HangsInReset(RaisesInReset):
    def reset(self, *, seed=None, options=None):
        if self.steps_ever:
            time.sleep(3600)
        return super().reset(seed=seed)


class HangsWhenMade(Walk):
    def __init__(self):
        time.sleep(3600)


class HangsWhenClosed(Walk):
    def close(self):
        time.sleep(3600)


class Exits(Failing):
    def see(self):
        if self.fails:
            os._exit(3)
        return super().see()


class Aborts(Failing):
    def see(self):
        if self.fails:
            os.abort()
        return super().see()


class ExitsWhenMade(Walk):
    def __init__(self):
        os._exit(4)


class Slow(Walk):
    def reward(self):
        time.sleep(0.6)
        return super().reward()


class KeepsItsAction(Walk):
    """The reward is how far the action is from the last one."""

    kept = np.zeros(3, np.float32)

    def step(self, action):
        obs, _, *rest = super().step(action)
        reward, self.kept = float(np.abs(action - self.kept).sum()), action
        return obs, reward, *rest


class Unstable(InvertedPendulumEnv):
    """A MuJoCo pendulum that is thrown out of the numbers at its fifth step, and is whole again at the next."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps % 5 == 0:
            self.data.qvel[:] = 1e30
        obs, _, _, _, info = super().step(action)
        return np.nan_to_num(np.clip(obs, -9, 9)), 1.0, self.steps % 10 == 0, False, info
