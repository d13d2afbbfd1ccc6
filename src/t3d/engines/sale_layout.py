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
from t3d.engines.adoption import ONLINE, SECOND_TARGET, TARGET
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
from t3d.engines.layout import Kept, Offsets, aligned
from t3d.networks import Encoder, Linear, SaleActor, SaleCritic
from t3d.variants.td7 import TD7


def linears_of(body: nn.Sequential, activation: type[nn.Module]) -> list[nn.Linear] | None:
    """Return the linear layers of an MLP, or None if it is built another way."""
    modules = list(body)
    linears = modules[::2]
    fits = all(type(module) is activation for module in modules[1::2]) and len(modules) % 2 == 1
    fits = fits and all(getattr(module, "alpha", 1.0) == 1.0 for module in modules[1::2])  # of ELU
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
            row = [n_in, n_out, weight, bias, generation, kinds[layer], *x, *place, *[0] * 7]
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
    tables: list[NDArray[np.int64]], climbed: int, batch: int, threads: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return `net`, `stages`, `at` and `work` of `sale_kernels.Memory`.

    Args:
        tables: of `lay_out_weights`.
        climbed: critics that the actor climbs, 1 or 2.
        batch: B.
        threads: that share an update.
        dtype: of weights and work.
    """
    zs, _, actor, *_ = tables
    plan, at = _Planner(batch, threads, dtype), np.zeros(k.ENTRIES, np.int64)
    take, crews = plan.space.take, 2 - threads % 2
    at[[S, A, B, k.E, k.FIRST]] = zs[0, 0], actor[-1, 1], batch, zs[-1, 1], actor[0, 1]
    at[[LAYERS, THREADS, CREWS, k.CLIMBED]] = len(actor), threads, crews, climbed
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
    stages, at[k.RESTING] = plan_stages(at)
    return net, stages, at, aligned(plan.space.size, dtype)


def plan_stages(at: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return the stages of an update, and how many there are where the actor rests."""
    heads = int(at[LAYERS])

    def stage(
        forward: tuple[int, int],
        then: int,
        back: tuple[int, int] = (0, 0),
        moves: int = -1,
        wait: bool = False,
        critic: int = 0,
    ) -> list[int]:
        """Go through so many layers from a network on, do what comes then, go back."""
        start, back_start = int(at[forward[0]]), int(at[back[0]])
        return [start, forward[1], then, back_start, back[1], moves, wait, critic]

    nothing = k.ZS, 0
    critics = (0, k.CRITIC_1), (1, k.CRITIC_2)
    # No thread may write where another still reads. What comes behind the encoder has its room in that of the encoder's
    # gradients; critics read what all threads have embedded; the actor overwrites what the critics learn by.
    stages = [
        stage((k.ENCODE_NEXT, 9), k.ENCODER_LOSS, (k.ENCODE_ZS, 6), k.ENCODER_RATES, wait=True),
        stage((k.TARGET_ZS, 3 + heads), k.NEXT_ACTION),
        stage((k.TARGET_ZSA, 3 + 2 * heads), k.TARGET_Q),
        stage((k.ZS, 6), k.SHARE, wait=True),
        *(
            stage((net, heads), k.HUBER, (net, heads), k.CRITIC_RATES, net == k.CRITIC_2, critic)
            for critic, net in critics
        ),
    ]
    delayed = [
        stage((k.ACTOR, heads), k.ACTION),
        stage((k.ZSA, 3), k.SHARE_ZSA),
        *(stage((net, heads), k.CLIMB, (net, heads), critic=critic) for critic, net in critics[: int(at[k.CLIMBED])]),
        stage(nothing, k.ADD, (k.ZSA, 3)),
        stage(nothing, k.ACTOR_GRADIENT, (k.ACTOR, heads), k.ACTOR_RATES, wait=True),
    ]
    return np.array(stages + delayed, np.int64), len(stages)


def _plan_networks(plan: _Planner, tables: list[NDArray[np.int64]], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of all networks; say in `at` where each begins."""
    width = int(at[k.FIRST] + 2 * at[k.E] + at[A])
    networks = _without_gradient(plan, tables, at, plan.matrix(width))
    row = plan.matrix(width)
    before = plan.space.size
    networks |= _encoder(plan, tables, at)
    end, plan.space.size = plan.space.size, before
    # Once the encoder is moved, what comes behind lies where its answers and gradients lay.
    networks |= _learning(plan, tables, at, row)
    plan.space.size = max(end, plan.space.size)
    first = 0
    for network in sorted(networks):
        at[network] = first
        first += len(networks[network])
    return np.array([row for network in sorted(networks) for row in networks[network]], np.int64)


Networks = dict[int, list[list[int]]]  # rows by the entry of `at` that says where they begin


def _sources(at: NDArray[np.int64]) -> tuple[Place, Place]:
    """Return where observations and actions lie, and the next ones."""
    width = int(at[S] + at[A])
    return (int(at[OBS_ACTION]), width), (int(at[NEXT]), width)


def _kinds(at: NDArray[np.int64]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return what becomes of the products of zs, zsa, an actor and a critic."""
    hidden = int(at[LAYERS]) - 2
    actor, critic = ([k.NORM, *[kind] * hidden, k.LINEAR] for kind in (k.RELU, k.ELU))
    return [k.ELU, k.ELU, k.NORM], [k.ELU, k.ELU, k.LINEAR], actor, critic


def _column(matrix: Place, column: int) -> Place:
    return matrix[0] + column, matrix[1]


def _without_gradient(plan: _Planner, tables: list[NDArray[np.int64]], at: NDArray[np.int64], row: Place) -> Networks:
    """Return the networks of the targets, what is embedded for good, and the encoder's own next zs."""
    zs, zsa, actor, q1, q2 = tables
    kinds, (_, following), (first, embedding) = _kinds(at), _sources(at), (int(at[k.FIRST]), int(at[k.E]))
    embedded, behind = _column(row, first + embedding), _column(row, embedding)
    return {
        k.ENCODE_NEXT: plan.network(zs, ONLINE, kinds[0], [following], {}, False),
        k.TARGET_ZS: plan.network(zs, SECOND_TARGET, kinds[0], [following], {-1: embedded}, False),
        k.TARGET_ACTOR: plan.network(actor, TARGET, kinds[2], [following, behind], {0: behind}, False),
        k.TARGET_ZSA: plan.network(zsa, SECOND_TARGET, kinds[1], [embedded], {-1: _column(row, first)}, False),
        k.TARGET_CRITIC_1: plan.network(q1, TARGET, kinds[3], [following, row], {0: row}, False),
        k.TARGET_CRITIC_2: plan.network(q2, TARGET, kinds[3], [following, row], {0: row}, False),
    }


def _encoder(plan: _Planner, tables: list[NDArray[np.int64]], at: NDArray[np.int64]) -> Networks:
    """Return the encoder that learns."""
    kinds, (seen, _) = _kinds(at), _sources(at)
    read = plan.matrix(int(at[k.E] + at[A]))
    return {
        k.ENCODE_ZS: plan.network(tables[0], ONLINE, kinds[0], [seen], {-1: read}, True),
        k.ENCODE_ZSA: plan.network(tables[1], ONLINE, kinds[1], [read], {}, True),
    }


def _learning(plan: _Planner, tables: list[NDArray[np.int64]], at: NDArray[np.int64], row: Place) -> Networks:
    """Return critics and actor, the encoder that they see, and where the actor's gradient turns aside."""
    zs, zsa, actor, q1, q2 = tables
    kinds, (seen, _), (first, embedding) = _kinds(at), _sources(at), (int(at[k.FIRST]), int(at[k.E]))
    embedded, read = _column(row, first + embedding), plan.matrix(first + embedding)
    networks = {
        k.ZS: plan.network(zs, TARGET, kinds[0], [seen], {-1: embedded}, False),
        k.ZSA: plan.network(zsa, TARGET, kinds[1], [embedded], {-1: _column(row, first)}, True),
        k.ACTOR: plan.network(actor, ONLINE, kinds[2], [seen, read], {0: read}, True),
        k.CRITIC_1: plan.network(q1, ONLINE, kinds[3], [seen, row], {0: row}, True),
    }
    if at[THREADS] == 1:  # one critic after the other, in the same room
        pairs = zip(networks[k.CRITIC_1], q2.tolist(), strict=True)
        networks[k.CRITIC_2] = [[*weights, *there[4:]] for there, weights in pairs]
    else:
        own = plan.matrix(row[1])
        networks[k.CRITIC_2] = plan.network(q2, ONLINE, kinds[3], [seen, own], {0: own}, True)
    at[k.D_ZSA] = plan.space.take(int(at[B]) * embedding)
    d_zsa, d_action = networks[k.ZSA][-1][k.DELTA], networks[k.ACTOR][-1][k.DELTA]
    aside = slice(k.ASIDE, k.ASIDE_WIDTH + 1)
    networks[k.CRITIC_1][1][aside], networks[k.CRITIC_2][1][aside] = (
        [to, first, embedding] for to in (d_zsa, int(at[k.D_ZSA]))
    )
    networks[k.CRITIC_1][0][aside], networks[k.CRITIC_2][0][aside] = (
        [to, int(at[S]), int(at[A])] for to in (d_action, int(at[k.D_ACTION]))
    )
    networks[k.ZSA][0][aside] = [int(at[k.D_ACTION]), embedding, int(at[A])]
    return networks
