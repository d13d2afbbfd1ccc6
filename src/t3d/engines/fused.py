"""The fused engine: updates of `td3.py` in one compiled call, on the CPU, over memory laid out for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t3d.engines import blas_and_threads, draw, entries, layers
from t3d.engines import kernels as k
from t3d.engines.adoption import Adopted, refusal_of_numbers
from t3d.engines.compiled_engine import CompiledEngine
from t3d.engines.layout import bodies_of, lay_out_weights, layers_of, plan_work
from t3d.networks import Actor, Critic
from t3d.policy.normalizer import Normalizer
from t3d.replay import Replay
from t3d.td3 import TD3, UpdateInfo


def refusal(agent: TD3) -> str | None:
    """Return why this engine cannot run an agent, or None if it can."""
    if type(agent) is not TD3 or type(agent.actor) is not Actor or type(agent.critic) is not Critic:
        return f"{type(agent).__name__} is not t3d's own TD3, and may define the update anew"
    if agent.spaces.view is not None:
        return "images are seen by convolutions, which are PyTorch's own"
    for body in bodies_of(agent.actor, agent.critic):
        mlp = layers_of(body)
        if mlp is None or any(layer.norm is not None and layer.norm.eps != layers.NORM_EPS for layer in mlp):
            return "a network is not an MLP of linear layers, layer normalisation and ReLU"
    return refusal_of_numbers(agent)


def can_draw(replay: Replay, normalizer: Normalizer | None) -> bool:
    """Return whether `Fused.update_many` can draw from a memory: tests hold its bits to those of the plain path."""
    known = type(replay) is Replay and type(normalizer) in (Normalizer, type(None))  # a subclass may do it otherwise
    return known and replay.slot["obs"].base == np.float32 and replay.priorities is None and blas_and_threads.can_draw


class Fused(CompiledEngine[k.Memory]):
    """TD3's updates in compiled code."""

    _refusal = staticmethod(refusal)

    def _take_over(self) -> Adopted:
        agent, config = self.agent, self.agent.config
        self._net, kept, size = lay_out_weights(agent, self._dtype)
        self._hyper = np.array((config.policy_noise, config.noise_clip, config.tau), self._dtype)
        self._rates = np.zeros((2, 6), self._dtype)  # of the next update
        self._given = draw.given(1, agent.spaces.action_size)
        return Adopted(agent, kept, size)

    def _compile(self) -> tuple[Callable[..., object], Callable[..., object]]:
        memory, two, one = self._memory(1, self.threads), np.zeros((1, 1), self._dtype), np.zeros(1, np.int64)
        update = entries.update, (memory, one, self._given, np.stack([self._rates]), one, np.zeros((1, 5)))
        calls = [update, (entries.act, (memory, two, two)), (entries.serve, (memory, 0, 0))]
        compiled_update, compiled_act, _ = blas_and_threads.get_ready(self._say, calls)
        return compiled_update, compiled_act

    @staticmethod
    def _serve(memory: k.Memory, thread: int, lock: int) -> None:
        blas_and_threads.run(entries.serve, memory, thread, lock)

    def _learn_once(self, memory: k.Memory, td_error: bool) -> UpdateInfo:
        self._control[k.TD_ERROR] = td_error
        (info,) = self._make(memory, self._given, 1)
        return info

    def update_many(
        self,
        replay: Replay,
        normalizer: Normalizer | None,
        index: np.random.Generator,
        target_noise: np.random.Generator,
        batch_size: int,
        count: int,
    ) -> list[UpdateInfo]:
        """Draw `count` batches and learn from each, in one compiled call: `update` with what the plain path draws.

        Args:
            replay: the memory; see `can_draw`. It must hold a transition.
            normalizer: what observations are brought to one scale by; None takes them raw.
            index: the stream that slots are drawn from.
            target_noise: the stream that step 6's noise is drawn from.
            batch_size: B.
            count: of updates, 1 or above.

        Returns:
            What each update saw.
        """
        assert len(replay) > 0, "the replay memory is empty"
        memory = self._prepare(batch_size)
        self._control[k.TD_ERROR] = False
        source = draw.source(self._given, replay, normalizer, index, target_noise, self.agent.config.gamma)
        return self._make(memory, source, count)

    def _prepare(self, batch: int) -> k.Memory:
        memory = super()._prepare(batch)
        if len(self._given.picked) != batch:
            self._given = draw.given(batch, self.agent.spaces.action_size)
        return memory

    def _make(self, memory: k.Memory, source: draw.Source, count: int) -> list[UpdateInfo]:
        """Make updates with the batch in `_inputs`, or those that the source draws."""
        agent, means = self.agent, np.empty((count, 5))
        rates, delayed = np.empty((count, 2, 6), self._dtype), np.zeros(count, np.int64)
        moving = slice(-(agent.updates + 1) % agent.config.policy_delay, None, agent.config.policy_delay)
        delayed[moving] = True
        agent.updates += count
        self._numbers.advance(k.CRITIC, rates[:, k.CRITIC])
        self._numbers.advance(k.ACTOR, rates[moving, k.ACTOR])
        blas_and_threads.run(self._compiled_update, memory, self._locks(), source, rates, delayed, means)
        return [
            UpdateInfo(loss, q1, q2, target_q, actor_loss if moved else None)
            for (loss, q1, q2, target_q, actor_loss), moved in zip(means.tolist(), delayed.tolist(), strict=True)
        ]

    def _memory(self, batch: int, threads: int) -> k.Memory:
        """Make room for batches of a size, beside the adopted weights."""
        net, at, work = plan_work(self._net, batch, threads, self._dtype)
        sync, sums = np.zeros(24, np.int64), np.zeros((threads, 8))
        return k.Memory(net, at, self._numbers.weights, work, self._hyper, self._rates, self._control, sync, sums)
