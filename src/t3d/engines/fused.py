"""The fused engine: updates of `td3.py` in one compiled call, on the CPU, over memory laid out for it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t3d.engines import blas_and_threads, draw, entries, layers
from t3d.engines import kernels as k
from t3d.engines.adoption import Adopted, refusal_of_numbers
from t3d.engines.layout import bodies_of, inputs_of, lay_out_weights, layers_of, plan_work
from t3d.engines.team import Team
from t3d.networks import Actor, Critic
from t3d.policy.normalizer import Normalizer
from t3d.replay import Batch, Replay
from t3d.td3 import TD3, Array, UpdateInfo, check_shapes


def warn(line: str) -> None:
    """Tell the user on the error stream, where no answer of a program is expected."""
    print(line, file=sys.stderr)


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


def _serve(memory: k.Memory, thread: int, lock: int) -> None:
    blas_and_threads.run(entries.serve, memory, thread, lock)


class Fused:
    """Runs an agent's updates in compiled code, on the agent's own numbers.

    The engine adopts the agent: parameters, targets and Adam's moments move into one block of memory, and the
    agent's modules and optimisers point there. So the agent can be saved, loaded, exported and updated by its
    own methods at any time, and this engine continues from there. What replaces tensors instead of filling them
    (an optimiser's `load_state_dict`) is noticed at the next call and adopted anew.

    Args:
        agent: the agent, see `refusal`.
        threads: threads that share an update, the caller's among them.
        say: called with a line when something takes long: the first run on a machine compiles.
    """

    def __init__(self, agent: TD3, threads: int = 1, say: Callable[[str], None] = warn) -> None:
        reason = refusal(agent)
        assert reason is None, reason
        self.agent = agent
        self.threads = threads
        self._control = np.zeros(3, np.int64)
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
        self._dtype = np.dtype(str(next(agent.actor.parameters()).dtype).removeprefix("torch."))
        self._net, kept, size = lay_out_weights(agent, self._dtype)
        self._numbers = Adopted(agent, kept, size)
        self._hyper = np.array((config.policy_noise, config.noise_clip, config.tau), self._dtype)
        self._rates = np.zeros((2, 6), self._dtype)  # of the next update
        self._get_ready()

    def _get_ready(self) -> None:
        memory, two, one = self._memory(1, self.threads), np.zeros((1, 1), self._dtype), np.zeros(1, np.int64)
        update = entries.update, (memory, one, draw.given(1, 1), np.stack([self._rates]), one, np.zeros((1, 5)))
        calls = [update, (entries.act, (memory, two, two)), (entries.serve, (memory, 0, 0))]
        self._compiled_update, self._compiled_act, _ = blas_and_threads.get_ready(self._say, calls)

    def _release_team(self) -> None:
        if self._team is not None:
            self._team.stop()
            self._team = None

    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actor's actions (N, A), without noise, for obs (N, S)."""
        if obs.shape != (len(obs), size := self.agent.spaces.obs_size):
            raise ValueError(f"expected obs (N, {size}), got {obs.shape}")
        if self._play is None or self._play.at[k.B] != len(obs):
            self._play = self._memory(len(obs), 1)
        memory = self._play
        action = np.empty((len(obs), int(memory.at[k.A])), self._dtype)
        blas_and_threads.run(self._compiled_act, memory, np.ascontiguousarray(obs, self._dtype), action)
        return action

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from one batch, as `TD3.update` does: steps 5 to 15.

        Args:
            batch: B transitions, as arrays or tensors.
            noise: (B, A) standard normal.
            td_error: say how wrong the critics were of each transition.

        Returns:
            What the update saw.

        Raises:
            ValueError: the shapes of batch and noise do not fit together.
        """
        if not self._numbers.is_whole():
            self.adopt()
        check_shapes(batch, noise, self.agent.spaces)
        rows = len(batch.reward)
        memory = self._prepare(rows)
        for place, part in zip(self._inputs, (*batch, noise), strict=True):
            place[...] = part
        self._control[k.TD_ERROR] = td_error
        (info,) = self._make(memory, self._given, 1)
        if not td_error:
            return info
        start = int(memory.at[k.ERRORS])
        return info._replace(td_error=memory.work[start : start + 2 * rows].reshape(2, rows).copy())

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
        if not self._numbers.is_whole():
            self.adopt()
        memory = self._prepare(batch_size)
        self._control[k.TD_ERROR] = False
        source = draw.source(self._given, replay, normalizer, index, target_noise, self.agent.config.gamma)
        return self._make(memory, source, count)

    def _prepare(self, batch: int) -> k.Memory:
        """Return the memory of updates with batches of a size; it and its threads are made anew for another size."""
        if self._learn is None or self._learn.at[k.B] != batch:
            self._release_team()
            self._learn = self._memory(batch, self.threads)
            self._inputs = inputs_of(self._learn.at, self._learn.work)
            self._given = draw.given(batch, self.agent.spaces.action_size)
            self._team = Team(self._learn, self.threads, _serve)
        return self._learn

    def _make(self, memory: k.Memory, source: draw.Source, count: int) -> list[UpdateInfo]:
        """Make updates with the batch in `_inputs`, or those that the source draws."""
        agent, means = self.agent, np.empty((count, 5))
        rates, delayed = np.empty((count, 2, 6), self._dtype), np.zeros(count, np.int64)
        moving = slice(-(agent.updates + 1) % agent.config.policy_delay, None, agent.config.policy_delay)
        delayed[moving] = True
        agent.updates += count
        self._numbers.advance(k.CRITIC, rates[:, k.CRITIC])
        self._numbers.advance(k.ACTOR, rates[moving, k.ACTOR])
        assert self._team is not None
        blas_and_threads.run(self._compiled_update, memory, self._team.locks, source, rates, delayed, means)
        return [
            UpdateInfo(loss, q1, q2, target_q, actor_loss if moved else None)
            for (loss, q1, q2, target_q, actor_loss), moved in zip(means.tolist(), delayed.tolist(), strict=True)
        ]

    def _memory(self, batch: int, threads: int) -> k.Memory:
        """Make room for batches of a size, beside the adopted weights."""
        net, at, work = plan_work(self._net, batch, threads, self._dtype)
        sync, sums = np.zeros(24, np.int64), np.zeros((threads, 8))
        return k.Memory(net, at, self._numbers.weights, work, self._hyper, self._rates, self._control, sync, sums)
