"""Training, one step at a time: a Collector acts and stores, a Learner makes the updates that are due."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from t3d.config import BURST_STEPS, Config
from t3d.env_spec import EnvSpec
from t3d.environments.envs import Envs, Episode
from t3d.formats import TrainerState
from t3d.policy.normalizer import Normalizer
from t3d.replay import Replay, slot_dtype
from t3d.td3 import TD3
from t3d.training.collector import Collector
from t3d.training.learner import Learner
from t3d.training.limits import least_state_bytes, refuse_for_images, refuse_missing_device, refuse_too_large
from t3d.training.randomness import Streams, episode_seed
from t3d.variants.contract import algorithm_of


class Trainer:
    """Own everything that training needs: environments, replay memory, agent and random streams.

    Args:
        env: which environment.
        config: how to train.
        algorithm: TD3 or TD7, or a subclass that changes it; None takes the one that config names.

    Raises:
        Refused: the algorithm, the environment, the options or this machine's memory make it impossible.
    """

    def __init__(self, env: EnvSpec, config: Config, algorithm: type[TD3] | None = None) -> None:
        config.check_together()
        trained_by = algorithm_of(config, algorithm)
        refuse_missing_device(config.device)
        self.config = config
        self.streams = Streams.from_seed(config.seed)
        envs = Envs(
            env.looked_at(config.view),
            config.n_envs,
            partial(episode_seed, config.seed),
            config.fresh_envs,
            workers=config.env_workers,
            timeout_s=config.env_timeout,
            max_episode_steps=config.max_episode_steps,
        )
        try:
            self._fill(envs, trained_by)
        except BaseException:
            envs.close()
            raise

    def _fill(self, envs: Envs, trained_by: type[TD3]) -> None:
        config = self.config
        refuse_for_images(envs.spaces, config)
        slots_bytes = config.buffer_size * slot_dtype(envs.spaces).itemsize
        refuse_too_large("the replay memory", slots_bytes, "lower --buffer-size")
        refuse_too_large("the networks", least_state_bytes(config), "lower --hidden")
        self.replay = Replay(config.buffer_size, config.n_envs, envs.spaces, trained_by.prioritized)
        self.normalizer = Normalizer(envs.spaces.vector_size) if config.normalize_obs else None
        self.collector = Collector(envs, self.replay, self.normalizer, self.streams, config)
        self._burst_at = config.random_steps  # env steps at which the last burst of updates began; the first is none
        self.learner = Learner(envs.spaces, config, self.replay, self.normalizer, self.streams, trained_by)

    @property
    def envs(self) -> Envs:
        """The environments, which the collector steps."""
        return self.collector.envs

    @property
    def agent(self) -> TD3:
        """The agent, which the learner teaches."""
        return self.learner.agent

    @property
    def env_steps(self) -> int:
        """Env steps taken so far, over all environments together."""
        return self.envs.env_steps

    def step(self) -> list[Episode]:
        """Act once in every environment, store what happened, and make the updates that are due.

        Those that wait for an episode's end (`train_at = episode`) are made some at a time: until none is due, a step
        is updates alone. With `beside` they are those that the step before has earned, made while environments step.

        Returns:
            The episodes that ended with this step.

        Raises:
            EnvFailed, Diverged: as `Collector.step`.
        """
        act = self.learner.engine.act
        if self.config.train_at == "beside":
            return self.collector.step(act, partial(self.learner.update, self.updates_due))
        episodes = [] if self.in_burst else self.collector.step(act)
        self.learner.update(self._updates_now(episodes))
        return episodes

    def _updates_now(self, episodes: Sequence[Episode]) -> int:
        if self.config.train_at == "step":
            return self.updates_due
        if self._may_begin(episodes):
            self._burst_at = self.env_steps
        return min(self.learner.part, self.updates_due) if self._burst_at == self.env_steps else 0

    def _may_begin(self, episodes: Sequence[Episode]) -> bool:
        if not self.updates_due:
            return False
        judged = [self.agent.episode_ended(episode.episode_return) for episode in episodes]
        return any(judged) or self.env_steps - self._burst_at >= BURST_STEPS[self.config.algorithm]

    @property
    def in_burst(self) -> bool:
        """Whether updates that have waited for an episode's end are being made."""
        return self.config.train_at == "episode" and self._burst_at == self.env_steps and self.updates_due > 0

    @property
    def waits(self) -> bool:
        """Whether updates are due that wait for an episode's end."""
        return self.config.train_at == "episode" and self.updates_due > 0

    @property
    def updates_due(self) -> int:
        """How many updates the env steps so far have earned that are not made yet."""
        return self.config.updates_at(self.env_steps) - self.agent.updates

    def state(self) -> tuple[dict[str, torch.Tensor], TrainerState]:
        """Return everything that decides how training goes on, but the replay memory's completed slots.

        Returns:
            Tensors by name, on the host, and the rest. Good until the next step: the tensors may be the trainer's own.
        """
        tensors = self.learner.state() | self.collector.state() | self._statistics() | self._priorities()
        written = list(self.replay.written)
        return tensors, TrainerState(self.agent.updates, self._burst_at, self.streams.state, self.envs.state, written)

    def restore(
        self, tensors: Mapping[str, torch.Tensor], state: TrainerState, rows: Sequence[NDArray[Any]]
    ) -> list[str]:
        """Go on where another trainer of the same environment and configuration stood.

        Args:
            tensors: of its `state`.
            state: the rest of it.
            rows: of each env stream the slots before its open one, from `slots_needed` on.

        Returns:
            What could not be brought back, a sentence each; empty if from here on every bit will be as it would
            have been.

        Raises:
            KeyError, TypeError, ValueError: the tensors or the rest are those of another trainer, or of none.
        """
        self._refuse_other_tensors(tensors)
        self.learner.restore(tensors, state.updates)
        if self.normalizer is not None:
            self.normalizer.restore({name: tensors[name].numpy() for name in self._statistics()})
        self.streams.restore(state.streams)
        differs = self.collector.restore(tensors, state.envs, state.written, rows)
        if self.replay.priorities is not None:
            self.replay.priorities.restore(tensors["priorities"].numpy(), tensors["largest_priority"].numpy())
        self._burst_at = state.burst_at
        if self.updates_due not in self._may_be_due():
            raise ValueError(f"{self.agent.updates:,} updates after {self.env_steps:,} env steps")
        return differs

    def _may_be_due(self) -> Container[int]:
        """Return how many updates may be due between two steps."""
        earned = self.config.updates_at(self.env_steps)
        if self.config.train_at == "beside":  # those of the last step; none, where the one after it failed
            return 0, earned - self.config.updates_at(self.env_steps - self.config.n_envs)
        waiting = self.config.train_at == "episode" and self._burst_at <= self.env_steps
        return range(earned + 1 if waiting else 1)

    def _statistics(self) -> dict[str, torch.Tensor]:
        if self.normalizer is None:
            return {}
        return {name: torch.from_numpy(array) for name, array in self.normalizer.state().items()}

    def _priorities(self) -> dict[str, torch.Tensor]:
        priorities = self.replay.priorities
        if priorities is None:
            return {}
        # The largest is made anew, not moved: a tensor of its own for this moment.
        largest = torch.from_numpy(priorities.largest.copy())
        return {"priorities": torch.from_numpy(priorities.of), "largest_priority": largest}

    def _refuse_other_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        expected, _ = self.state()
        expected["seen"] = torch.zeros(len(tensors["seen"]), 5).double()
        expected.pop("action", None)
        if "action" in tensors:
            expected["action"] = torch.zeros(len(self.envs), self.envs.spaces.action_size)
        if differ := sorted(set(tensors) ^ set(expected)):
            raise ValueError(f"tensors are missing or unknown: {', '.join(differ)[:500]}")
        for name, tensor in expected.items():
            given = tensors[name]
            if given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise ValueError(f"{name} is {given.dtype} {tuple(given.shape)}")
            if name != "seen" and not torch.isfinite(given).all():
                raise ValueError(f"{name} is not finite")


def slots_needed(config: Config, state: TrainerState) -> list[int]:
    """Return of each env stream the first position that `Trainer.restore` needs: of its ring and of its episode."""
    return [
        max(0, min(written - config.slots_per_env, written - 1 - steps))
        for written, steps in zip(state.written, state.envs.length, strict=True)
    ]
