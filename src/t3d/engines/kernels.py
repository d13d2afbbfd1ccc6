"""Every compiled function of the fused engine, in one file: a cached one does not notice a changed callee elsewhere.

Shapes as in `td3.py`. A network is `layers` rows of the int64 table `net`, one row a linear layer, its columns named
below; actor, Q1 and Q2 follow each other. All matrices are row-major and lie in one of two float arrays:

    weights (4, P)   online, target, first and second Adam moment; an offset means the same number in all four
    work (W,)        the batch, activations and gradients, at the offsets that `net` and `at` name

An update is four phases. In 1 and 3 every thread carries its own rows of the batch forward and backward through whole
networks and waits for nobody; in 2 and 4 every thread moves its own rows of each weight matrix. So the result depends
on the number of threads (another split adds up in another order), never on their timing.

Every comparison is written so that NaN comes through.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.engines.native import acquire, add_and_get, compiled, gemm, get, release, yield_core

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

# Columns of `net`. GAIN is -1 where a layer is not normalised. PARTIAL: each thread's sums over its rows of the
# gradients of bias, gain and shift, PARTIAL_SIZE apart.
INPUTS, OUTPUTS, WEIGHT, BIAS, GAIN, SHIFT, OUT, NORMED, RSTD, DELTA, PARTIAL, PARTIAL_SIZE = range(12)
# Entries of `at`: sizes, then offsets in `work`. OBS_ACTION and NEXT are (B, S + A), what the critics read.
S, A, B, LAYERS, THREADS, OBS_ACTION, NEXT, REWARD, TERMINATED, NOISE, TARGET_Q, GRAD, GRAD_SIZE = range(13)
# Entries of `hyper`; rows and entries of `adam`; entries of `control`; entries of `sums`.
GAMMA, POLICY_NOISE, NOISE_CLIP, TAU = range(4)
ACTOR, CRITIC = range(2)
GRAD_SHARE, KEEP_SQ, GRAD_SQ_SHARE, STEP_SIZE, INVERSE_CORRECTION, EPS = range(6)
DELAYED, STOP = range(2)
CRITIC_LOSS, Q1, Q2, TARGET, ACTOR_LOSS = range(5)

NORM_EPS = 1e-5  # PyTorch's

SPINS = 4000  # about 10 us; then the core is offered to others, in case the awaited thread has none


@compiled
def wait_for_all(sync: Ints, threads: int) -> None:
    """Return once all threads have called this as often as this one."""
    if threads > 1:
        arrived = add_and_get(sync, 0, 1)
        goal = ((arrived - 1) // threads + 1) * threads
        spins = 0
        while get(sync, 0) < goal:
            spins += 1
            if spins > SPINS:
                yield_core()


# Layers: forward, input gradient, parameter gradient. x, y, w and so on are slices that begin at their first number.


@compiled
def dense(x: Floats, x_stride: int, w: Floats, y: Floats, rows: int, n_in: int, n_out: int) -> None:
    """Y (rows, n_out) = x (rows, n_in) @ w.T (n_in, n_out)."""
    gemm(True, False, n_out, rows, n_in, w, n_in, x, x_stride, y, n_out)


@compiled
def dense_input_gradient(
    dy: Floats, w: Floats, w_stride: int, dx: Floats, rows: int, n_in: int, n_out: int
) -> None:
    """Dx (rows, n_in) = dy (rows, n_out) @ w (n_out, n_in)."""
    gemm(False, False, n_in, rows, n_out, w, w_stride, dy, n_out, dx, n_in)


@compiled
def dense_weight_gradient(
    dy: Floats, dy_stride: int, x: Floats, x_stride: int, dw: Floats, rows: int, n_in: int, n_out: int
) -> None:
    """Dw (n_out, n_in) = dy.T (n_out, rows) @ x (rows, n_in)."""
    gemm(False, True, n_in, n_out, rows, x, x_stride, dy, dy_stride, dw, n_in)


@compiled
def add_bias(y: Floats, bias: Floats, rows: int, width: int) -> None:
    """Y (rows, width) += bias (width,)."""
    for i in range(rows):
        row = y[i * width : (i + 1) * width]
        for j in range(width):
            row[j] += bias[j]


@compiled
def bias_relu(y: Floats, bias: Floats, rows: int, width: int) -> None:
    """Y (rows, width) = max(y + bias, 0)."""
    zero = y.dtype.type(0)
    for i in range(rows):
        row = y[i * width : (i + 1) * width]
        for j in range(width):
            z = row[j] + bias[j]
            row[j] = zero if z < zero else z


@compiled
def relu_gradient(y: Floats, dy: Floats, d_bias: Floats, rows: int, width: int) -> None:
    """Make dy (rows, width) the gradient before bias and ReLU, in place; d_bias (width,) becomes its sum."""
    zero = y.dtype.type(0)
    d_bias[:width] = zero
    for i in range(rows):
        row = y[i * width : (i + 1) * width]
        d_row = dy[i * width : (i + 1) * width]
        for j in range(width):
            d = zero if row[j] <= zero else d_row[j]
            d_row[j] = d
            d_bias[j] += d


@compiled
def norm_relu(
    y: Floats, bias: Floats, gain: Floats, shift: Floats, normed: Floats, rstd: Floats, rows: int, width: int
) -> None:
    """Y (rows, width) = max(gain * normed + shift, 0), where normed is y + bias with mean 0 and variance 1."""
    zero, share = y.dtype.type(0), y.dtype.type(1 / width)
    for i in range(rows):
        row, norm = y[i * width : (i + 1) * width], normed[i * width : (i + 1) * width]
        total = zero
        for j in range(width):
            row[j] += bias[j]
            total += row[j]
        mean = total * share
        total = zero
        for j in range(width):
            norm[j] = row[j] - mean
            total += norm[j] * norm[j]
        rstd[i] = y.dtype.type(1 / math.sqrt(total * share + NORM_EPS))
        for j in range(width):
            norm[j] *= rstd[i]
            z = norm[j] * gain[j] + shift[j]
            row[j] = zero if z < zero else z


@compiled
def norm_relu_gradient(
    y: Floats, dy: Floats, gain: Floats, normed: Floats, rstd: Floats, d_all: Floats, rows: int, width: int
) -> None:
    """Make dy (rows, width) the gradient before bias, norm and ReLU; d_all becomes those of bias, gain and shift."""
    zero, share = y.dtype.type(0), y.dtype.type(1 / width)
    d_all[: 3 * width] = zero
    d_bias, d_gain, d_shift = d_all[:width], d_all[width : 2 * width], d_all[2 * width : 3 * width]
    for i in range(rows):
        row, norm = y[i * width : (i + 1) * width], normed[i * width : (i + 1) * width]
        d_row = dy[i * width : (i + 1) * width]
        total, projected = zero, zero
        for j in range(width):
            d = zero if row[j] <= zero else d_row[j]
            d_shift[j] += d
            d_gain[j] += d * norm[j]
            d *= gain[j]
            d_row[j] = d
            total += d
            projected += d * norm[j]
        total, projected = total * share, projected * share
        for j in range(width):
            d = rstd[i] * (d_row[j] - total - norm[j] * projected)
            d_row[j] = d
            d_bias[j] += d


@compiled
def sum_rows(parts: Floats, stride: int, total: Floats, rows: int, width: int) -> None:
    """Total (width,) = the sum of the rows of parts (rows, width)."""
    total[:width] = parts.dtype.type(0)
    for i in range(rows):
        row = parts[i * stride : i * stride + width]
        for j in range(width):
            total[j] += row[j]


@compiled
def adam(
    weights: Floats, start: int, count: int, grad: Floats, rates: Floats, follow: bool, tau: float
) -> None:
    """Move `count` online weights against their gradient; let their targets follow by the share tau if asked."""
    online, target = weights[0, start : start + count], weights[1, start : start + count]
    mean, mean_sq = weights[2, start : start + count], weights[3, start : start + count]
    grad_share, keep_sq, grad_sq_share = rates[GRAD_SHARE], rates[KEEP_SQ], rates[GRAD_SQ_SHARE]
    step_size, inverse_correction, eps = rates[STEP_SIZE], rates[INVERSE_CORRECTION], rates[EPS]
    for i in range(count):
        mean[i] += grad_share * (grad[i] - mean[i])
        mean_sq[i] = keep_sq * mean_sq[i] + grad_sq_share * grad[i] * grad[i]
        online[i] -= step_size * mean[i] / (np.sqrt(mean_sq[i]) * inverse_correction + eps)
    if follow:
        for i in range(count):
            target[i] += tau * (online[i] - target[i])


@compiled
def min_of(a: float, b: float) -> float:
    """Return the smaller of two, NaN if one is."""
    return a if a < b or a != a else b  # noqa: PLR0124


@compiled
def max_of(a: float, b: float) -> float:
    """Return the larger of two, NaN if one is."""
    return a if a > b or a != a else b  # noqa: PLR0124


# Networks.


@compiled
def forward(
    net: Ints, first: int, layers: int, params: Floats, work: Floats, x: int, x_stride: int, lo: int, hi: int
) -> None:
    """Carry rows lo to hi of the input at offset x through a network; what each layer says stays at its OUT."""
    rows = hi - lo
    for layer in range(first, first + layers):
        n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
        w, b, g, s = net[layer, WEIGHT], net[layer, BIAS], net[layer, GAIN], net[layer, SHIFT]
        y = work[net[layer, OUT] + lo * n_out : net[layer, OUT] + hi * n_out]
        dense(work[x + lo * x_stride :], x_stride, params[w : w + n_in * n_out], y, rows, n_in, n_out)
        bias = params[b : b + n_out]
        if layer == first + layers - 1:
            add_bias(y, bias, rows, n_out)
        elif g < 0:
            bias_relu(y, bias, rows, n_out)
        else:
            normed, rstd = work[net[layer, NORMED] + lo * n_out :], work[net[layer, RSTD] + lo :]
            norm_relu(y, bias, params[g : g + n_out], params[s : s + n_out], normed, rstd, rows, n_out)
        x, x_stride = net[layer, OUT], n_out


@compiled
def backward(
    net: Ints, first: int, layers: int, params: Floats, work: Floats, t: int, lo: int, hi: int
) -> None:
    """Carry rows lo to hi of the gradient of a network's output, at its last DELTA, down to its first layer's output."""
    rows = hi - lo
    for layer in range(first + layers - 1, first - 1, -1):
        n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
        dy = work[net[layer, DELTA] + lo * n_out : net[layer, DELTA] + hi * n_out]
        if layer == first + layers - 1:
            sum_rows(dy, n_out, work[net[layer, PARTIAL] + t * net[layer, PARTIAL_SIZE] :], rows, n_out)
        if layer > first:
            w, below = net[layer, WEIGHT], layer - 1
            dx = work[net[below, DELTA] + lo * n_in : net[below, DELTA] + hi * n_in]
            dense_input_gradient(dy, params[w : w + n_in * n_out], n_in, dx, rows, n_in, n_out)
            x = work[net[below, OUT] + lo * n_in : net[below, OUT] + hi * n_in]
            partial = work[net[below, PARTIAL] + t * net[below, PARTIAL_SIZE] :]
            gain = net[below, GAIN]
            if gain < 0:
                relu_gradient(x, dx, partial, rows, n_in)
            else:
                normed, rstd = work[net[below, NORMED] + lo * n_in :], work[net[below, RSTD] + lo :]
                norm_relu_gradient(x, dx, params[gain : gain + n_in], normed, rstd, partial, rows, n_in)


@compiled
def move(
    net: Ints,
    at: Ints,
    first: int,
    weights: Floats,
    work: Floats,
    rates: Floats,
    follow: bool,
    tau: float,
    t: int,
) -> None:
    """Give thread t's share of a network's weights their gradients and let Adam move them."""
    threads, batch = at[THREADS], at[B]
    x, x_stride = at[OBS_ACTION], at[S] + at[A]
    grad = work[at[GRAD] + t * at[GRAD_SIZE] : at[GRAD] + (t + 1) * at[GRAD_SIZE]]
    for layer in range(first, first + at[LAYERS]):
        n_in, n_out = net[layer, INPUTS], net[layer, OUTPUTS]
        lo, hi = n_out * t // threads, n_out * (t + 1) // threads
        if hi > lo:
            dense_weight_gradient(
                work[net[layer, DELTA] + lo :], n_out, work[x:], x_stride, grad, batch, n_in, hi - lo
            )
            adam(weights, net[layer, WEIGHT] + lo * n_in, (hi - lo) * n_in, grad, rates, follow, tau)
            for kind in range(3 if net[layer, GAIN] >= 0 else 1):
                parts = work[net[layer, PARTIAL] + kind * n_out + lo :]
                sum_rows(parts, net[layer, PARTIAL_SIZE], grad, threads, hi - lo)
                start = net[layer, BIAS if kind == 0 else (GAIN if kind == 1 else SHIFT)] + lo
                adam(weights, start, hi - lo, grad, rates, follow, tau)
        x, x_stride = net[layer, OUT], n_out


# TD3.


@compiled
def judge(
    net: Ints, at: Ints, weights: Floats, work: Floats, hyper: Floats, t: int, sums: NDArray[np.float64]
) -> None:
    """Thread t's rows of steps 5 to 11, and the gradients of the loss with respect to what the critics' layers said."""
    layers, size, actions, width = at[LAYERS], at[S], at[A], at[S] + at[A]
    lo, hi = at[B] * t // at[THREADS], at[B] * (t + 1) // at[THREADS]
    online, target = weights[0], weights[1]
    one, scale = work.dtype.type(1), work.dtype.type(2 / at[B])
    clip = hyper[NOISE_CLIP]
    forward(net, 0, layers, target, work, at[NEXT], width, lo, hi)
    for i in range(lo, hi):
        for j in range(actions):
            noise = min_of(max_of(hyper[POLICY_NOISE] * work[at[NOISE] + i * actions + j], -clip), clip)
            action = work.dtype.type(math.tanh(work[net[layers - 1, OUT] + i * actions + j]))
            work[at[NEXT] + i * width + size + j] = min_of(max_of(action + noise, -one), one)
    forward(net, layers, layers, target, work, at[NEXT], width, lo, hi)
    forward(net, 2 * layers, layers, target, work, at[NEXT], width, lo, hi)
    q1, q2 = work[net[2 * layers - 1, OUT] :], work[net[3 * layers - 1, OUT] :]
    target_q = work[at[TARGET_Q] :]
    for i in range(lo, hi):
        bootstrap = hyper[GAMMA] * (one - work[at[TERMINATED] + i])
        target_q[i] = work[at[REWARD] + i] + bootstrap * min_of(q1[i], q2[i])
    forward(net, layers, layers, online, work, at[OBS_ACTION], width, lo, hi)
    forward(net, 2 * layers, layers, online, work, at[OBS_ACTION], width, lo, hi)
    d1, d2 = work[net[2 * layers - 1, DELTA] :], work[net[3 * layers - 1, DELTA] :]
    sums[t, :] = 0.0
    for i in range(lo, hi):
        error1, error2 = q1[i] - target_q[i], q2[i] - target_q[i]
        d1[i], d2[i] = scale * error1, scale * error2
        sums[t, CRITIC_LOSS] += error1 * error1 + error2 * error2
        sums[t, Q1] += q1[i]
        sums[t, Q2] += q2[i]
        sums[t, TARGET] += target_q[i]
    backward(net, layers, layers, online, work, t, lo, hi)
    backward(net, 2 * layers, layers, online, work, t, lo, hi)


@compiled
def climb(net: Ints, at: Ints, weights: Floats, work: Floats, t: int, sums: NDArray[np.float64]) -> None:
    """Thread t's rows of step 13, and the gradients of the loss with respect to what the actor's layers said."""
    layers, size, actions, width = at[LAYERS], at[S], at[A], at[S] + at[A]
    lo, hi = at[B] * t // at[THREADS], at[B] * (t + 1) // at[THREADS]
    online, one = weights[0], work.dtype.type(1)
    forward(net, 0, layers, online, work, at[OBS_ACTION], width, lo, hi)
    for i in range(lo, hi):
        for j in range(actions):
            action = math.tanh(work[net[layers - 1, OUT] + i * actions + j])
            work[at[OBS_ACTION] + i * width + size + j] = action
    forward(net, layers, layers, online, work, at[OBS_ACTION], width, lo, hi)
    q1, d_q1 = work[net[2 * layers - 1, OUT] :], work[net[2 * layers - 1, DELTA] :]
    for i in range(lo, hi):
        sums[t, ACTOR_LOSS] -= q1[i]
        d_q1[i] = work.dtype.type(-1 / at[B])
    backward(net, layers, layers, online, work, t, lo, hi)
    # Of the critic's first layer only the columns of the action lead back to the actor.
    n_out = net[layers, OUTPUTS]
    dy = work[net[layers, DELTA] + lo * n_out :]
    d_action = work[net[layers - 1, DELTA] + lo * actions : net[layers - 1, DELTA] + hi * actions]
    dense_input_gradient(dy, online[net[layers, WEIGHT] + size :], width, d_action, hi - lo, actions, n_out)
    for i in range(lo, hi):
        for j in range(actions):
            action_ij = work[at[OBS_ACTION] + i * width + size + j]
            d_action[(i - lo) * actions + j] *= one - action_ij * action_ij
    backward(net, 0, layers, online, work, t, lo, hi)


@compiled
def share(
    net: Ints,
    at: Ints,
    weights: Floats,
    work: Floats,
    hyper: Floats,
    rates: Floats,
    control: Ints,
    sync: Ints,
    t: int,
    sums: NDArray[np.float64],
) -> None:
    """Thread t's share of one update: four phases, each after all threads have ended the one before."""
    threads, layers = at[THREADS], at[LAYERS]
    delayed, tau = control[DELAYED] != 0, hyper[TAU]
    judge(net, at, weights, work, hyper, t, sums)
    wait_for_all(sync, threads)
    move(net, at, layers, weights, work, rates[CRITIC], delayed, tau, t)
    move(net, at, 2 * layers, weights, work, rates[CRITIC], delayed, tau, t)
    wait_for_all(sync, threads)
    if delayed:
        climb(net, at, weights, work, t, sums)
        wait_for_all(sync, threads)
        move(net, at, 0, weights, work, rates[ACTOR], delayed, tau, t)
        wait_for_all(sync, threads)


@compiled
def serve(
    net: Ints,
    at: Ints,
    weights: Floats,
    work: Floats,
    hyper: Floats,
    rates: Floats,
    control: Ints,
    sync: Ints,
    t: int,
    sums: NDArray[np.float64],
    lock: int,
) -> None:
    """Be thread t: whenever the lock is released, do a share of an update, until told to stop."""
    while True:
        acquire(lock, 1)
        if control[STOP] != 0:
            break
        share(net, at, weights, work, hyper, rates, control, sync, t, sums)


@compiled
def update(
    net: Ints,
    at: Ints,
    weights: Floats,
    work: Floats,
    hyper: Floats,
    rates: Floats,
    control: Ints,
    sync: Ints,
    sums: NDArray[np.float64],
    locks: Ints,
    obs: Floats,
    next_obs: Floats,
    action: Floats,
    reward: Floats,
    terminated: Floats,
    noise: Floats,
    means: NDArray[np.float64],
) -> None:
    """Put the batch where all threads read it, start them, do the first one's share; means (5,) are what it saw."""
    size, actions, batch = at[S], at[A], at[B]
    for i in range(batch):
        start = i * (size + actions)
        work[at[OBS_ACTION] + start : at[OBS_ACTION] + start + size] = obs[i]
        work[at[OBS_ACTION] + start + size : at[OBS_ACTION] + start + size + actions] = action[i]
        work[at[NEXT] + start : at[NEXT] + start + size] = next_obs[i]
        work[at[NOISE] + i * actions : at[NOISE] + (i + 1) * actions] = noise[i]
    work[at[REWARD] : at[REWARD] + batch] = reward
    work[at[TERMINATED] : at[TERMINATED] + batch] = terminated
    for lock in locks:
        release(lock)
    share(net, at, weights, work, hyper, rates, control, sync, 0, sums)
    for kind in range(means.size):
        means[kind] = sums[:, kind].sum() / batch


@compiled
def act(net: Ints, at: Ints, weights: Floats, work: Floats, obs: Floats, action: Floats) -> None:
    """Let the actor play: action (B, A) for obs (B, S)."""
    size, actions, batch, layers = at[S], at[A], at[B], at[LAYERS]
    for i in range(batch):
        work[at[OBS_ACTION] + i * size : at[OBS_ACTION] + (i + 1) * size] = obs[i]
    forward(net, 0, layers, weights[0], work, at[OBS_ACTION], size, 0, batch)
    for i in range(batch):
        for j in range(actions):
            action[i, j] = math.tanh(work[net[layers - 1, OUT] + i * actions + j])
