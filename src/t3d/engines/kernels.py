"""The compiled update of the fused engine: networks, and the steps of `td3.py`.

Shapes as in `td3.py`; all matrices are row-major. Every thread carries its own rows of the batch forward and back
through a network, and moves its own rows of each weight matrix; the actor is split among all threads, a critic among
those of its crew. A layer is moved as soon as the gradient has passed it, while what that takes is in cache. So the
result depends on the number of threads (another split adds up in another order), never on their timing.

Every comparison is written so that NaN comes through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import add_and_get, compiled, get, yield_core
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
    norm_relu,
    norm_relu_gradient,
    relu_gradient,
    sum_rows,
)

Ints = NDArray[np.int64]

# Columns of `net`. GAIN is -1 where a layer is not normalised. PARTIAL: each thread's sums, over its rows, of the
# gradients of bias, gain and shift, PARTIAL_SIZE apart.
INPUTS, OUTPUTS, WEIGHT, BIAS, GAIN, SHIFT, OUT, NORMED, RSTD, DELTA, PARTIAL, PARTIAL_SIZE = range(12)
# Entries of `at`: sizes, then offsets in `work`. OBS_ACTION and NEXT are (B, S + A), what the critics read.
S, A, B, LAYERS, THREADS, CREWS, OBS_ACTION, NEXT, REWARD, TERMINATED, NOISE, NEXT_Q, GRAD, GRAD_SIZE = range(14)
DISCOUNT, ERRORS = 14, 15
# Entries of `hyper`; rows of `rates` (its entries: `layers.py`); entries of `control`; entries of a row of `sums`.
POLICY_NOISE, NOISE_CLIP, TAU = range(3)
ACTOR, CRITIC = range(2)
DELAYED, STOP, TD_ERROR = range(3)
CRITIC_LOSS, Q1, Q2, TARGET, ACTOR_LOSS = range(5)

SPINS = 4000  # about 10 us; then the core is offered to others, in case the awaited thread has none


class Memory(NamedTuple):
    """All that an update reads and writes."""

    net: Ints  # a row a linear layer: actor, Q1, Q2
    at: Ints
    weights: Floats  # (4, P): online, target, Adam's moments; an offset means the same number in all four
    work: Floats  # the batch, activations and gradients, at the offsets that `net` and `at` name
    hyper: Floats
    rates: Floats  # (2, 6)
    control: Ints
    sync: Ints  # (24,) at 0, 8 and 16 (a cache line each): how often all threads, and each crew, have waited
    sums: NDArray[np.float64]  # (THREADS, 5 or more)


class Crew(NamedTuple):
    """Threads that share a network, as one of them sees it."""

    bell: int  # where in `sync` they wait for each other
    part: int  # which of them it is
    parts: int  # how many they are


@compiled
def wait_for_all(sync: Ints, bell: int, threads: int) -> None:
    """Return once all threads have called this as often as this one."""
    if threads > 1:
        arrived = add_and_get(sync, bell, 1)
        goal = ((arrived - 1) // threads + 1) * threads
        spins = 0
        while get(sync, bell) < goal:
            spins += 1
            if spins > SPINS:
                yield_core()


# Networks.


@compiled
def forward(m: Memory, first: int, params: Floats, x: int, x_stride: int, lo: int, hi: int, to: int) -> None:
    """Carry rows lo to hi of the input at offset x through a network; what each layer says stays at column `to`.

    That is OUT; or, for targets, DELTA: their gradient is never asked for, and that memory is in cache.
    """
    net, work, layers, rows = m.net, m.work, m.at[LAYERS], hi - lo
    for layer in range(first, first + layers):
        n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
        w, b, g, s = net[layer, WEIGHT], net[layer, BIAS], net[layer, GAIN], net[layer, SHIFT]
        y = work[net[layer, to] + lo * n_out : net[layer, to] + hi * n_out]
        dense(work[x + lo * x_stride :], x_stride, params[w : w + n_in * n_out], y, n_out, rows, n_in, n_out)
        bias = params[b : b + n_out]
        if layer == first + layers - 1:
            add_bias(y, n_out, bias, rows, n_out)
        elif g < 0:
            bias_relu(y, bias, rows, n_out)
        else:
            normed, rstd = work[net[layer, NORMED] + lo * n_out :], work[net[layer, RSTD] + lo :]
            norm_relu(y, bias, params[g : g + n_out], params[s : s + n_out], normed, rstd, rows, n_out)
        x, x_stride = net[layer, to], n_out


@compiled
def backward(m: Memory, layer: int, part: int, lo: int, hi: int) -> None:
    """Carry rows lo to hi of a gradient from a layer's DELTA to the DELTA of the layer below."""
    net, work, params, rows, below = m.net, m.work, m.weights[0], hi - lo, layer - 1
    n_in, n_out, w, gain = net[layer, INPUTS], net[layer, OUTPUTS], net[layer, WEIGHT], net[below, GAIN]
    dy = work[net[layer, DELTA] + lo * n_out : net[layer, DELTA] + hi * n_out]
    dx = work[net[below, DELTA] + lo * n_in : net[below, DELTA] + hi * n_in]
    dense_input_gradient(dy, params[w : w + n_in * n_out], n_in, dx, rows, n_in, n_out)
    x = work[net[below, OUT] + lo * n_in : net[below, OUT] + hi * n_in]
    partial = work[net[below, PARTIAL] + part * net[below, PARTIAL_SIZE] :]
    if gain < 0:
        relu_gradient(x, dx, partial, rows, n_in)
    else:
        normed, rstd = work[net[below, NORMED] + lo * n_in :], work[net[below, RSTD] + lo :]
        norm_relu_gradient(x, dx, params[gain : gain + n_in], normed, rstd, partial, rows, n_in)


@compiled
def adam_and_polyak(m: Memory, layer: int, x: int, x_stride: int, rates: Floats, t: int, part: int, parts: int) -> None:
    """Steps 12 to 15 for a part of a layer: its gradients, Adam, Polyak if delayed. x: offset of its input."""
    net, at, work = m.net, m.at, m.work
    follow, tau = m.control[DELAYED] != 0, m.hyper[TAU]
    grad = work[at[GRAD] + t * at[GRAD_SIZE] : at[GRAD] + (t + 1) * at[GRAD_SIZE]]
    n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
    lo, hi = n_out * part // parts, n_out * (part + 1) // parts
    if hi > lo:
        dy = work[net[layer, DELTA] + lo :]
        dense_weight_gradient(dy, n_out, work[x:], x_stride, grad, at[B], n_in, hi - lo)
        adam(m.weights, net[layer, WEIGHT] + lo * n_in, (hi - lo) * n_in, grad, rates, follow, tau)
        for kind in range(3 if net[layer, GAIN] >= 0 else 1):
            partial = work[net[layer, PARTIAL] + kind * n_out + lo :]
            sum_rows(partial, net[layer, PARTIAL_SIZE], grad, parts, hi - lo)
            # BIAS, GAIN and SHIFT are neighbours in `net` as their sums are in PARTIAL.
            adam(m.weights, net[layer, BIAS + kind] + lo, hi - lo, grad, rates, follow, tau)


@compiled
def backpropagate(m: Memory, first: int, rates: Floats, t: int, crew: Crew, lo: int, hi: int) -> None:
    """Steps 12 and 13: carry the gradient of rows lo to hi down a network, and move each layer once it is passed."""
    net, at, work = m.net, m.at, m.work
    last = first + at[LAYERS] - 1
    n_out = net[last, OUTPUTS]
    partial = work[net[last, PARTIAL] + crew.part * net[last, PARTIAL_SIZE] :]
    sum_rows(work[net[last, DELTA] + lo * n_out :], n_out, partial, hi - lo, n_out)
    for layer in range(last, first - 1, -1):
        x, x_stride = at[OBS_ACTION], at[S] + at[A]
        if layer > first:
            backward(m, layer, crew.part, lo, hi)
            x, x_stride = net[layer - 1, OUT], net[layer, INPUTS]
            wait_for_all(m.sync, crew.bell, crew.parts)
        adam_and_polyak(m, layer, x, x_stride, rates, t, crew.part, crew.parts)


# TD3, step by step as in `td3.py`.


@compiled
def next_action(m: Memory, lo: int, hi: int) -> None:
    """Rows lo to hi of steps 5 and 6: the next action, behind the next observation."""
    at, net, work, hyper = m.at, m.net, m.work, m.hyper
    size, actions, width = at[S], at[A], at[S] + at[A]
    one, clip = work.dtype.type(1), hyper[NOISE_CLIP]
    forward(m, 0, m.weights[1], at[NEXT], width, lo, hi, DELTA)
    for i in range(lo, hi):
        for j in range(actions):
            noise = min_of(max_of(hyper[POLICY_NOISE] * work[at[NOISE] + i * actions + j], -clip), clip)
            action = work.dtype.type(math.tanh(work[net[at[LAYERS] - 1, DELTA] + i * actions + j]))
            work[at[NEXT] + i * width + size + j] = min_of(max_of(action + noise, -one), one)


@compiled
def next_q_of(m: Memory, critic: int, lo: int, hi: int) -> None:
    """Rows lo to hi of step 7: how a critic's target values the next observation and action."""
    at, net, work = m.at, m.net, m.work
    forward(m, critic * at[LAYERS], m.weights[1], at[NEXT], at[S] + at[A], lo, hi, DELTA)
    # Its own place: the gradient that comes where it stands now may be there before the other critic's crew has read.
    answer, place = net[(critic + 1) * at[LAYERS] - 1, DELTA], at[NEXT_Q] + (critic - 1) * at[B]
    for i in range(lo, hi):
        work[place + i] = work[answer + i]


@compiled
def critic_loss(m: Memory, critic: int, sums: NDArray[np.float64], lo: int, hi: int) -> None:
    """Rows lo to hi of steps 8 to 11 for one critic, and the loss's gradient with respect to its answer."""
    at, net, work = m.at, m.net, m.work
    one, scale = work.dtype.type(1), work.dtype.type(2 / at[B])
    first = critic * at[LAYERS]
    last = first + at[LAYERS] - 1
    forward(m, first, m.weights[0], at[OBS_ACTION], at[S] + at[A], lo, hi, OUT)
    for i in range(lo, hi):
        bootstrap = work[at[DISCOUNT] + i] * (one - work[at[TERMINATED] + i])
        next_q = min_of(work[at[NEXT_Q] + i], work[at[NEXT_Q] + at[B] + i])
        target_q, q = work[at[REWARD] + i] + bootstrap * next_q, work[net[last, OUT] + i]
        work[net[last, DELTA] + i] = scale * (q - target_q)
        sums[CRITIC_LOSS] += (q - target_q) * (q - target_q)
        sums[Q1 + critic - 1] += q
        sums[TARGET] += target_q / 2  # both critics add it
    if m.control[TD_ERROR] != 0:
        for i in range(lo, hi):
            bootstrap = work[at[DISCOUNT] + i] * (one - work[at[TERMINATED] + i])
            next_q = min_of(work[at[NEXT_Q] + i], work[at[NEXT_Q] + at[B] + i])
            target_q, q = work[at[REWARD] + i] + bootstrap * next_q, work[net[last, OUT] + i]
            work[at[ERRORS] + (critic - 1) * at[B] + i] = target_q - q


@compiled
def actor_loss(m: Memory, t: int, lo: int, hi: int) -> None:
    """Rows lo to hi of step 13, and the loss's gradient with respect to the actor's answer."""
    at, net, work, online = m.at, m.net, m.work, m.weights[0]
    layers, size, actions, width = at[LAYERS], at[S], at[A], at[S] + at[A]
    one = work.dtype.type(1)
    forward(m, 0, online, at[OBS_ACTION], width, lo, hi, OUT)
    for i in range(lo, hi):
        for j in range(actions):
            action = math.tanh(work[net[layers - 1, OUT] + i * actions + j])
            work[at[OBS_ACTION] + i * width + size + j] = action
    forward(m, layers, online, at[OBS_ACTION], width, lo, hi, OUT)
    for i in range(lo, hi):
        m.sums[t, ACTOR_LOSS] -= work[net[2 * layers - 1, OUT] + i]
        work[net[2 * layers - 1, DELTA] + i] = work.dtype.type(-1 / at[B])
    for layer in range(2 * layers - 1, layers, -1):
        backward(m, layer, t, lo, hi)
    # Of the critic's first layer only the columns of the action lead back to the actor.
    n_out = net[layers, OUTPUTS]
    w, dy = online[net[layers, WEIGHT] + size :], work[net[layers, DELTA] + lo * n_out :]
    d_action = work[net[layers - 1, DELTA] + lo * actions : net[layers - 1, DELTA] + hi * actions]
    dense_input_gradient(dy, w, width, d_action, hi - lo, actions, n_out)
    for i in range(hi - lo):
        for j in range(actions):
            played = work[at[OBS_ACTION] + (lo + i) * width + size + j]
            d_action[i * actions + j] *= one - played * played


@compiled
def update_rows(m: Memory, t: int) -> None:
    """Thread t's share of an update. Where threads form two crews, each has a critic of its own."""
    at, layers, threads, crews = m.at, m.at[LAYERS], m.at[THREADS], m.at[CREWS]
    everyone = Crew(0, t, threads)
    crew = Crew(8 * (1 + t % crews), t // crews, threads // crews)
    lo, hi = at[B] * t // threads, at[B] * (t + 1) // threads
    crew_lo, crew_hi = at[B] * crew.part // crew.parts, at[B] * (crew.part + 1) // crew.parts
    # Read now: once the last wait is over the caller may be preparing the next update.
    delayed = m.control[DELAYED] != 0
    m.sums[t, :] = 0.0
    next_action(m, lo, hi)
    if crews == 2:
        wait_for_all(m.sync, 0, threads)
    for critic in range(1 + t % crews, 3, crews):
        next_q_of(m, critic, crew_lo, crew_hi)
    if crews == 2:
        wait_for_all(m.sync, 0, threads)
    for critic in range(1 + t % crews, 3, crews):
        critic_loss(m, critic, m.sums[t], crew_lo, crew_hi)
        backpropagate(m, critic * layers, m.rates[CRITIC], t, crew, crew_lo, crew_hi)
    wait_for_all(m.sync, 0, threads)
    if delayed:
        actor_loss(m, t, lo, hi)
        backpropagate(m, 0, m.rates[ACTOR], t, everyone, lo, hi)
        wait_for_all(m.sync, 0, threads)
