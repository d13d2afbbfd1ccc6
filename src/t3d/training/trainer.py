"""Training, one step at a time: act, step the environments, store, update."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.config import Config
from t3d.diagnosis import health
from t3d.engines import choose, choose_threads
from t3d.environments.envs import Envs, Episode
from t3d.errors import ConfigRefused, Diverged
from t3d.formats import TrainerState
from t3d.machine import usable_cores, usable_memory_bytes
from t3d.policy.normalizer import Normalizer
from t3d.replay import Batch, Replay, slot_dtype
from t3d.td3 import TD3, UpdateInfo
from t3d.training.evaluation import Trajectory
from t3d.training.randomness import Streams, episode_seed, health_generator
from t3d.variants.contract import refuse_what_is_not_kept

# The replay may take this share of the memory that this process may use; the rest is for everything else.
_MEMORY_SHARE = 0.8


class Losses(NamedTuple):
    """Means over the updates since they were last asked for. actor_loss is None where the actor never moved."""

    updates: int  # made so far in the run
    critic_loss: float
    actor_loss: float | None
    q1: float
    q2: float | None  # None where the algorithm has no second critic
    target_q: float


class Trainer:
    """Own everything that learning needs: environments, replay memory, agent and random streams.

    Args:
        env: which environment, as for `make.make`.
        config: how to train.
        algorithm: TD3, or a subclass that changes it.

    Raises:
        Refused: the algorithm, the environment, the options or this machine's memory make it impossible.
    """

    def __init__(self, env: str, config: Config, algorithm: type[TD3] = TD3) -> None:
        config.check_together()
        _refuse_missing_device(config.device)
        self.config = config
        self.streams = Streams.from_seed(config.seed)
        self.envs = Envs(
            env,
            config.n_envs,
            partial(episode_seed, config.seed),
            config.fresh_envs,
            workers=config.env_workers,
            timeout_s=config.env_timeout,
        )
        spaces = self.envs.spaces
        slots_bytes = config.buffer_size * slot_dtype(spaces).itemsize
        refuse_too_large("the replay memory", slots_bytes, "lower --buffer-size")
        refuse_too_large("the networks", least_state_bytes(config), "lower --hidden")
        self.replay = Replay(config.buffer_size, config.n_envs, spaces)
        self.replay.begin(self.envs.obs, np.ones(config.n_envs, bool))
        self.normalizer = Normalizer(spaces.obs_size) if config.normalize_obs else None
        self._observe(self.envs.obs)
        self.agent = algorithm(spaces, config.td3, self.streams.networks, device=config.device)
        refuse_what_is_not_kept(self.agent)
        if config.threads == "auto":
            self.threads = choose_threads(spaces, config.td3.hidden, config.batch_size, usable_cores())
        else:
            self.threads = config.threads
        torch.set_num_threads(self.threads)  # for what PyTorch computes itself, whichever the engine
        self.chosen = choose(config.engine, self.agent, self.threads)
        self.engine = self.chosen.engine
        self._seen: list[UpdateInfo] = []
        self._ended = np.zeros(config.n_envs, bool)  # whose episode is over and whose next has not begun
        self._action: NDArray[np.float32] | None = None  # drawn, and not played to the end: an environment failed

    @property
    def env_steps(self) -> int:
        """Env steps taken so far, over all environments together."""
        return self.envs.env_steps

    def step(self) -> list[Episode]:
        """Act once in every environment, store what happened, and make the updates that are due.

        Returns:
            The episodes that ended with this step.

        Raises:
            EnvFailed: an environment raised or gave a non-finite number; nothing of that step was stored, and the
                same step is what `step` does next.
            Diverged: the actor's action is not finite.
        """
        if np.count_nonzero(self._ended):
            self.envs.reset(self._ended)
            self.replay.begin(self.envs.obs, self._ended)
            self._observe(self.envs.obs[self._ended])
            self._ended = np.zeros_like(self._ended)
        if self._action is None:
            self._action = self._draw_action()
        action = self._action
        step = self.envs.step(action)
        self._action = None
        self.replay.add(action, step.reward, step.terminated, step.truncated, step.next_obs)
        self._observe(step.next_obs)
        if step.episodes:
            self._ended = step.terminated | step.truncated
        for _ in range(self._updates_due()):
            self._update()
        return step.episodes

    def _observe(self, obs: NDArray[np.float32]) -> None:
        if self.normalizer is not None:
            self.normalizer.observe(obs)

    def as_seen(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return observations (B, S) as the networks take them: normalised, if that is asked for."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actor's actions (N, A), without noise, for observations (N, S) as an environment gives them.

        `TD3` computes them, whatever the engine: a policy loaded later then repeats an evaluation bit by bit.
        """
        return self.agent.act(self.as_seen(obs))

    def _draw_action(self) -> NDArray[np.float32]:
        shape = (len(self.envs), self.envs.spaces.action_size)
        if self.env_steps < self.config.random_steps:
            return self.streams.random_actions.uniform(-1, 1, shape).astype(np.float32)
        noise = self.streams.exploration.standard_normal(shape, np.float32)
        noise *= self.config.exploration_noise_at(self.env_steps)
        noise += self.engine.act(self.as_seen(self.envs.obs))
        np.maximum(noise, -1, out=noise)
        return np.minimum(noise, 1, out=noise)

    def _updates_due(self) -> int:
        learning_steps = max(0, self.env_steps - self.config.random_steps)
        return int(learning_steps * self.config.updates_per_step) - self.agent.updates

    def _update(self) -> None:
        size = self.config.batch_size
        index = self.replay.draw(self.streams.index, size)
        noise = self.streams.target_noise.standard_normal((size, self.envs.spaces.action_size), np.float32)
        self._seen.append(self.engine.update(self._batch(index), noise))

    def _batch(self, index: NDArray[np.intp]) -> Batch:
        batch = self.replay.sample(index)
        if self.normalizer is None:
            return batch
        return batch._replace(obs=self.as_seen(batch.obs), next_obs=self.as_seen(batch.next_obs))

    def health_of(self, played: Sequence[Trajectory]) -> health.Numbers:
        """Return what `health.from_evaluation` says of episodes that `act` has played."""
        seen = (p._replace(obs=self.as_seen(p.obs), final_obs=self.as_seen(p.final_obs[None])[0]) for p in played)
        return health.from_evaluation(self.agent, list(seen))

    def health(self) -> health.Numbers:
        """Look at the agent through a batch drawn for that alone: no weight changes, no stream of training is touched.

        Returns:
            What `health.from_batch` says. The replay must hold a transition.
        """
        rng, size = health_generator(self.config.seed, self.env_steps), self.config.batch_size
        index = self.replay.draw(rng, size)
        noise = rng.standard_normal((size, self.envs.spaces.action_size), np.float32)
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
        absent = [[value is None for value in info] for info in self._seen]
        wrong = ~torch.isfinite(losses) & ~torch.tensor(absent, dtype=torch.bool).reshape(-1, 5)
        bad = torch.nonzero(wrong.any(dim=1))
        tensors = [name for name, tensor in self.agent.tensors().items() if not torch.isfinite(tensor).all()]
        if not len(bad) and not tensors:
            return
        if len(bad):
            update = self.agent.updates - len(losses) + 1 + int(bad[0])
            names = [name for name, is_wrong in zip(UpdateInfo._fields, wrong[int(bad[0])], strict=True) if is_wrong]
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

    def state(self) -> tuple[dict[str, torch.Tensor], TrainerState]:
        """Return everything that decides how training goes on, but the replay memory's completed slots.

        Returns:
            Tensors by name, on the host, and the rest. Good until the next step: the tensors may be the trainer's own.
        """
        tensors = {name: tensor.cpu() for name, tensor in self.agent.tensors().items()}
        tensors["obs"] = torch.from_numpy(self.envs.obs)
        tensors["ended"] = torch.from_numpy(self._ended)
        tensors["seen"] = _as_tensor(self._seen)
        tensors |= self._statistics()
        if self._action is not None:
            tensors["action"] = torch.from_numpy(self._action)
        rest = TrainerState(self.agent.updates, self.streams.state, self.envs.state, list(self.replay.written))
        return tensors, rest

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
        for name, tensor in self.agent.tensors().items():
            tensor.copy_(tensors[name])
        self.agent.updates = state.updates
        if self.normalizer is not None:
            self.normalizer.restore({name: tensors[name].numpy() for name in self._statistics()})
        self.streams.restore(state.streams)
        obs = tensors["obs"].numpy()
        self._ended = tensors["ended"].numpy().copy()
        self._action = tensors["action"].numpy().copy() if "action" in tensors else None
        self._seen = [
            UpdateInfo(loss, q1, _or_none(q2), target_q, _or_none(actor_loss))
            for loss, q1, q2, target_q, actor_loss in tensors["seen"].tolist()
        ]
        self.replay = Replay(self.config.buffer_size, self.config.n_envs, self.envs.spaces)
        self.replay.restore(state.written, rows, obs)
        played = [
            None if self._ended[i] else rows[i][max(0, len(rows[i]) - length) :]
            for i, length in enumerate(state.envs.length)
        ]
        differs = self.envs.restore(state.envs, obs, played)
        if self._updates_due():
            raise ValueError(f"{self.agent.updates:,} updates after {self.env_steps:,} env steps")
        for i, was in enumerate(differs):
            self._ended[i] |= was is not None
        return [was for was in differs if was is not None]

    def _statistics(self) -> dict[str, torch.Tensor]:
        if self.normalizer is None:
            return {}
        return {name: torch.from_numpy(array) for name, array in self.normalizer.state().items()}

    def _refuse_other_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        expected = {**self.agent.tensors(), **self._statistics(), "obs": torch.from_numpy(self.envs.obs)}
        expected |= {"ended": torch.from_numpy(self._ended), "seen": torch.zeros(len(tensors["seen"]), 5).double()}
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


def least_state_bytes(config: Config) -> int:
    """Return what the state of any run with these options takes at least: known before a network is built.

    Weights, target and Adam's moments of the actor, as if one number were observed and one played; a changed algorithm
    may have critics of any size.
    """
    weights = sum((a + 1) * b for a, b in itertools.pairwise([1, *config.td3.hidden, 1]))
    return 4 * (4 * weights + config.n_envs)


def slots_needed(config: Config, state: TrainerState) -> list[int]:
    """Return of each env stream the first position that `Trainer.restore` needs: of its ring and of its episode."""
    length = config.buffer_size // config.n_envs
    return [
        max(0, min(written - length, written - 1 - steps))
        for written, steps in zip(state.written, state.envs.length, strict=True)
    ]


def _as_tensor(seen: Sequence[UpdateInfo]) -> torch.Tensor:
    """Return (updates, 5) float64; NaN where there was no such number, as where the actor rested."""
    rows = [[float("nan") if value is None else float(value) for value in info] for info in seen]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)


def _mean(values: Sequence[torch.Tensor | float]) -> float:
    return float(torch.stack([torch.as_tensor(value) for value in values]).mean(dtype=torch.float64))


def _mean_of_any(values: Sequence[torch.Tensor | float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return _mean(found) if found else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


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


def refuse_too_large(what: str, needed_bytes: int, do: str) -> None:
    """Refuse what will not fit into the memory that this process may use.

    Raises:
        ConfigRefused: it would not.
    """
    usable = usable_memory_bytes()
    if needed_bytes > _MEMORY_SHARE * usable:
        raise ConfigRefused(
            f"{what} would not fit",
            got=f"{needed_bytes / 1e9:.1f} GB",
            expected=f"at most {_MEMORY_SHARE:.0%} of the {usable / 1e9:.1f} GB that this process may use",
            do=do,
        )
