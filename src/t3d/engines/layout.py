"""Where the fused engine keeps an agent's numbers, and what an update works with: offsets into flat arrays.

`kernels.py` names the columns and entries of the tables that are made here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.engines import kernels as k
from t3d.networks import Actor, Critic, Linear
from t3d.td3 import TD3

# Every tensor starts here: another alignment gives other bits, and slower loads.
ALIGNMENT_BYTES = 64
# Blocks begin on a huge page: looking up some thousand small ones slows the update, and what comes after it, down. From
# this size on NumPy asks Linux for them; nothing is taken that is not touched.
HUGE_PAGE_BYTES, NUMPY_ASKS_BYTES = 2 << 20, 4 << 20


class Kept(NamedTuple):
    """A parameter with its place: what learns, its target, and the target's target if there is one."""

    offset: int
    copies: list[Tensor]
    optimizer: torch.optim.Optimizer


class Layer(NamedTuple):
    """A linear layer and the normalisation behind it, if it has one."""

    linear: nn.Linear
    norm: nn.LayerNorm | None


def layers_of(body: nn.Sequential) -> list[Layer] | None:
    """Return the linear layers of an MLP with the norms behind them, or None if it is built another way."""
    modules = list(body)
    layers: list[Layer] = []
    while modules:
        linear = modules.pop(0)
        if type(linear) is not Linear or linear.bias is None:
            return None
        norm = modules.pop(0) if modules and type(modules[0]) is nn.LayerNorm else None
        assert norm is None or isinstance(norm, nn.LayerNorm)
        layers.append(Layer(linear, norm))
        if modules and type(modules.pop(0)) is not nn.ReLU:
            return None
    return layers


def bodies_of(actor: nn.Module, critic: nn.Module) -> list[nn.Sequential]:
    """Return the MLPs of an actor and of its two critics, in the order in which they lie in memory."""
    assert isinstance(actor, Actor)
    assert isinstance(critic, Critic)
    return [actor.body, critic.q1_body, critic.q2_body]


def lay_out_weights(agent: TD3, dtype: np.dtype[Any]) -> tuple[NDArray[np.int64], list[Kept], int]:
    """Give every parameter a place. Return the table `net`, the tensors with their offsets, and the length."""
    space = Offsets(dtype)
    rows: list[list[int]] = []
    tensors: list[Kept] = []
    online = bodies_of(agent.actor, agent.critic)
    target = bodies_of(agent.actor_target, agent.critic_target)
    optimizers = agent.actor_optimizer, agent.critic_optimizer, agent.critic_optimizer
    for body, slow_body, optimizer in zip(online, target, optimizers, strict=True):
        layers, slow_layers = layers_of(body), layers_of(slow_body)
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
                tensors.append(Kept(row[column], [fast_tensor, slow_tensor], optimizer))
            rows.append(row)
    return np.array(rows, np.int64), tensors, space.size


def aligned(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros whose first number lies on the alignment, in huge pages where the system has them."""
    raw = np.zeros(max(count * dtype.itemsize, NUMPY_ASKS_BYTES) + HUGE_PAGE_BYTES, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE_BYTES
    return raw[start : start + count * dtype.itemsize].view(dtype)


def inputs_of(at: NDArray[np.int64], work: NDArray[Any]) -> list[NDArray[Any]]:
    """Return views of `work` where an update reads a batch's parts, in the order of `Batch`, and the noise."""
    size, actions, batch = (int(at[entry]) for entry in (k.S, k.A, k.B))

    def view(entry: int, *shape: int) -> NDArray[Any]:
        return work[at[entry] : at[entry] + batch * math.prod(shape)].reshape(batch, *shape)

    obs_action, following = view(k.OBS_ACTION, size + actions), view(k.NEXT, size + actions)
    rows = [view(entry) for entry in (k.REWARD, k.TERMINATED, k.DISCOUNT)]
    return [obs_action[:, :size], following[:, :size], obs_action[:, size:], *rows, view(k.NOISE, actions)]


class Offsets:
    """Hands out offsets in a flat array, each on the alignment."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.size = 0
        self._step = ALIGNMENT_BYTES // dtype.itemsize

    def take(self, count: int) -> int:
        """Return the offset of so many numbers."""
        offset = self.size
        self.size += self.round(count)
        return offset

    def round(self, count: int) -> int:
        """Return how many numbers these take with what is left free behind them."""
        return -(-count // self._step) * self._step


def plan_work(
    weights_net: NDArray[np.int64], batch: int, threads: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return `net`, `at` and `work` of `kernels.Memory` for batches of a size."""
    net = weights_net.copy()
    layers = len(net) // 3
    size, actions = int(net[0, k.INPUTS]), int(net[layers - 1, k.OUTPUTS])
    space = Offsets(dtype)
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
    return net, at, aligned(space.size, dtype)
