"""The compiled update of td7: its networks, and the steps of `variants/td7.py`.

Shapes as in `td7.py`; all matrices are row-major. As in `kernels.py`, every thread carries its own rows of the batch
and moves its own rows of each weight matrix, and of two crews each has a critic. So the result depends on the number of
threads, never on their timing. What a network is stands in a table of layers (`sale_layout.py`), not here.

Every comparison is written so that NaN comes through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import compiled
from t3d.engines.kernels import (
    ACTOR_LOSS,
    CREWS,
    CRITIC_LOSS,
    DELAYED,
    DISCOUNT,
    ERRORS,
    GRAD,
    GRAD_SIZE,
    LAYERS,
    NEXT,
    NOISE,
    NOISE_CLIP,
    OBS_ACTION,
    POLICY_NOISE,
    Q1,
    REWARD,
    TARGET,
    TERMINATED,
    THREADS,
    A,
    B,
    Crew,
    Ints,
    S,
    wait_for_all,
)
from t3d.engines.layers import (
    Floats,
    adam,
    add_bias,
    bias_relu,
    dense,
    dense_input_gradient,
    dense_weight_gradient,
    max_of,
    min_of,
    relu_gradient,
    sum_rows,
)
from t3d.engines.sale_layers import bias_elu, bias_norm, elu_gradient, norm_gradient

# Columns of `net`, a row a layer. GENERATION: row of `weights`. KIND: what becomes of the product. X and Y: offsets of
# what is read and answered, each with its stride. SIZE: of NORM, what each row was divided by. DELTA: the gradient with
# respect to the product, of which PARTIAL holds each thread's sum over its rows, PARTIAL_SIZE apart. ASIDE: where the
# gradient of ASIDE_WIDTH columns of what is read goes, from ASIDE_FROM on, in stages that move nothing.
INPUTS, OUTPUTS, WEIGHT, BIAS, GENERATION, KIND, X, X_STRIDE, Y, Y_STRIDE = range(10)
SIZE, DELTA, PARTIAL, PARTIAL_SIZE, ASIDE, ASIDE_FROM, ASIDE_WIDTH = range(10, 17)
LINEAR, RELU, ELU, NORM = range(4)
# Columns of `stages`: layers to go forward through; what THEN; layers to go BACK through; MOVES, the row of `rates` by
# which Adam moves these, or -1; whether all threads WAIT for each other at the end. CRITIC: 0 or 1, where it is of one.
FORWARD, FORWARD_LAYERS, THEN, BACK, BACK_LAYERS, MOVES, WAIT, CRITIC = range(8)
NOTHING, ENCODER_LOSS, NEXT_ACTION, TARGET_Q, SHARE, HUBER, ACTION, SHARE_ZSA, CLIMB, ADD, ACTOR_GRADIENT = range(11)
# Entries of `at` beside those that `kernels.py` names: widths of an embedding and of the first layers of actor and
# critics; how many critics the actor climbs; how many stages there are where the actor rests; (B,) the target; room
# for a second gradient of the action and of zsa. Then the networks, in the order of their rows: the first row of each.
E, FIRST, CLIMBED, RESTING, TARGETS, D_ACTION, D_ZSA, NETWORKS = range(16, 24)
ENCODE_NEXT, ENCODE_ZS, ENCODE_ZSA, TARGET_ZS, TARGET_ACTOR, TARGET_ZSA, TARGET_CRITIC_1, TARGET_CRITIC_2 = range(
    23, 31
)
ZS, ZSA, ACTOR, CRITIC_1, CRITIC_2, ENTRIES = range(31, 37)
# Entry of `hyper` beside those that `kernels.py` names.
PRE_TANH_WEIGHT = 2
# Rows of `rates`. Entries of a row of `sums` beside those that `kernels.py` names.
ACTOR_RATES, CRITIC_RATES, ENCODER_RATES = range(3)
LEAST, LARGEST = 5, 6


class Memory(NamedTuple):
    """All that an update reads and writes."""

    net: Ints  # a row a layer of each network, and of each time it is asked in an update
    stages: Ints  # a row a stage of an update
    at: Ints
    weights: Floats  # (5, P), see `adoption.py`; an offset means the same number in all five
    work: Floats  # the batch, answers and gradients, at the offsets that `net` and `at` name
    hyper: Floats
    rates: Floats  # (3, 6): of the actor, of the critics, of the encoder
    control: Ints
    sync: Ints  # as in `kernels.py`
    sums: NDArray[np.float64]  # (THREADS, 8)
    clamp: Floats  # (2,): bounds of Q' in the target
    extremes: Floats  # (2,): the least and the largest target so far


# Networks.


@compiled
def last_of(m: Memory, network: int) -> int:
    """Return the last row of an actor or a critic."""
    last: int = m.at[network] + m.at[LAYERS] - 1
    return last


@compiled
def forward(m: Memory, first: int, layers: int, lo: int, hi: int) -> None:
    """Carry rows lo to hi through some layers, one behind the other in `net`."""
    net, work, rows = m.net, m.work, hi - lo
    for layer in range(first, first + layers):
        n_in, n_out, x_stride, y_stride = (
            net[layer, INPUTS],
            net[layer, OUTPUTS],
            net[layer, X_STRIDE],
            net[layer, Y_STRIDE],
        )
        params, w, b, kind = m.weights[net[layer, GENERATION]], net[layer, WEIGHT], net[layer, BIAS], net[layer, KIND]
        x, y, bias = work[net[layer, X] + lo * x_stride :], work[net[layer, Y] + lo * y_stride :], params[b : b + n_out]
        dense(x, x_stride, params[w : w + n_in * n_out], y, y_stride, rows, n_in, n_out)
        if kind == ELU:
            bias_elu(y, bias, rows, n_out)
        elif kind == RELU:
            bias_relu(y, bias, rows, n_out)
        elif kind == NORM:
            bias_norm(y, y_stride, bias, work[net[layer, SIZE] + lo :], rows, n_out)
        else:
            add_bias(y, y_stride, bias, rows, n_out)


@compiled
def gradient_of_input(m: Memory, layer: int, column: int, columns: int, to: int, lo: int, hi: int) -> None:
    """Carry rows lo to hi of a layer's DELTA to some columns of what it read: a matrix (B, columns) at offset `to`."""
    if columns == 0:
        return
    n_in, n_out, w = m.net[layer, INPUTS], m.net[layer, OUTPUTS], m.net[layer, WEIGHT] + column
    dy = m.work[m.net[layer, DELTA] + lo * n_out : m.net[layer, DELTA] + hi * n_out]
    params = m.weights[m.net[layer, GENERATION]]
    dense_input_gradient(dy, params[w:], n_in, m.work[to + lo * columns :], hi - lo, columns, n_out)


@compiled
def gradient_of_product(m: Memory, layer: int, part: int, lo: int, hi: int) -> None:
    """Make rows lo to hi of DELTA, with respect to a layer's answer, those before its bias and what came behind."""
    net, work, rows = m.net, m.work, hi - lo
    n_out, y_stride, kind = net[layer, OUTPUTS], net[layer, Y_STRIDE], net[layer, KIND]
    y, dy = work[net[layer, Y] + lo * y_stride :], work[net[layer, DELTA] + lo * n_out :]
    partial = work[net[layer, PARTIAL] + part * net[layer, PARTIAL_SIZE] :]
    if kind == ELU:
        elu_gradient(y, dy, partial, rows, n_out)
    elif kind == RELU:
        relu_gradient(y, dy, partial, rows, n_out)
    elif kind == NORM:
        norm_gradient(y, y_stride, dy, work[net[layer, SIZE] + lo :], partial, rows, n_out)
    else:
        sum_rows(dy, n_out, partial, rows, n_out)


@compiled
def move(m: Memory, layer: int, rates: Floats, t: int, part: int, parts: int) -> None:
    """Let Adam move a part of a layer's weights and biases."""
    net, at, work = m.net, m.at, m.work
    n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
    lo, hi = n_out * part // parts, n_out * (part + 1) // parts
    if hi > lo:
        grad = work[at[GRAD] + t * at[GRAD_SIZE] : at[GRAD] + (t + 1) * at[GRAD_SIZE]]
        dy, x = work[net[layer, DELTA] + lo :], work[net[layer, X] :]
        dense_weight_gradient(dy, n_out, x, net[layer, X_STRIDE], grad, at[B], n_in, hi - lo)
        adam(m.weights, net[layer, WEIGHT] + lo * n_in, (hi - lo) * n_in, grad, rates, False, 0.0)
        sum_rows(work[net[layer, PARTIAL] + lo :], net[layer, PARTIAL_SIZE], grad, parts, hi - lo)
        adam(m.weights, net[layer, BIAS] + lo, hi - lo, grad, rates, False, 0.0)


@compiled
def backward(m: Memory, first: int, layers: int, moves: int, t: int, crew: Crew, lo: int, hi: int) -> None:
    """Carry the gradient of rows lo to hi back through some layers, and move each once it is passed, or none."""
    if layers == 0:
        return
    net, work, last = m.net, m.work, first + layers - 1
    n_out = net[last, OUTPUTS]
    partial = work[net[last, PARTIAL] + crew.part * net[last, PARTIAL_SIZE] :]
    sum_rows(work[net[last, DELTA] + lo * n_out :], n_out, partial, hi - lo, n_out)
    for layer in range(last, first - 1, -1):
        if layer > first:
            # What the layer below answers is what this one reads first.
            below = layer - 1
            gradient_of_input(m, layer, 0, net[below, OUTPUTS], net[below, DELTA], lo, hi)
            gradient_of_product(m, below, crew.part, lo, hi)
        if moves < 0:
            gradient_of_input(m, layer, net[layer, ASIDE_FROM], net[layer, ASIDE_WIDTH], net[layer, ASIDE], lo, hi)
        else:
            if layer > first:
                wait_for_all(m.sync, crew.bell, crew.parts)
            move(m, layer, m.rates[moves], t, crew.part, crew.parts)


@compiled
def copy_rows(work: Floats, x: int, x_stride: int, y: int, y_stride: int, width: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of a matrix at offset x to one at offset y."""
    for i in range(lo, hi):
        for j in range(width):
            work[y + i * y_stride + j] = work[x + i * x_stride + j]


@compiled
def embed_action(m: Memory, zsa: int, source: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of the actions, behind observations at an offset, to where zsa's first layer reads them."""
    at, behind_zs = m.at, m.net[zsa, X] + m.at[E]
    copy_rows(m.work, source + at[S], at[S] + at[A], behind_zs, m.net[zsa, X_STRIDE], at[A], lo, hi)


@compiled
def share_embeddings(m: Memory, width: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of zsa, or zsa and zs, to where the second critic reads them if that is another place."""
    net, first, second = m.net, m.at[CRITIC_1] + 1, m.at[CRITIC_2] + 1
    if net[first, X] != net[second, X]:
        x, y, stride = net[first, X] + m.at[FIRST], net[second, X] + m.at[FIRST], net[first, X_STRIDE]
        copy_rows(m.work, x, stride, y, stride, width, lo, hi)


@compiled
def share_zs(m: Memory, lo: int, hi: int) -> None:
    """Copy rows lo to hi of zs to where the actor reads them."""
    zs, reader = m.at[ZSA] - 1, m.at[ACTOR] + 1
    x, x_stride, y, y_stride = (
        m.net[zs, Y],
        m.net[zs, Y_STRIDE],
        m.net[reader, X] + m.at[FIRST],
        m.net[reader, X_STRIDE],
    )
    copy_rows(m.work, x, x_stride, y, y_stride, m.at[E], lo, hi)


# TD7, step by step as in `td7.py`.


@compiled
def encoder_loss(m: Memory, lo: int, hi: int) -> None:
    """Rows lo to hi of the loss's gradient: zsa is to be the next zs."""
    at, net, work, width = m.at, m.net, m.work, m.at[E]
    scale = work.dtype.type(2 / (at[B] * width))
    zsa, wanted, delta = net[at[ENCODE_ZSA] + 2, Y], net[at[ENCODE_NEXT] + 2, Y], net[at[ENCODE_ZSA] + 2, DELTA]
    for i in range(lo * width, hi * width):
        work[delta + i] = scale * (work[zsa + i] - work[wanted + i])


@compiled
def next_action(m: Memory, lo: int, hi: int) -> None:
    """Rows lo to hi of steps 5 and 6: the next action, behind the next observation."""
    at, work, hyper = m.at, m.work, m.hyper
    size, actions, width = at[S], at[A], at[S] + at[A]
    one, clip, answer = work.dtype.type(1), hyper[NOISE_CLIP], m.net[last_of(m, TARGET_ACTOR), Y]
    for i in range(lo, hi):
        for j in range(actions):
            noise = min_of(max_of(hyper[POLICY_NOISE] * work[at[NOISE] + i * actions + j], -clip), clip)
            action = work.dtype.type(math.tanh(work[answer + i * actions + j]))
            work[at[NEXT] + i * width + size + j] = min_of(max_of(action + noise, -one), one)
    embed_action(m, at[TARGET_ZSA], at[NEXT], lo, hi)


@compiled
def target_q(m: Memory, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of steps 8 and 9: what the critics should say."""
    at, work = m.at, m.work
    one, least, largest = work.dtype.type(1), work.dtype.type(m.clamp[0]), work.dtype.type(m.clamp[1])
    q1, q2 = m.net[last_of(m, TARGET_CRITIC_1), Y], m.net[last_of(m, TARGET_CRITIC_2), Y]
    for i in range(lo, hi):
        next_q = min_of(max_of(min_of(work[q1 + i], work[q2 + i]), least), largest)
        target = work[at[REWARD] + i] + work[at[DISCOUNT] + i] * (one - work[at[TERMINATED] + i]) * next_q
        work[at[TARGETS] + i] = target
        sums[TARGET] += target
        sums[LEAST] = min_of(sums[LEAST], target)
        sums[LARGEST] = max_of(sums[LARGEST], target)


@compiled
def critic_loss(m: Memory, critic: int, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of step 11 for one critic, and the loss's gradient with respect to its answer."""
    at, work, last = m.at, m.work, last_of(m, CRITIC_1 + critic)
    half, one, scale = work.dtype.type(0.5), work.dtype.type(1), work.dtype.type(1 / at[B])
    answer, delta, errors = m.net[last, Y], m.net[last, DELTA], at[ERRORS] + critic * at[B]
    for i in range(lo, hi):
        error = work[answer + i] - work[at[TARGETS] + i]
        size = abs(error)
        sums[CRITIC_LOSS] += half * error * error if size < one else size
        sums[Q1 + critic] += work[answer + i]
        work[errors + i] = -error
        work[delta + i] = scale * (math.copysign(one, error) if size >= one else error)


@compiled
def act(m: Memory, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of step 13: what the actor plays, behind the observation, and what it pays for large numbers."""
    at, work, answer, weight = m.at, m.work, m.net[last_of(m, ACTOR), Y], m.hyper[PRE_TANH_WEIGHT] / m.at[A]
    for i in range(lo, hi):
        for j in range(at[A]):
            pre_tanh = work[answer + i * at[A] + j]
            work[at[OBS_ACTION] + i * (at[S] + at[A]) + at[S] + j] = math.tanh(pre_tanh)
            sums[ACTOR_LOSS] += weight * pre_tanh * pre_tanh
    embed_action(m, at[ZSA], at[OBS_ACTION], lo, hi)


@compiled
def climb(m: Memory, critic: int, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of step 13: a critic's share of the loss, and the gradient with respect to its answer."""
    work, last, share = m.work, last_of(m, CRITIC_1 + critic), 1 / m.at[CLIMBED]
    slope = work.dtype.type(-share / m.at[B])
    for i in range(lo, hi):
        sums[ACTOR_LOSS] -= share * work[m.net[last, Y] + i]
        work[m.net[last, DELTA] + i] = slope


@compiled
def add_second(m: Memory, lo: int, hi: int) -> None:
    """Add the second critic's gradients of zsa and of the action to the first one's, if the actor climbs both."""
    at, work = m.at, m.work
    if at[CLIMBED] == 2:
        d_zsa, d_action = m.net[at[ZSA] + 2, DELTA], m.net[last_of(m, ACTOR), DELTA]
        for i in range(lo * at[E], hi * at[E]):
            work[d_zsa + i] += work[at[D_ZSA] + i]
        for i in range(lo * at[A], hi * at[A]):
            work[d_action + i] += work[at[D_ACTION] + i]


@compiled
def actor_gradient(m: Memory, lo: int, hi: int) -> None:
    """Rows lo to hi of the gradient with respect to the actor's answer: by the critics alone, through zsa, by size."""
    at, work, actions, last = m.at, m.work, m.at[A], last_of(m, ACTOR)
    answer, d_action, one = m.net[last, Y], m.net[last, DELTA], work.dtype.type(1)
    steepness = work.dtype.type(2 * m.hyper[PRE_TANH_WEIGHT] / (at[B] * actions))
    for i in range(lo, hi):
        for j in range(actions):
            played, k = work[at[OBS_ACTION] + i * (at[S] + actions) + at[S] + j], i * actions + j
            by_critics = (work[d_action + k] + work[at[D_ACTION] + k]) * (one - played * played)
            work[d_action + k] = by_critics + steepness * work[answer + k]


@compiled
def then(m: Memory, what: int, critic: int, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Do for rows lo to hi what stands between forward and back in a stage."""
    if what == ENCODER_LOSS:
        encoder_loss(m, lo, hi)
    elif what == NEXT_ACTION:
        next_action(m, lo, hi)
    elif what == TARGET_Q:
        target_q(m, sums, lo, hi)
    elif what == SHARE:
        share_embeddings(m, 2 * m.at[E], lo, hi)
        share_zs(m, lo, hi)
    elif what == HUBER:
        critic_loss(m, critic, sums, lo, hi)
    elif what == ACTION:
        act(m, sums, lo, hi)
    elif what == SHARE_ZSA:
        share_embeddings(m, m.at[E], lo, hi)
    elif what == CLIMB:
        climb(m, critic, sums, lo, hi)
    elif what == ADD:
        add_second(m, lo, hi)
    elif what == ACTOR_GRADIENT:
        actor_gradient(m, lo, hi)


@compiled
def update_rows(m: Memory, t: int) -> None:
    """Thread t's share of an update, stage by stage. Where threads form two crews, each has a critic of its own."""
    at, stages, threads, crews = m.at, m.stages, m.at[THREADS], m.at[CREWS]
    # Read now: once the last wait is over the caller may be preparing the next update.
    count = len(stages) if m.control[DELAYED] != 0 else at[RESTING]
    m.sums[t, :] = 0.0
    m.sums[t, LEAST], m.sums[t, LARGEST] = np.inf, -np.inf
    lo, hi = at[B] * t // threads, at[B] * (t + 1) // threads
    embed_action(m, at[ENCODE_ZSA], at[OBS_ACTION], lo, hi)
    embed_action(m, at[ZSA], at[OBS_ACTION], lo, hi)
    for s in range(count):
        what, critic = stages[s, THEN], stages[s, CRITIC]
        crew = Crew(0, t, threads)
        if what == HUBER:
            crew = Crew(8 * (1 + t % crews), t // crews, threads // crews)
        if what != HUBER or critic % crews == t % crews:
            lo, hi = at[B] * crew.part // crew.parts, at[B] * (crew.part + 1) // crew.parts
            forward(m, stages[s, FORWARD], stages[s, FORWARD_LAYERS], lo, hi)
            then(m, what, critic, m.sums[t], lo, hi)
            backward(m, stages[s, BACK], stages[s, BACK_LAYERS], stages[s, MOVES], t, crew, lo, hi)
        if stages[s, WAIT] != 0:
            wait_for_all(m.sync, 0, threads)
