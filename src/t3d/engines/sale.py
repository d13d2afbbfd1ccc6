"""The fused engine for td7: one update of `variants/td7.py` in one compiled call, as `fused.py` makes TD3's."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t3d.engines import blas_and_threads, sale_entries
from t3d.engines import kernels as shared
from t3d.engines import sale_kernels as k
from t3d.engines.adoption import Adopted, refusal_of_numbers
from t3d.engines.fused import warn
from t3d.engines.layout import inputs_of
from t3d.engines.sale_layout import lay_out_weights, parts_of, plan_work
from t3d.engines.team import Team
from t3d.networks import Encoder, SaleActor, SaleCritic, StateEncoder
from t3d.replay import Batch
from t3d.td3 import TD3, Array, UpdateInfo, check_shapes
from t3d.variants.td7 import COPY_EVERY, TD7


def refusal(agent: TD3) -> str | None:
    """Return why this engine cannot run an agent, or None if it can."""
    if type(agent) is not TD7:
        return f"{type(agent).__name__} is not t3d's own TD7, and may define the update anew"
    kinds = type(agent.actor), type(agent.critic), type(agent.encoder), type(agent.encoder.zs)
    if kinds != (SaleActor, SaleCritic, Encoder, StateEncoder):
        return "a network is not t3d's own"
    if parts_of(agent.encoder, agent.actor, agent.critic) is None:
        return "a network is not an MLP of linear layers and ELU, or ReLU in the actor"
    return refusal_of_numbers(agent)


def _serve(memory: k.Memory, thread: int, lock: int) -> None:
    blas_and_threads.run(sale_entries.update, memory, thread, np.array([lock]), np.zeros(0))


class FusedSale:
    """Runs a TD7 agent's updates in compiled code, on the agent's own numbers, which it adopts as `fused.Fused` does.

    Args:
        agent: the agent, see `refusal`.
        threads: threads that share an update, the caller's among them.
        say: called with a line when something takes long: the first run on a machine compiles.
    """

    def __init__(self, agent: TD7, threads: int = 1, say: Callable[[str], None] = warn) -> None:
        reason = refusal(agent)
        assert reason is None, reason
        self.agent = agent
        self.threads = threads
        self._control = np.zeros(3, np.int64)
        self._means = np.zeros(5)
        self._learn: k.Memory | None = None
        self._play: k.Memory | None = None
        self._team: Team | None = None
        self._say = say
        self.adopt()

    def adopt(self) -> None:
        """Move the agent's numbers into this engine's memory, and point the agent at them."""
        agent, config = self.agent, self.agent.config
        self._release_team()
        self._learn = self._play = None
        dtype = np.dtype(str(next(agent.actor.parameters()).dtype).removeprefix("torch."))
        self._tables, kept, size = lay_out_weights(agent, dtype)
        self._numbers = Adopted(agent, kept, size)
        self._hyper = np.array((config.policy_noise, config.noise_clip, config.pre_tanh_weight), dtype)
        self._climbed = 1 if config.climb == "q1" else 2
        self._rates = np.zeros((3, 6), dtype)  # of the next update
        self._bounds = agent.clamp, agent.extremes
        self._get_ready()

    def _get_ready(self) -> None:
        memory, two = self._memory(1, self.threads), np.zeros((1, 1), self._numbers.dtype)
        update = sale_entries.update, (memory, 0, np.zeros(0, np.int64), self._means)
        calls = [update, (sale_entries.act, (memory, two, two))]
        self._compiled_update, self._compiled_act = blas_and_threads.get_ready(self._say, calls)

    def _release_team(self) -> None:
        if self._team is not None:
            self._team.stop()
            self._team = None

    def _readopt(self) -> None:
        """Adopt anew what somebody has replaced instead of filling it."""
        bounds = self.agent.clamp, self.agent.extremes
        if not self._numbers.is_whole() or not all(map(operator.is_, bounds, self._bounds)):
            self.adopt()

    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the policy's actions (N, A), without noise, for obs (N, S)."""
        if obs.shape != (len(obs), size := self.agent.spaces.obs_size):
            raise ValueError(f"expected obs (N, {size}), got {obs.shape}")
        if self._play is None or self._play.at[shared.B] != len(obs):
            self._play = self._memory(len(obs), 1)
        memory, dtype = self._play, self._numbers.dtype
        action = np.empty((len(obs), int(memory.at[shared.A])), dtype)
        blas_and_threads.run(self._compiled_act, memory, np.ascontiguousarray(obs, dtype), action)
        return action

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from one batch, as `TD7.update` does.

        Args:
            batch: B transitions, as arrays or tensors.
            noise: (B, A) standard normal.
            td_error: say how wrong the critics were of each transition.

        Returns:
            What the update saw.

        Raises:
            ValueError: the shapes of batch and noise do not fit together.
        """
        agent = self.agent
        self._readopt()
        check_shapes(batch, noise, agent.spaces)
        rows = len(batch.reward)
        if self._learn is None or self._learn.at[shared.B] != rows:
            self._release_team()
            self._learn = self._memory(rows, self.threads)
            self._inputs = inputs_of(self._learn.at, self._learn.work)
            self._team = Team(self._learn, self.threads, _serve)
        assert self._team is not None
        for place, part in zip(self._inputs, (*batch, noise), strict=True):
            place[...] = part
        agent.count_update()
        delayed = agent.updates % agent.config.policy_delay == 0
        self._control[shared.DELAYED] = delayed
        for which in (k.CRITIC_RATES, k.ENCODER_RATES, *([k.ACTOR_RATES] if delayed else [])):
            self._numbers.advance(which, self._rates[which : which + 1])
        blas_and_threads.run(self._compiled_update, self._learn, 0, self._team.locks, self._means)
        if agent.updates % COPY_EVERY == 0:
            agent.update_targets()
        critic_loss, q1, q2, target_q, actor_loss = self._means.tolist()
        start = int(self._learn.at[shared.ERRORS])
        errors = self._learn.work[start : start + 2 * rows].reshape(2, rows).copy() if td_error else None
        return UpdateInfo(critic_loss, q1, q2, target_q, actor_loss if delayed else None, errors)

    def _memory(self, batch: int, threads: int) -> k.Memory:
        """Make room for batches of a size, beside the adopted weights."""
        numbers = self._numbers
        net, stages, at, work = plan_work(self._tables, self._climbed, batch, threads, numbers.dtype)
        sync, sums = np.zeros(24, np.int64), np.zeros((threads, 8))
        clamp, extremes = (bound.numpy() for bound in self._bounds)
        return k.Memory(
            net,
            stages,
            at,
            numbers.weights,
            work,
            self._hyper,
            self._rates,
            self._control,
            sync,
            sums,
            clamp,
            extremes,
        )
