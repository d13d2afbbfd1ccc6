"""The fused engine: one update of `td3.py` in one compiled call, on the CPU, over memory laid out for it."""

from __future__ import annotations

import operator
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.engines import blas_and_threads
from t3d.engines import kernels as k
from t3d.networks import Actor, Critic, Linear
from t3d.replay import Batch
from t3d.td3 import TD3, Array, UpdateInfo, check_shapes

# Every tensor starts here: another alignment gives other bits, and slower loads.
ALIGNMENT_BYTES = 64
# Blocks begin on a huge page: looking up some thousand small ones slows the update, and what comes after it, down. From
# this size on NumPy asks Linux for them; nothing is taken that is not touched.
HUGE_PAGE_BYTES, NUMPY_ASKS_BYTES = 2 << 20, 4 << 20


def warn(line: str) -> None:
    """Tell the user on the error stream, where no answer of a program is expected."""
    print(line, file=sys.stderr)


class _Layer(NamedTuple):
    linear: nn.Linear
    norm: nn.LayerNorm | None


def _layers(body: nn.Sequential) -> list[_Layer] | None:
    """Return the linear layers of an MLP with the norms behind them, or None if it is built another way."""
    modules = list(body)
    layers: list[_Layer] = []
    while modules:
        linear = modules.pop(0)
        if type(linear) is not Linear or linear.bias is None:
            return None
        norm = modules.pop(0) if modules and type(modules[0]) is nn.LayerNorm else None
        assert norm is None or isinstance(norm, nn.LayerNorm)
        layers.append(_Layer(linear, norm))
        if modules and type(modules.pop(0)) is not nn.ReLU:
            return None
    return layers


def _bodies(actor: nn.Module, critic: nn.Module) -> list[nn.Sequential]:
    assert isinstance(actor, Actor)
    assert isinstance(critic, Critic)
    return [actor.body, critic.q1_body, critic.q2_body]


def refusal(agent: TD3) -> str | None:
    """Return why this engine cannot run an agent, or None if it can."""
    if type(agent) is not TD3 or type(agent.actor) is not Actor or type(agent.critic) is not Critic:
        return f"{type(agent).__name__} is not t3d's own TD3, and may define the update anew"
    if agent.device.type != "cpu":
        return f"the networks are on {agent.device}"
    for body in _bodies(agent.actor, agent.critic):
        layers = _layers(body)
        if layers is None or any(layer.norm is not None and layer.norm.eps != k.NORM_EPS for layer in layers):
            return "a network is not an MLP of linear layers, layer normalisation and ReLU"
    if len({p.dtype for p in agent.actor.parameters()} | {p.dtype for p in agent.critic.parameters()}) > 1:
        return "the weights are of different types"
    if next(agent.actor.parameters()).dtype not in (torch.float32, torch.float64):
        return "the weights are neither float32 nor float64"
    for optimizer in (agent.actor_optimizer, agent.critic_optimizer):
        group = optimizer.param_groups[0]
        if len(optimizer.param_groups) > 1 or group["weight_decay"] or group["amsgrad"] or group["maximize"]:
            return "an optimiser is not a plain Adam"
    return None


def _aligned(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros whose first number lies on the alignment, in huge pages where the system has them."""
    raw = np.zeros(max(count * dtype.itemsize, NUMPY_ASKS_BYTES) + HUGE_PAGE_BYTES, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE_BYTES
    return raw[start : start + count * dtype.itemsize].view(dtype)


class _Space:
    """Hands out offsets in a flat array, each on the alignment."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.size = 0
        self._step = ALIGNMENT_BYTES // dtype.itemsize

    def take(self, count: int) -> int:
        offset = self.size
        self.size += self.round(count)
        return offset

    def round(self, count: int) -> int:
        return -(-count // self._step) * self._step


def _plan(
    weights_net: NDArray[np.int64], batch: int, threads: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return `net`, `at` and `work` of `kernels.Memory` for batches of a size."""
    net = weights_net.copy()
    layers = len(net) // 3
    size, actions = int(net[0, k.INPUTS]), int(net[layers - 1, k.OUTPUTS])
    space = _Space(dtype)
    at = np.zeros(16, np.int64)
    # An even number of threads forms two crews with a critic each, an odd one a single crew.
    crews = 2 - threads % 2
    at[[k.S, k.A, k.B, k.LAYERS, k.THREADS, k.CREWS]] = size, actions, batch, layers, threads, crews
    for entry in (k.OBS_ACTION, k.NEXT):
        at[entry] = space.take(batch * (size + actions))
    for entry in (k.REWARD, k.TERMINATED, k.DISCOUNT):
        at[entry] = space.take(batch)
    at[k.NEXT_Q], at[k.ERRORS] = space.take(2 * batch), space.take(2 * batch)
    at[k.NOISE] = space.take(batch * actions)
    largest = max(int(row[k.INPUTS]) * -(-int(row[k.OUTPUTS]) // (threads // crews)) for row in net)
    at[k.GRAD_SIZE] = space.round(largest)
    at[k.GRAD] = space.take(threads * int(at[k.GRAD_SIZE]))
    # What is done with before the next begins shares room with it, so that it stays in cache: one thread's critics, and
    # the gradients of the first critic and the actor. What the last layers say, and its gradient, is kept apart.
    separate = [0, 1, 1] if threads == 1 else [0, 1, 2]
    for column, rooms in ((k.OUT, separate), (k.DELTA, [max(0, room - 1) for room in separate])):
        taken: dict[tuple[int, int], int] = {}
        for index, row in enumerate(net):
            network, layer = divmod(index, layers)
            place = (rooms[network], layer) if layer < layers - 1 else (-network, layer)
            if place not in taken:
                taken[place] = space.take(batch * int(row[k.OUTPUTS]))
            row[column] = taken[place]
    for row in net:
        outputs = int(row[k.OUTPUTS])
        row[k.PARTIAL_SIZE] = space.round(3 * outputs)
        row[k.PARTIAL] = space.take(threads * int(row[k.PARTIAL_SIZE]))
        if row[k.GAIN] >= 0:
            row[k.NORMED], row[k.RSTD] = space.take(batch * outputs), space.take(batch)
    return net, at, _aligned(space.size, dtype)


class _Team:
    """The threads beside the caller's, asleep between updates. Thread 0 is whoever calls `update`."""

    def __init__(self, memory: k.Memory, threads: int) -> None:
        memory.control[k.STOP] = 0
        memory.sync[:] = 0
        self.locks = np.array([blas_and_threads.new_lock() for _ in range(threads - 1)], np.int64)
        workers = [
            threading.Thread(target=_serve, args=(memory, t, int(lock)), daemon=True)
            for t, lock in enumerate(self.locks, start=1)
        ]
        for worker in workers:
            worker.start()
        self.stop = weakref.finalize(self, _stop, memory.control, self.locks, workers)


def _serve(memory: k.Memory, thread: int, lock: int) -> None:
    blas_and_threads.run(k.serve, memory, thread, lock)


def _stop(control: NDArray[np.int64], locks: NDArray[np.int64], workers: list[threading.Thread]) -> None:
    control[k.STOP] = 1
    for lock in locks:
        blas_and_threads.let_go(int(lock))
    for worker in workers:
        worker.join()


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
        self._means = np.zeros(5)
        self._learn: k.Memory | None = None
        self._play: k.Memory | None = None
        self._team: _Team | None = None
        self._say = say
        self.adopt()

    def adopt(self) -> None:
        """Move the agent's numbers into this engine's memory, and point the agent at them."""
        agent = self.agent
        self._release_team()
        self._learn = self._play = None
        self._dtype = np.dtype(str(next(agent.actor.parameters()).dtype).removeprefix("torch."))
        self._net, tensors, size = _lay_out(agent, self._dtype)
        self._weights = _aligned(4 * size, self._dtype).reshape(4, size)
        self._steps = np.zeros(len(tensors), np.float32)
        for index, (offset, online, target, optimizer) in enumerate(tensors):
            end = offset + online.numel()
            views = [torch.from_numpy(row[offset:end]).view_as(online) for row in self._weights]
            step = torch.from_numpy(self._steps[index : index + 1]).view(())
            state = optimizer.state[online]
            if state:
                views[2].copy_(state["exp_avg"])
                views[3].copy_(state["exp_avg_sq"])
                step.copy_(state["step"])
            views[0].copy_(online.data)
            views[1].copy_(target.data)
            online.data, target.data = views[0], views[1]
            optimizer.state[online] = {"step": step, "exp_avg": views[2], "exp_avg_sq": views[3]}
        self._actor_tensors = len(list(agent.actor.parameters()))
        config = agent.config
        values = config.policy_noise, config.noise_clip, config.tau
        self._hyper = np.array(values, self._dtype)
        self._rates = np.zeros((2, 6), self._dtype)
        self._settings: list[object] = [None, None]  # what stands in `rates` apart from the two that change
        self._first = next(agent.actor.parameters()), next(agent.critic.parameters())
        self._get_ready()
        self._adopted = self._shown()

    def _get_ready(self) -> None:
        memory = self._memory(1, self.threads)
        two, one = np.zeros((1, 1), self._dtype), np.zeros(1, self._dtype)
        batch = two, two, two, one, one, one, two
        update = k.update, (memory, np.zeros(0, np.int64), *batch, self._means)
        calls = [update, (k.act, (memory, two, two)), (k.serve, (memory, 0, 0))]
        self._compiled_update, self._compiled_act, _ = blas_and_threads.get_ready(self._say, calls)

    def _shown(self) -> tuple[object, ...]:
        """Return objects of which one is another when somebody has replaced what was adopted, and two addresses."""
        agent = self.agent
        actor, critic = agent.actor_optimizer, agent.critic_optimizer
        addresses = self._first[0].data_ptr(), self._first[1].data_ptr()
        return (
            agent.config,
            actor,
            critic,
            actor.state,
            critic.state,
            actor.param_groups,
            critic.param_groups,
            addresses,
        )

    def _is_adopted(self) -> bool:
        *objects, addresses = self._shown()
        *before, addresses_before = self._adopted
        return addresses == addresses_before and all(map(operator.is_, objects, before))

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
        agent = self.agent
        if not self._is_adopted():
            self.adopt()
        check_shapes(batch, noise, agent.spaces)
        dtype = self._dtype
        obs, next_obs, action, *rest = (np.ascontiguousarray(part, dtype) for part in batch)
        plain_noise = np.ascontiguousarray(noise, dtype)
        if self._learn is None or self._learn.at[k.B] != len(obs):
            self._release_team()
            self._learn = self._memory(len(obs), self.threads)
            self._team = _Team(self._learn, self.threads)
        assert self._team is not None
        agent.updates += 1
        delayed = agent.updates % agent.config.policy_delay == 0
        self._control[k.DELAYED], self._control[k.TD_ERROR] = delayed, td_error
        self._advance(k.CRITIC, agent.critic_optimizer, self._steps[self._actor_tensors :])
        if delayed:
            self._advance(k.ACTOR, agent.actor_optimizer, self._steps[: self._actor_tensors])
        locks, means = self._team.locks, self._means
        blas_and_threads.run(
            self._compiled_update, self._learn, locks, obs, next_obs, action, *rest, plain_noise, means
        )
        critic_loss, q1, q2, target_q, actor_loss = means.tolist()
        start, rows = int(self._learn.at[k.ERRORS]), len(obs)
        errors = self._learn.work[start : start + 2 * rows].reshape(2, rows).copy() if td_error else None
        return UpdateInfo(critic_loss, q1, q2, target_q, actor_loss if delayed else None, errors)

    def _memory(self, batch: int, threads: int) -> k.Memory:
        """Make room for batches of a size, beside the adopted weights."""
        net, at, work = _plan(self._net, batch, threads, self._dtype)
        sync, sums = np.zeros(24, np.int64), np.zeros((threads, 8))
        return k.Memory(net, at, self._weights, work, self._hyper, self._rates, self._control, sync, sums)

    def _advance(self, which: int, optimizer: torch.optim.Optimizer, steps: NDArray[np.float32]) -> None:
        """Count an optimiser's step, and set the rates of Adam for it: PyTorch's formula, bias correction included."""
        steps += 1
        step = float(steps[0])
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        rates = self._rates[which]
        if (settings := (beta1, beta2, group["eps"])) != self._settings[which]:
            self._settings[which] = settings
            rates[k.GRAD_SHARE], rates[k.KEEP_SQ], rates[k.GRAD_SQ_SHARE] = 1 - beta1, beta2, 1 - beta2
            rates[k.EPS] = group["eps"]
        rates[k.STEP_SIZE] = group["lr"] / (1 - beta1**step)
        rates[k.INVERSE_CORRECTION] = (1 - beta2**step) ** -0.5


def _lay_out(
    agent: TD3, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], list[tuple[int, Tensor, Tensor, torch.optim.Optimizer]], int]:
    """Give every parameter a place. Return the table `net`, the tensors with their offsets, and the length."""
    space = _Space(dtype)
    rows: list[list[int]] = []
    tensors: list[tuple[int, Tensor, Tensor, torch.optim.Optimizer]] = []
    online = _bodies(agent.actor, agent.critic)
    target = _bodies(agent.actor_target, agent.critic_target)
    optimizers = agent.actor_optimizer, agent.critic_optimizer, agent.critic_optimizer
    for body, slow_body, optimizer in zip(online, target, optimizers, strict=True):
        layers, slow_layers = _layers(body), _layers(slow_body)
        assert layers is not None
        assert slow_layers is not None
        for layer, slow in zip(layers, slow_layers, strict=True):
            row = [0] * 12
            row[k.INPUTS], row[k.OUTPUTS] = layer.linear.in_features, layer.linear.out_features
            row[k.GAIN] = row[k.SHIFT] = -1
            pairs = [
                (k.WEIGHT, layer.linear.weight, slow.linear.weight),
                (k.BIAS, layer.linear.bias, slow.linear.bias),
            ]
            if layer.norm is not None and slow.norm is not None:
                pairs += [
                    (k.GAIN, layer.norm.weight, slow.norm.weight),
                    (k.SHIFT, layer.norm.bias, slow.norm.bias),
                ]
            for column, fast_tensor, slow_tensor in pairs:
                row[column] = space.take(fast_tensor.numel())
                tensors.append((row[column], fast_tensor, slow_tensor, optimizer))
            rows.append(row)
    return np.array(rows, np.int64), tensors, space.size
