"""Where td7's compiled update keeps an agent's numbers, and its table of layers: offsets into flat arrays.

A network that is asked twice in an update, of s and of s', has rows for each: they name the same weights, but other
inputs and answers. `sale_kernels.py` names the columns, the networks' first rows and the entries of `at`.

In the row of a transition lie c (the critic's first answer), zsa, zs and the action, one behind the other. So a critic
reads [c, zsa, zs] and the encoder [zs, action] where they are, and nothing is put together. The target actor reads
[its first answer, zs] there too, before c and zsa come; the actor, which learns from what it read, has rows of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from t3d.engines import sale_kernels as k
from t3d.engines.adoption import ONLINE, SECOND_TARGET, TARGET, Kept
from t3d.engines.kernels import (
    CREWS,
    DISCOUNT,
    ERRORS,
    GRAD,
    GRAD_SIZE,
    LAYERS,
    NEXT,
    NOISE,
    OBS_ACTION,
    REWARD,
    TERMINATED,
    THREADS,
    A,
    B,
    S,
)
from t3d.engines.layout import Offsets, aligned
from t3d.networks import Encoder, Linear, SaleActor, SaleCritic
from t3d.variants.td7 import TD7


def linears_of(body: nn.Sequential, activation: type[nn.Module]) -> list[nn.Linear] | None:
    """Return the linear layers of an MLP, or None if it is built another way."""
    modules = list(body)
    linears = modules[::2]
    fits = all(type(module) is activation for module in modules[1::2]) and len(modules) % 2 == 1
    fits = fits and all(type(linear) is Linear and linear.bias is not None for linear in linears)
    return linears if fits else None  # type: ignore[return-value]  # mypy: type(...) is Linear narrows no list


def parts_of(encoder: nn.Module, actor: nn.Module, critic: nn.Module) -> list[list[nn.Linear]] | None:
    """Return the layers of zs, zsa, the actor and both critics, or None if one is built another way."""
    assert isinstance(encoder, Encoder)
    assert isinstance(actor, SaleActor)
    assert isinstance(critic, SaleCritic)
    bodies = [
        ([], linears_of(encoder.zs.body, nn.ELU)),
        ([], linears_of(encoder.action_body, nn.ELU)),
        ([actor.obs_layer], linears_of(actor.body, nn.ReLU)),
        ([critic.q1_layer], linears_of(critic.q1_body, nn.ELU)),
        ([critic.q2_layer], linears_of(critic.q2_body, nn.ELU)),
    ]
    return [first + body for first, body in bodies if body is not None] if all(body for _, body in bodies) else None


def lay_out_weights(agent: TD7, dtype: np.dtype[Any]) -> tuple[list[NDArray[np.int64]], list[Kept], int]:
    """Give every parameter a place. Return a table a part of `parts_of`, the tensors, and the length.

    A row of a table says of a layer what INPUTS, OUTPUTS, WEIGHT and BIAS are.
    """
    space, tables, tensors = Offsets(dtype), [], []
    encoders = agent.encoder, agent.encoder_fixed, agent.encoder_fixed_target
    actors = agent.actor, agent.actor_target, agent.actor_target
    critics = agent.critic, agent.critic_target, agent.critic_target
    generations = [parts_of(*networks) for networks in zip(encoders, actors, critics, strict=True)]
    optimizers = [agent.encoder_optimizer] * 2 + [agent.actor_optimizer] + [agent.critic_optimizer] * 2
    for part, optimizer in enumerate(optimizers):
        table = []
        layers = [generation[part] for generation in generations if generation is not None]
        for linear, *targets in zip(*layers, strict=True):
            # Only the encoder has two targets.
            copies = [linear, *targets][: 3 if part < 2 else 2]
            row = [linear.in_features, linear.out_features]
            for name in ("weight", "bias"):
                row.append(space.take(getattr(linear, name).numel()))
                tensors.append(Kept(row[-1], [getattr(copy, name) for copy in copies], optimizer))
            table.append(row)
        tables.append(np.array(table, np.int64))
    return tables, tensors, space.size


Place = tuple[int, int]  # a matrix in `work`: its offset, and its stride


class _Planner:
    """Makes rows of the table of layers, and takes room in `work` for what they answer."""

    def __init__(self, batch: int, threads: int, dtype: np.dtype[Any]) -> None:
        self.batch, self.threads, self.space = batch, threads, Offsets(dtype)
        self._passing: dict[tuple[int, int], int] = {}

    def matrix(self, width: int) -> Place:
        """Take room for a matrix each row of which begins on the alignment."""
        stride = self.space.round(width)
        return self.space.take(self.batch * stride), stride

    def network(
        self,
        weights: NDArray[np.int64],
        generation: int,
        kinds: list[int],
        reads: list[Place],
        answers: dict[int, Place],
        learns: bool,
    ) -> list[list[int]]:
        """Return a network's rows.

        Args:
            weights: its table of `lay_out_weights`.
            generation: row of the memory's weights.
            kinds: what becomes of each layer's product.
            reads: what the first layers read; each further one reads the answer before.
            answers: where answers go, by layer; -1 is the last. The others get room of their own.
            learns: a gradient goes back through it.
        """
        rows: list[list[int]] = []
        for layer, (n_in, n_out, weight, bias) in enumerate(weights.tolist()):
            x = reads[layer] if layer < len(reads) else (rows[-1][k.Y], rows[-1][k.Y_STRIDE])
            place = answers.get(layer - len(weights) if layer == len(weights) - 1 else layer)
            if place is None:
                own = learns or layer == len(weights) - 1
                place = (self.space.take(self.batch * n_out) if own else self._pass(n_out, layer % 2)), n_out
            row = [n_in, n_out, weight, bias, generation, kinds[layer], *x, *place, 0, 0, 0, 0]
            if kinds[layer] == k.NORM:
                row[k.SIZE] = self.space.take(self.batch)
            if learns:
                row[k.DELTA] = self.space.take(self.batch * n_out)
                row[k.PARTIAL_SIZE] = self.space.round(n_out)
                row[k.PARTIAL] = self.space.take(self.threads * row[k.PARTIAL_SIZE])
            rows.append(row)
        return rows

    def _pass(self, width: int, parity: int) -> int:
        """Return room that is free again once the next layer has read it."""
        if (width, parity) not in self._passing:
            self._passing[width, parity] = self.space.take(self.batch * width)
        return self._passing[width, parity]


def plan_work(
    tables: list[NDArray[np.int64]], batch: int, threads: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return `net`, `at` and `work` of `sale_kernels.Memory` for batches of a size."""
    zs, _, actor, *_ = tables
    plan, at = _Planner(batch, threads, dtype), np.zeros(k.ENTRIES, np.int64)
    take, crews = plan.space.take, 2 - threads % 2
    at[[S, A, B, k.E, k.FIRST]] = zs[0, 0], actor[-1, 1], batch, zs[-1, 1], actor[0, 1]
    at[[LAYERS, THREADS, CREWS]] = len(actor), threads, crews
    for entry in (OBS_ACTION, NEXT):
        at[entry] = take(batch * int(at[S] + at[A]))
    for entry in (REWARD, TERMINATED, DISCOUNT, k.TARGETS):
        at[entry] = take(batch)
    at[ERRORS] = take(2 * batch)
    for entry in (NOISE, k.D_ACTION):
        at[entry] = take(batch * int(at[A]))
    largest = max(row[0] * -(-row[1] // (threads // crews)) for table in tables for row in table.tolist())
    at[GRAD_SIZE] = plan.space.round(largest)
    at[GRAD] = take(threads * int(at[GRAD_SIZE]))
    net = _plan_networks(plan, tables, at)
    return np.array(net, np.int64), at, aligned(plan.space.size, dtype)


def _plan_networks(plan: _Planner, tables: list[NDArray[np.int64]], at: NDArray[np.int64]) -> list[list[int]]:
    """Return the rows of all networks, in the order that `sale_kernels.py` has them in."""
    zs, zsa, actor, q1, q2 = tables
    embedding, first, between = int(at[k.E]), int(at[k.FIRST]), [k.ELU] * 2
    hidden = len(actor) - 2
    actor_kinds, critic_kinds = ([k.NORM, *[kind] * hidden, k.LINEAR] for kind in (k.RELU, k.ELU))
    seen, following = ((int(at[entry]), int(at[S] + at[A])) for entry in (OBS_ACTION, NEXT))

    def at_column(matrix: Place, column: int) -> Place:
        return matrix[0] + column, matrix[1]

    def encoders(row: Place, source: Place, generation: int, learns: bool) -> tuple[list[list[int]], list[list[int]]]:
        """Return the rows of zs and zsa that answer into the row of a transition."""
        place = at_column(row, first + embedding)
        own = plan.network(zs, generation, [*between, k.NORM], [source], {-1: place}, False)
        return own, plan.network(zsa, generation, [*between, k.LINEAR], [place], {-1: at_column(row, first)}, learns)

    def critic(weights: NDArray[np.int64], generation: int, source: Place, row: Place, learns: bool) -> list[list[int]]:
        return plan.network(weights, generation, critic_kinds, [source, row], {0: row}, learns)

    width = first + 2 * embedding + int(at[A])
    # No gradient goes back through these.
    encode_next = plan.network(zs, ONLINE, [*between, k.NORM], [following], {}, False)
    row = plan.matrix(width)
    target_zs, target_zsa = encoders(row, following, SECOND_TARGET, False)
    behind = at_column(row, embedding)
    target_actor = plan.network(actor, TARGET, actor_kinds, [following, behind], {0: behind}, False)
    target_q1, target_q2 = (critic(weights, TARGET, following, row, False) for weights in (q1, q2))
    # The encoder's answers and gradients; once it is moved, those of what comes behind lie there.
    row = plan.matrix(width)
    before = plan.space.size
    read = plan.matrix(embedding + int(at[A]))
    encode = plan.network(zs, ONLINE, [*between, k.NORM], [seen], {-1: read}, True)
    encode += plan.network(zsa, ONLINE, [*between, k.LINEAR], [read], {}, True)
    end, plan.space.size = plan.space.size, before
    own_zs, own_zsa = encoders(row, seen, TARGET, True)
    read = plan.matrix(first + embedding)
    own_actor = plan.network(actor, ONLINE, actor_kinds, [seen, read], {0: read}, True)
    own_q1 = critic(q1, ONLINE, seen, row, True)
    if at[THREADS] == 1:  # one critic after the other, in the same room
        own_q2 = [[*there[:2], *weights[2:], *there[4:]] for there, weights in zip(own_q1, q2.tolist(), strict=True)]
    else:
        own_q2 = critic(q2, ONLINE, seen, plan.matrix(width), True)
    at[k.D_ZSA] = plan.space.take(int(at[B]) * embedding)
    plan.space.size = max(end, plan.space.size)
    networks = [encode, encode_next, target_zs, target_zsa, own_zs, own_zsa]
    networks += [target_actor, target_q1, target_q2, own_actor, own_q1, own_q2]
    return [row for network in networks for row in network]
