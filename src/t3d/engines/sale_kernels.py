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
# respect to the product, of which PARTIAL holds each thread's sum over its rows, PARTIAL_SIZE apart.
INPUTS, OUTPUTS, WEIGHT, BIAS, GENERATION, KIND, X, X_STRIDE, Y, Y_STRIDE, SIZE, DELTA, PARTIAL, PARTIAL_SIZE = range(
    14
)
COLUMNS = 14
LINEAR, RELU, ELU, NORM = range(4)
# The encoders' first rows in `net`; behind them stand networks of LAYERS rows each, see `head`. ENCODE is zs and zsa
# of the encoder that learns, one behind the other; ENCODE_NEXT its zs of s'.
ENCODE, ENCODE_NEXT, TARGET_ZS, TARGET_ZSA, ZS, ZSA, HEADS = 0, 6, 9, 12, 15, 18, 21
TARGET_ACTOR, TARGET_CRITIC, ACTOR, CRITIC = 0, 1, 3, 4
# Entries of `at` beside those that `kernels.py` names: widths of an embedding and of the first layers of the heads;
# (B,) the target; room for a second gradient of the action and of zsa.
E, FIRST, TARGETS, D_ACTION, D_ZSA, ENTRIES = range(16, 22)
# Entry of `control`: the actor climbs the mean of both critics. Rows of `rates`. Entries of a row of `sums`.
MEAN_OF_BOTH = 3
ACTOR_RATES, CRITIC_RATES, ENCODER_RATES = range(3)
Q_OF, LEAST, LARGEST = 1, 5, 6


class Memory(NamedTuple):
    """All that an update reads and writes."""

    net: Ints  # (21 + 6 * LAYERS, COLUMNS)
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
def head(m: Memory, which: int) -> int:
    """Return the first row of an actor or a critic."""
    first: int = HEADS + which * m.at[LAYERS]
    return first


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
def backward(m: Memory, layer: int, part: int, lo: int, hi: int) -> None:
    """Carry rows lo to hi of the gradient from a layer to the one below, whose answer is what it reads first."""
    below = layer - 1
    gradient_of_input(m, layer, 0, m.net[below, OUTPUTS], m.net[below, DELTA], lo, hi)
    gradient_of_product(m, below, part, lo, hi)


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
def backpropagate(m: Memory, first: int, layers: int, rates: Floats, t: int, crew: Crew, lo: int, hi: int) -> None:
    """Carry the gradient of rows lo to hi down some layers, and move each once it is passed."""
    last = first + layers - 1
    gradient_of_product(m, last, crew.part, lo, hi)
    for layer in range(last, first - 1, -1):
        if layer > first:
            backward(m, layer, crew.part, lo, hi)
            wait_for_all(m.sync, crew.bell, crew.parts)
        move(m, layer, rates, t, crew.part, crew.parts)


@compiled
def copy_rows(work: Floats, x: int, x_stride: int, y: int, y_stride: int, width: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of a matrix at offset x to one at offset y."""
    for i in range(lo, hi):
        for j in range(width):
            work[y + i * y_stride + j] = work[x + i * x_stride + j]


@compiled
def embed_action(m: Memory, first: int, source: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of the actions, behind observations at an offset, to where zsa's first layer reads them."""
    at, behind_zs = m.at, m.net[first, X] + m.at[E]
    copy_rows(m.work, source + at[S], at[S] + at[A], behind_zs, m.net[first, X_STRIDE], at[A], lo, hi)


# TD7, step by step as in `td7.py`.


@compiled
def update_encoder(m: Memory, t: int, everyone: Crew, lo: int, hi: int) -> None:
    """Let the encoder predict the next embedding from this one and the action."""
    at, net, work = m.at, m.net, m.work
    embed_action(m, ENCODE + 3, at[OBS_ACTION], lo, hi)
    forward(m, ENCODE_NEXT, 3, lo, hi)
    forward(m, ENCODE, 6, lo, hi)
    width = at[E]
    scale = work.dtype.type(2 / (at[B] * width))
    zsa, wanted, delta = net[ENCODE + 5, Y], net[ENCODE_NEXT + 2, Y], net[ENCODE + 5, DELTA]
    for i in range(lo * width, hi * width):
        work[delta + i] = scale * (work[zsa + i] - work[wanted + i])
    backpropagate(m, ENCODE, 6, m.rates[ENCODER_RATES], t, everyone, lo, hi)


@compiled
def target_q(m: Memory, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of steps 5 to 9: what the critics should say."""
    at, net, work, hyper = m.at, m.net, m.work, m.hyper
    layers, size, actions, width = at[LAYERS], at[S], at[A], at[S] + at[A]
    one, clip = work.dtype.type(1), hyper[NOISE_CLIP]
    forward(m, TARGET_ZS, 3, lo, hi)
    forward(m, head(m, TARGET_ACTOR), layers, lo, hi)
    played = net[head(m, TARGET_ACTOR) + layers - 1, Y]
    for i in range(lo, hi):
        for j in range(actions):
            noise = min_of(max_of(hyper[POLICY_NOISE] * work[at[NOISE] + i * actions + j], -clip), clip)
            action = work.dtype.type(math.tanh(work[played + i * actions + j]))
            work[at[NEXT] + i * width + size + j] = min_of(max_of(action + noise, -one), one)
    embed_action(m, TARGET_ZSA, at[NEXT], lo, hi)
    forward(m, TARGET_ZSA, 3, lo, hi)
    forward(m, head(m, TARGET_CRITIC), 2 * layers, lo, hi)
    q1, q2 = net[head(m, TARGET_CRITIC + 1) - 1, Y], net[head(m, TARGET_CRITIC + 2) - 1, Y]
    least, largest = work.dtype.type(m.clamp[0]), work.dtype.type(m.clamp[1])
    for i in range(lo, hi):
        next_q = min_of(max_of(min_of(work[q1 + i], work[q2 + i]), least), largest)
        target = work[at[REWARD] + i] + work[at[DISCOUNT] + i] * (one - work[at[TERMINATED] + i]) * next_q
        work[at[TARGETS] + i] = target
        sums[TARGET] += target
        sums[LEAST] = min_of(sums[LEAST], target)
        sums[LARGEST] = max_of(sums[LARGEST], target)


@compiled
def embed(m: Memory, lo: int, hi: int) -> None:
    """Embed rows lo to hi of s and a, as actor and critics see them."""
    forward(m, ZS, 3, lo, hi)
    embed_action(m, ZSA, m.at[OBS_ACTION], lo, hi)
    forward(m, ZSA, 3, lo, hi)
    share_embeddings(m, 2 * m.at[E], lo, hi)


@compiled
def share_embeddings(m: Memory, width: int, lo: int, hi: int) -> None:
    """Copy rows lo to hi of zsa, or zsa and zs, to where the second critic reads them if that is another place."""
    net, first, second = m.net, head(m, CRITIC) + 1, head(m, CRITIC + 1) + 1
    if net[first, X] != net[second, X]:
        x, y, stride = net[first, X] + m.at[FIRST], net[second, X] + m.at[FIRST], net[first, X_STRIDE]
        copy_rows(m.work, x, stride, y, stride, width, lo, hi)


@compiled
def critic_loss(m: Memory, critic: int, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of steps 10 and 11 for one critic, 0 or 1, and the loss's gradient with respect to its answer."""
    at, net, work = m.at, m.net, m.work
    half, one, scale = work.dtype.type(0.5), work.dtype.type(1), work.dtype.type(1 / at[B])
    first = head(m, CRITIC + critic)
    last = first + at[LAYERS] - 1
    forward(m, first, at[LAYERS], lo, hi)
    for i in range(lo, hi):
        q = work[net[last, Y] + i]
        error = q - work[at[TARGETS] + i]
        size = abs(error)
        sums[CRITIC_LOSS] += half * error * error if size < one else size
        sums[Q_OF + critic] += q
        work[net[last, DELTA] + i] = scale * (math.copysign(one, error) if size >= one else error)
        work[at[ERRORS] + critic * at[B] + i] = -error


@compiled
def climb(m: Memory, critic: int, t: int, lo: int, hi: int) -> None:
    """Rows lo to hi of the gradient of one critic, 0 or 1: add those of the action and zsa to what is there."""
    at, net, work, layers = m.at, m.net, m.work, m.at[LAYERS]
    first = head(m, CRITIC + critic)
    last, share = first + layers - 1, 0.5 if m.control[MEAN_OF_BOTH] != 0 else 1.0
    forward(m, first, layers, lo, hi)
    for i in range(lo, hi):
        m.sums[t, ACTOR_LOSS] -= share * work[net[last, Y] + i]
        work[net[last, DELTA] + i] = work.dtype.type(-share / at[B])
    for layer in range(last, first, -1):
        backward(m, layer, t, lo, hi)
    d_action, d_zsa = net[head(m, ACTOR + 1) - 1, DELTA], net[ZSA + 2, DELTA]
    gradient_of_input(m, first + 1, at[FIRST], at[E], at[D_ZSA] if critic else d_zsa, lo, hi)
    gradient_of_input(m, first, at[S], at[A], at[D_ACTION] if critic else d_action, lo, hi)
    if critic:
        add(work, at[D_ZSA], d_zsa, lo * at[E], hi * at[E])
        add(work, at[D_ACTION], d_action, lo * at[A], hi * at[A])


@compiled
def add(work: Floats, x: int, y: int, lo: int, hi: int) -> None:
    """Add numbers lo to hi at offset x to those at offset y."""
    for i in range(lo, hi):
        work[y + i] += work[x + i]


@compiled
def actor_loss(m: Memory, t: int, lo: int, hi: int) -> None:
    """Rows lo to hi of step 13, and the loss's gradient with respect to the actor's answer."""
    at, net, work = m.at, m.net, m.work
    size, actions, width, one = at[S], at[A], at[S] + at[A], work.dtype.type(1)
    play(m, lo, hi)
    answer, d_action = net[head(m, ACTOR + 1) - 1, Y], net[head(m, ACTOR + 1) - 1, DELTA]
    for i in range(lo, hi):
        for j in range(actions):
            work[at[OBS_ACTION] + i * width + size + j] = math.tanh(work[answer + i * actions + j])
    embed_action(m, ZSA, at[OBS_ACTION], lo, hi)
    forward(m, ZSA, 3, lo, hi)
    share_embeddings(m, at[E], lo, hi)
    for critic in range(2 if m.control[MEAN_OF_BOTH] != 0 else 1):
        climb(m, critic, t, lo, hi)
    gradient_of_product(m, ZSA + 2, t, lo, hi)
    for layer in range(ZSA + 2, ZSA, -1):
        backward(m, layer, t, lo, hi)
    gradient_of_input(m, ZSA, at[E], actions, at[D_ACTION], lo, hi)
    for i in range(lo, hi):
        for j in range(actions):
            played = work[at[OBS_ACTION] + i * width + size + j]
            both = work[d_action + i * actions + j] + work[at[D_ACTION] + i * actions + j]
            work[d_action + i * actions + j] = both * (one - played * played)


@compiled
def play(m: Memory, lo: int, hi: int) -> None:
    """Carry rows lo to hi of the observations, whose zs is there, through the actor."""
    net, first = m.net, head(m, ACTOR)
    zs, read = net[ZS + 2, Y], net[first + 1, X]
    copy_rows(m.work, zs, net[ZS + 2, Y_STRIDE], read + m.at[FIRST], net[first + 1, X_STRIDE], m.at[E], lo, hi)
    forward(m, first, m.at[LAYERS], lo, hi)


@compiled
def update_rows(m: Memory, t: int) -> None:
    """Thread t's share of an update. Where threads form two crews, each has a critic of its own."""
    at, threads, crews = m.at, m.at[THREADS], m.at[CREWS]
    everyone = Crew(0, t, threads)
    crew = Crew(8 * (1 + t % crews), t // crews, threads // crews)
    lo, hi = at[B] * t // threads, at[B] * (t + 1) // threads
    crew_lo, crew_hi = at[B] * crew.part // crew.parts, at[B] * (crew.part + 1) // crew.parts
    # Read now: once the last wait is over the caller may be preparing the next update.
    delayed = m.control[DELAYED] != 0
    m.sums[t, :] = 0.0
    m.sums[t, LEAST], m.sums[t, LARGEST] = np.inf, -np.inf
    update_encoder(m, t, everyone, lo, hi)
    # What comes behind has its room in that of the encoder's gradients.
    wait_for_all(m.sync, 0, threads)
    target_q(m, m.sums[t], lo, hi)
    embed(m, lo, hi)
    wait_for_all(m.sync, 0, threads)
    for critic in range(t % crews, 2, crews):
        critic_loss(m, critic, m.sums[t], crew_lo, crew_hi)
        backpropagate(m, head(m, CRITIC + critic), at[LAYERS], m.rates[CRITIC_RATES], t, crew, crew_lo, crew_hi)
    wait_for_all(m.sync, 0, threads)
    if delayed:
        actor_loss(m, t, lo, hi)
        backpropagate(m, head(m, ACTOR), at[LAYERS], m.rates[ACTOR_RATES], t, everyone, lo, hi)
        wait_for_all(m.sync, 0, threads)
