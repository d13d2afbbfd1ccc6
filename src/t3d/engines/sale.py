"""The fused engine for td7: one update of `variants/td7.py` in one compiled call, as `fused.py` makes TD3's."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from t3d.engines import blas_and_threads, sale_entries
from t3d.engines import kernels as shared
from t3d.engines import sale_kernels as k
from t3d.engines.adoption import Adopted, refusal_of_numbers
from t3d.engines.compiled_engine import CompiledEngine
from t3d.engines.sale_layout import lay_out_weights, parts_of, plan_work
from t3d.networks import Encoder, SaleActor, SaleCritic, StateEncoder
from t3d.td3 import TD3, UpdateInfo
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


class FusedSale(CompiledEngine[k.Memory]):
    """TD7's updates in compiled code."""

    agent: TD7
    _refusal = staticmethod(refusal)

    def _take_over(self) -> Adopted:
        agent, config = self.agent, self.agent.config
        self._tables, kept, size = lay_out_weights(agent, self._dtype)
        self._hyper = np.array((config.policy_noise, config.noise_clip, config.pre_tanh_weight), self._dtype)
        self._climbed = 1 if config.climb == "q1" else 2
        self._rates = np.zeros((3, 6), self._dtype)  # of the next update
        self._means = np.zeros(5)
        self._bounds = agent.clamp, agent.extremes
        return Adopted(agent, kept, size)

    def _compile(self) -> tuple[Callable[..., object], Callable[..., object]]:
        memory, two = self._memory(1, self.threads), np.zeros((1, 1), self._dtype)
        update = sale_entries.update, (memory, 0, np.zeros(0, np.int64), self._means)
        calls = [update, (sale_entries.act, (memory, two, two))]
        compiled_update, compiled_act = blas_and_threads.get_ready(self._say, calls)
        return compiled_update, compiled_act

    @staticmethod
    def _serve(memory: k.Memory, thread: int, lock: int) -> None:
        blas_and_threads.run(sale_entries.update, memory, thread, np.array([lock]), np.zeros(0))

    def _is_whole(self) -> bool:
        bounds = self.agent.clamp, self.agent.extremes
        return super()._is_whole() and all(map(operator.is_, bounds, self._bounds))

    def _learn_once(self, memory: k.Memory, td_error: bool) -> UpdateInfo:
        agent = self.agent
        agent.count_update()
        delayed = agent.updates % agent.config.policy_delay == 0
        self._control[shared.DELAYED] = delayed
        for which in (k.CRITIC_RATES, k.ENCODER_RATES, *([k.ACTOR_RATES] if delayed else [])):
            self._numbers.advance(which, self._rates[which : which + 1])
        blas_and_threads.run(self._compiled_update, memory, 0, self._locks(), self._means)
        if agent.updates % COPY_EVERY == 0:
            agent.update_targets()
        critic_loss, q1, q2, target_q, actor_loss = self._means.tolist()
        return UpdateInfo(critic_loss, q1, q2, target_q, actor_loss if delayed else None)

    def _memory(self, batch: int, threads: int) -> k.Memory:
        net, stages, at, work = plan_work(self._tables, self._climbed, batch, threads, self._dtype)
        sync, sums = np.zeros(24, np.int64), np.zeros((threads, 8))
        clamp, extremes = (bound.numpy() for bound in self._bounds)
        return k.Memory(
            net,
            stages,
            at,
            self._numbers.weights,
            work,
            self._hyper,
            self._rates,
            self._control,
            sync,
            sums,
            clamp,
            extremes,
        )
