"""The half of training that needs no environment: sample, update, and say what the updates saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.config import Config
from t3d.diagnosis import health
from t3d.engines.choose import choose, choose_threads, multiply_adds, that_draws
from t3d.errors import Diverged
from t3d.frames import shifts
from t3d.machine import usable_cores
from t3d.policy.normalizer import Normalizer, as_networks_see
from t3d.replay import Batch, Replay
from t3d.spaces import Spaces
from t3d.td3 import TD3, UpdateInfo
from t3d.training.randomness import Streams, health_generator
from t3d.variants.contract import refuse_undeclared_parts
from t3d.variants.td7 import COPY_EVERY

# Updates made in one go take less than 0.1 s; what that is follows from sizes alone, so that a run repeats itself.
PART_MULTIPLY_ADDS, PART_UPDATES = 1_000_000_000, 64

_LOSSES = UpdateInfo._fields[:-1]  # what is kept of an update; the TD errors are the memory's alone


class Losses(NamedTuple):
    """Means over the updates since they were last asked for. actor_loss is None where the actor never moved."""

    updates: int  # made so far in the run
    critic_loss: float
    actor_loss: float | None
    q1: float
    q2: float | None  # None where the algorithm has no second critic
    target_q: float


class Learner:
    """An agent that learns from a memory, whoever fills it.

    Args:
        spaces: what the agent sees and takes.
        config: how to train.
        replay: the memory.
        normalizer: what observations are brought to one scale by; None takes them raw.
        streams: its first weights, its batches and its target noise are drawn from here.
        algorithm: TD3, or a subclass that changes it.

    Raises:
        Refused: the algorithm or the options make it impossible.
    """

    def __init__(
        self,
        spaces: Spaces,
        config: Config,
        replay: Replay,
        normalizer: Normalizer | None,
        streams: Streams,
        algorithm: type[TD3] = TD3,
    ) -> None:
        self.replay, self.normalizer = replay, normalizer
        self._streams, self._config = streams, config
        self.agent = algorithm(spaces, config.td3, streams.networks, device=config.device)
        refuse_undeclared_parts(self.agent)
        best = choose_threads(spaces, config, usable_cores())
        self.threads = best if config.threads == "auto" else config.threads
        torch.set_num_threads(self.threads)  # for what PyTorch computes itself, whichever the engine
        self.chosen = choose(config.engine, self.agent, self.threads)
        self.engine = self.chosen.engine
        self.drawing = that_draws(self.engine, replay, normalizer)  # None: the plain path
        amount = multiply_adds(spaces, config)
        self.part = max(1, min(PART_UPDATES, PART_MULTIPLY_ADDS // amount))  # updates made in one go
        self._seen: list[UpdateInfo] = []

    def update(self, count: int = 1) -> None:
        """Make updates. The memory must hold a transition."""
        for made in range(0, count, self.part):
            part = min(self.part, count - made)
            if self.drawing is None:
                self._seen += [self._update() for _ in range(part)]
            else:
                index, noise = self._streams.index, self._streams.target_noise
                size = self._config.batch_size
                self._seen += self.drawing.update_many(self.replay, self.normalizer, index, noise, size, part)

    def _update(self) -> UpdateInfo:
        size = self._config.batch_size
        index = self.replay.draw(self._streams.index, size)
        noise = self._streams.target_noise.standard_normal((size, self.agent.spaces.action_size), np.float32)
        priorities = self.replay.priorities
        by = None if self.agent.spaces.view is None else shifts(self.agent.spaces, self._streams.shifts, size)
        info = self.engine.update(self._batch(index, by), noise, priorities is not None)
        if priorities is not None:
            priorities.note(index, np.asarray(torch.as_tensor(info.td_error).cpu()))
            if self.agent.updates % COPY_EVERY == 0:  # with td7's targets, as published
                priorities.find_largest()
        return info._replace(td_error=None)

    def _batch(self, index: NDArray[np.intp], by: NDArray[np.intp] | None = None) -> Batch[NDArray[np.float32]]:
        gamma = self._config.td3.gamma
        batch = self.replay.sample(index, gamma) if by is None else self.replay.sample(index, gamma, by)
        if self.normalizer is None:
            return batch
        return batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))

    def act(self, obs: NDArray[np.float32], which: str = "current") -> NDArray[np.float32]:
        """Return actions (N, A), without noise, for observations (N, S) as `Envs.seen` gives them.

        The agent computes them, whatever the engine.

        Args:
            obs: (N, S).
            which: of the agent's `policies`.
        """
        return self.agent.act(as_networks_see(obs, self.normalizer), which)

    def health_of(self, played: Sequence[health.Trajectory]) -> health.Numbers:
        """Return what `health.from_evaluation` says of episodes that `act` has played."""
        see, spaces = partial(as_networks_see, normalizer=self.normalizer), self.agent.spaces
        return health.from_evaluation(self.agent, (health.seen(episode, spaces, see) for episode in played))

    def health(self, env_steps: int) -> health.Numbers:
        """Look at the agent through a batch drawn for that alone: no weight changes, no stream of training is touched.

        Args:
            env_steps: taken so far.

        Returns:
            What `health.from_batch` says. The memory must hold a transition.
        """
        rng, size = health_generator(self._config.seed, env_steps), self._config.batch_size
        index = self.replay.draw(rng, size)
        noise = rng.standard_normal((size, self.agent.spaces.action_size), np.float32)
        return health.from_batch(self.agent, self._batch(index), noise, self.replay.age(index))

    @property
    def has_unlogged_updates(self) -> bool:
        """Whether there were updates since `losses` was last called."""
        return bool(self._seen)

    def losses(self) -> Losses | None:
        """Return the means of the updates since the last call, or None if there were none.

        Raises:
            Diverged: one of them is not finite.
        """
        if not self._seen:
            return None
        self.refuse_non_finite()
        seen, self._seen = self._seen, []
        return Losses(
            updates=self.agent.updates,
            critic_loss=_mean([info.critic_loss for info in seen]),
            actor_loss=_mean_of_any([info.actor_loss for info in seen]),
            q1=_mean([info.q1 for info in seen]),
            q2=_mean_of_any([info.q2 for info in seen]),
            target_q=_mean([info.target_q for info in seen]),
        )

    def refuse_non_finite(self) -> None:
        """Look at every loss since the last look and at every weight; nothing that is not finite may be kept.

        Raises:
            Diverged: one is not finite. It names the first such update and the tensors.
        """
        losses = _as_tensor(self._seen)
        absent = [[value is None for value in info[: len(_LOSSES)]] for info in self._seen]
        wrong = ~torch.isfinite(losses) & ~torch.tensor(absent, dtype=torch.bool).reshape(-1, len(_LOSSES))
        bad = torch.nonzero(wrong.any(dim=1))
        tensors = [name for name, tensor in self.agent.tensors().items() if not torch.isfinite(tensor).all()]
        if not len(bad) and not tensors:
            return
        if len(bad):
            update = self.agent.updates - len(losses) + 1 + int(bad[0])
            names = [name for name, is_wrong in zip(_LOSSES, wrong[int(bad[0])], strict=True) if is_wrong]
            where = f"update {update:,} is the first bad one: its {', '.join(names)}"
        else:
            where = f"update {self.agent.updates:,}, the last one, left bad weights"
        now = f"; by update {self.agent.updates:,}: {', '.join(tensors[:8])}" if tensors else ""
        raise Diverged(
            "training has diverged: a loss or a weight is not finite",
            got=where + now + (f" and {len(tensors) - 8} more tensors" if len(tensors) > 8 else ""),
            expected="finite numbers",
            do="lower --lr, or look at the scale of the observations and rewards with t3d check",
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return what it has learned and seen, on the host; good until the next update."""
        return {name: tensor.cpu() for name, tensor in self.agent.tensors().items()} | {"seen": _as_tensor(self._seen)}

    def restore(self, tensors: Mapping[str, torch.Tensor], updates: int) -> None:
        """Go on where another learner of the same options stood.

        Args:
            tensors: of its `state`; same names, shapes and types.
            updates: that it had made.
        """
        for name, tensor in self.agent.tensors().items():
            tensor.copy_(tensors[name])
        self.agent.updates = updates
        self._seen = [
            UpdateInfo(loss, q1, _or_none(q2), target_q, _or_none(actor_loss))
            for loss, q1, q2, target_q, actor_loss in tensors["seen"].tolist()
        ]


def _as_tensor(seen: Sequence[UpdateInfo]) -> torch.Tensor:
    """Return (updates, 5) float64; NaN where there was no such number, as where the actor rested."""
    rows = [[float("nan") if value is None else float(value) for value in info[: len(_LOSSES)]] for info in seen]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(_LOSSES))


def _mean(values: Sequence[torch.Tensor | float]) -> float:
    return float(torch.stack([torch.as_tensor(value).cpu() for value in values]).mean(dtype=torch.float64))


def _mean_of_any(values: Sequence[torch.Tensor | float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return _mean(given) if given else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
