"""`--action-repeat`: one action is played for several frames of an environment."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym

from t3d.environments.values import five_of, flag_of, reward_of


class RepeatedActions(gym.Wrapper[Any, Any, Any, Any]):
    """Play each action for several frames: one step of this is one decision.

    Its reward is the sum of the frames', and everything else is the last frame's. A frame that ends the episode is the
    last one.

    Args:
        env: what is stepped frame by frame.
        times: frames a decision, at most.
        name: what the environment is called.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int, name: str) -> None:
        super().__init__(env)
        self._times, self._name = times, name

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play an action to the last of its frames.

        Raises:
            EnvFailed: a frame gave what no environment may.
        """
        total = 0.0
        for _ in range(self._times):
            given = self.env.step(copy.deepcopy(action))  # an environment may write into it
            obs, reward, terminated, truncated = five_of(given)
            total += reward_of(reward, self._name)
            ends = flag_of(terminated, "terminated", self._name), flag_of(truncated, "truncated", self._name)
            if any(ends):
                break
        return obs, total, *ends, given[4]
