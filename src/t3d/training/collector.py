"""The half of training that needs an environment: act, step the environments, store what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.config import Config
from t3d.environments.envs import Envs, Episode
from t3d.formats import EnvsState
from t3d.frames import vectors_of
from t3d.policy.normalizer import Normalizer, as_networks_see
from t3d.replay import Replay
from t3d.training.evaluation import Act
from t3d.training.randomness import Streams


class Collector:
    """Play with exploration noise, and remember.

    Args:
        envs: where.
        replay: what happens is stored here.
        normalizer: learns from every observation; None where observations are taken raw.
        streams: its random actions and its exploration are drawn from here.
        config: how long the actions are random, and how loud the exploration is.
    """

    def __init__(
        self, envs: Envs, replay: Replay, normalizer: Normalizer | None, streams: Streams, config: Config
    ) -> None:
        self.envs, self.replay, self.normalizer = envs, replay, normalizer
        self._streams, self._config = streams, config
        self._ended = np.zeros(len(envs), bool)  # whose episode is over and whose next has not begun
        self._action: NDArray[np.float32] | None = None  # drawn, and not played to the end: an environment failed
        replay.begin(envs.obs, np.ones(len(envs), bool))
        self._observe(envs.obs)

    def step(self, act: Act, meanwhile: Callable[[], None] | None = None) -> list[Episode]:
        """Act once in every environment, and store what happened.

        Args:
            act: from observations (N, S), as the networks take them, to actions (N, A), without noise.
            meanwhile: what is done once the actions are chosen and before anything of the step is stored.

        Returns:
            The episodes that ended with this step.

        Raises:
            EnvFailed: an environment raised or gave a non-finite number; nothing of that step was stored, and the
                same step is what `step` does next.
            Diverged: the action is not finite.
        """
        if np.count_nonzero(self._ended):
            self.envs.reset(self._ended)
            self.replay.begin(self.envs.obs, self._ended)
            self._observe(self.envs.obs[self._ended])
            self._ended = np.zeros_like(self._ended)
        if self._action is None:
            self._action = self._draw_action(act)
        action = self._action
        step = self.envs.step(action, meanwhile)
        self._action = None
        self.replay.add(action, step.reward, step.terminated, step.truncated, step.next_obs)
        self._observe(step.next_obs)
        if step.episodes:
            self._ended = step.terminated | step.truncated
        return step.episodes

    def _observe(self, obs: NDArray[Any]) -> None:
        if self.normalizer is not None:
            self.normalizer.observe(vectors_of(self.envs.spaces, obs))

    def _draw_action(self, act: Act) -> NDArray[np.float32]:
        shape, env_steps = (len(self.envs), self.envs.spaces.action_size), self.envs.env_steps
        if env_steps < self._config.random_steps:
            return self._streams.random_actions.uniform(-1, 1, shape).astype(np.float32)
        noise = self._streams.exploration.standard_normal(shape, np.float32)
        noise *= self._config.exploration_noise_at(env_steps)
        noise += act(as_networks_see(self.envs.seen, self.normalizer))
        np.maximum(noise, -1, out=noise)
        return np.minimum(noise, 1, out=noise)

    @property
    def between_episodes(self) -> bool:
        """Whether every episode is over, and none has begun."""
        return bool(self._ended.all())

    def end_episodes(self) -> None:
        """Leave the episodes as they are, and begin others with the next step."""
        self._ended = np.ones_like(self._ended)
        self._action = None

    def state(self) -> dict[str, torch.Tensor]:
        """Return where it stands, beside what the environments say of themselves; not copies."""
        tensors = {"obs": torch.from_numpy(self.envs.obs), "ended": torch.from_numpy(self._ended)}
        if self._action is not None:
            tensors["action"] = torch.from_numpy(self._action)
        return tensors

    def restore(
        self, tensors: Mapping[str, torch.Tensor], state: EnvsState, written: list[int], rows: Sequence[NDArray[Any]]
    ) -> list[str]:
        """Go on where another collector stood.

        Args:
            tensors: of its `state`.
            state: of its environments.
            written: of its replay memory.
            rows: of each env stream the slots before its open one.

        Returns:
            What the environments did not do again, a sentence each.
        """
        obs = tensors["obs"].numpy()
        self._ended = tensors["ended"].numpy().copy()
        self._action = tensors["action"].numpy().copy() if "action" in tensors else None
        self.replay.restore(written, rows, obs)
        if self._config.on_resume == "reset":
            self.end_episodes()
        played = [
            None if self._ended[i] else rows[i][max(0, len(rows[i]) - length) :]
            for i, length in enumerate(state.length)
        ]
        differs = self.envs.restore(state, obs, played)
        for i, was in enumerate(differs):
            self._ended[i] |= was is not None
        reset = ["a new episode begins, as asked (--on-resume reset)"] * (self._config.on_resume == "reset")
        return [*reset, *(was for was in differs if was is not None)]
