"""Training, one step at a time: act, step the environments, store, update."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.config import Config
from t3d.engines import choose, choose_threads
from t3d.envs import Envs, Episode
from t3d.errors import ConfigRefused, Diverged
from t3d.machine import usable_cores, usable_memory_bytes
from t3d.replay import Replay, slot_dtype
from t3d.streams import Streams, episode_seed
from t3d.td3 import TD3, UpdateInfo

# The replay may take this share of the memory that this process may use; the rest is for everything else.
_REPLAY_SHARE = 0.8


class Losses(NamedTuple):
    """Means over the updates since they were last asked for. actor_loss is None where the actor never moved."""

    updates: int  # made so far in the run
    critic_loss: float
    actor_loss: float | None
    q1: float
    q2: float
    target_q: float


class Trainer:
    """Own everything that learning needs: environments, replay memory, agent and random streams.

    Args:
        env: which environment, as for `making.make`.
        config: how to train.

    Raises:
        Refused: the environment, the options or this machine's memory make it impossible.
    """

    def __init__(self, env: str, config: Config) -> None:
        config.check_together()
        _refuse_missing_device(config.device)
        self.config = config
        self.streams = Streams.from_seed(config.seed)
        self.envs = Envs(env, config.n_envs, partial(episode_seed, config.seed), config.fresh_envs)
        spaces = self.envs.spaces
        _refuse_too_large(config.buffer_size * slot_dtype((spaces.obs_size,), spaces.action_size).itemsize)
        self.replay = Replay(config.buffer_size, config.n_envs, spaces.obs_size, spaces.action_size)
        self.replay.begin(self.envs.obs, np.ones(config.n_envs, bool))
        self.agent = TD3(spaces.obs_size, spaces.action_size, config.td3, self.streams.networks, device=config.device)
        sizes = spaces.obs_size, spaces.action_size, config.td3.hidden, config.batch_size
        self.threads = choose_threads(*sizes, usable_cores()) if config.threads == "auto" else config.threads
        torch.set_num_threads(self.threads)  # for what PyTorch computes itself, whichever the engine
        self.chosen = choose(config.engine, self.agent, self.threads)
        self.engine = self.chosen.engine
        self._seen: list[UpdateInfo] = []

    @property
    def env_steps(self) -> int:
        """Env steps taken so far, over all environments together."""
        return self.envs.env_steps

    def step(self) -> list[Episode]:
        """Act once in every environment, store what happened, and make the updates that are due.

        Returns:
            The episodes that ended with this step.

        Raises:
            EnvFailed: an environment raised or gave a non-finite number; nothing of that step was stored.
        """
        action = self._action()
        step = self.envs.step(action)
        self.replay.add(action, step.reward, step.terminated, step.truncated, step.next_obs)
        if step.episodes:
            ended = step.terminated | step.truncated
            self.envs.reset(ended)
            self.replay.begin(self.envs.obs, ended)
        for _ in range(self._updates_due()):
            self._update()
        return step.episodes

    def _action(self) -> NDArray[np.float32]:
        shape = (len(self.envs), self.envs.spaces.action_size)
        if self.env_steps < self.config.random_steps:
            return self.streams.random_actions.uniform(-1, 1, shape).astype(np.float32)
        noise = self.streams.exploration.standard_normal(shape, np.float32)
        action = self.engine.act(self.envs.obs) + np.float32(self.config.exploration_noise) * noise
        return np.minimum(np.maximum(action, np.float32(-1)), np.float32(1))

    def _updates_due(self) -> int:
        learning_steps = max(0, self.env_steps - self.config.random_steps)
        return int(learning_steps * self.config.updates_per_step) - self.agent.updates

    def _update(self) -> None:
        size = self.config.batch_size
        index = self.replay.draw(self.streams.index, size)
        noise = self.streams.target_noise.standard_normal((size, self.envs.spaces.action_size), np.float32)
        self._seen.append(self.engine.update(self.replay.sample(index), noise))

    def losses(self) -> Losses | None:
        """Return the means of the updates since the last call, or None if there were none.

        Raises:
            Diverged: one of them is not finite.
        """
        if not self._seen:
            return None
        seen, self._seen = self._seen, []
        actor = [info.actor_loss for info in seen if info.actor_loss is not None]
        losses = Losses(
            updates=self.agent.updates,
            critic_loss=_mean([info.critic_loss for info in seen]),
            actor_loss=_mean(actor) if actor else None,
            q1=_mean([info.q1 for info in seen]),
            q2=_mean([info.q2 for info in seen]),
            target_q=_mean([info.target_q for info in seen]),
        )
        if not np.isfinite([value for value in losses if value is not None]).all():
            raise Diverged(
                "training has diverged: a loss is not finite",
                got=f"updates {self.agent.updates - len(seen) + 1} to {self.agent.updates}: {losses}",
                expected="finite numbers",
                do="lower --lr, or look at the scale of the observations and rewards with t3d check",
            )
        return losses


def _mean(values: Sequence[torch.Tensor | float]) -> float:
    return float(torch.stack([torch.as_tensor(value) for value in values]).mean(dtype=torch.float64))


def _refuse_missing_device(device: str) -> None:
    if device == "cpu":
        return
    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise ConfigRefused(
            "there is no such device",
            got=f"device = {device}, and this PyTorch ({torch.__version__}) sees {count} CUDA devices",
            expected=f"cpu, or cuda:0 to cuda:{count - 1}" if count else "cpu",
            do="leave --device out",
        )


def _refuse_too_large(replay_bytes: int) -> None:
    usable = usable_memory_bytes()
    if replay_bytes > _REPLAY_SHARE * usable:
        raise ConfigRefused(
            "the replay memory would not fit",
            got=f"{replay_bytes / 1e9:.1f} GB once it is full",
            expected=f"at most {_REPLAY_SHARE:.0%} of the {usable / 1e9:.1f} GB that this process may use",
            do="lower --buffer-size",
        )
