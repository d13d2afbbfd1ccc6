"""One layer, compiled: forward, its gradients, and Adam with Polyak averaging. All matrices are row-major.

x, y, w and so on are slices that begin at their first number. Every comparison is written so that NaN comes through.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import compiled, gemm

Floats = NDArray[np.floating[Any]]

# Entries of a row of `rates`.
GRAD_SHARE, KEEP_SQ, GRAD_SQ_SHARE, STEP_SIZE, INVERSE_CORRECTION, EPS = range(6)
NORM_EPS = 1e-5  # PyTorch's
SMALLEST_NORMAL = np.float32(1.1754944e-38)  # of float32; below it a number loses digits


@compiled
def dense(x: Floats, x_stride: int, w: Floats, y: Floats, y_stride: int, rows: int, n_in: int, n_out: int) -> None:
    """Y (rows, n_out) = x (rows, n_in) @ w.T (n_in, n_out)."""
    gemm(True, False, n_out, rows, n_in, w, n_in, x, x_stride, y, y_stride)


@compiled
def dense_input_gradient(dy: Floats, w: Floats, w_stride: int, dx: Floats, rows: int, n_in: int, n_out: int) -> None:
    """Dx (rows, n_in) = dy (rows, n_out) @ w (n_out, n_in)."""
    gemm(False, False, n_in, rows, n_out, w, w_stride, dy, n_out, dx, n_in)


@compiled
def dense_weight_gradient(
    dy: Floats, dy_stride: int, x: Floats, x_stride: int, dw: Floats, rows: int, n_in: int, n_out: int
) -> None:
    """Dw (n_out, n_in) = dy.T (n_out, rows) @ x (rows, n_in)."""
    gemm(False, True, n_in, n_out, rows, x, x_stride, dy, dy_stride, dw, n_in)


@compiled
def add_bias(y: Floats, y_stride: int, bias: Floats, rows: int, width: int) -> None:
    """Y (rows, width) += bias (width,)."""
    for i in range(rows):
        row = y[i * y_stride : i * y_stride + width]
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
        for j in range(width):
            total += row[j]
        mean, total = total * share, zero
        for j in range(width):
            norm[j] = row[j] - mean
        for j in range(width):
            total += norm[j] * norm[j]
        rstd[i] = y.dtype.type(1 / math.sqrt(total * share + NORM_EPS))
        scale = rstd[i]
        for j in range(width):
            norm[j] *= scale
        for j in range(width):
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
        # Short loops over few arrays: LLVM gives up on proving that more do not overlap, and then uses no vectors.
        for j in range(width):
            d_row[j] = zero if row[j] <= zero else d_row[j]
        for j in range(width):
            d_shift[j] += d_row[j]
        for j in range(width):
            d_gain[j] += d_row[j] * norm[j]
        for j in range(width):
            d_row[j] *= gain[j]
        for j in range(width):
            total += d_row[j]
            projected += d_row[j] * norm[j]
        total, projected, scale = total * share, projected * share, rstd[i]
        for j in range(width):
            d_row[j] = scale * (d_row[j] - total - norm[j] * projected)
        for j in range(width):
            d_bias[j] += d_row[j]


@compiled
def sum_rows(parts: Floats, stride: int, total: Floats, rows: int, width: int) -> None:
    """Total (width,) = the sum of the rows of parts (rows, width)."""
    total[:width] = parts.dtype.type(0)
    for i in range(rows):
        row = parts[i * stride : i * stride + width]
        for j in range(width):
            total[j] += row[j]


@compiled
def adam(weights: Floats, start: int, count: int, grad: Floats, rates: Floats, follow: bool, tau: float) -> None:
    """Move `count` online weights against their gradient; let their targets follow by the share tau if asked.

    Moments without a gradient, as behind a unit that never fires, fade to numbers so small that processors take a
    hundred times as long for each: they become zero, which moves a weight by less than its last bit.
    """
    zero = grad.dtype.type(0)
    online, target = weights[0, start : start + count], weights[1, start : start + count]
    mean, mean_sq = weights[2, start : start + count], weights[3, start : start + count]
    grad_share, keep_sq, grad_sq_share = rates[GRAD_SHARE], rates[KEEP_SQ], rates[GRAD_SQ_SHARE]
    step_size, inverse_correction, eps = rates[STEP_SIZE], rates[INVERSE_CORRECTION], rates[EPS]
    for i in range(count):
        first = mean[i] + grad_share * (grad[i] - mean[i])
        second = keep_sq * mean_sq[i] + grad_sq_share * grad[i] * grad[i]
        mean[i] = zero if abs(first) < SMALLEST_NORMAL else first
        mean_sq[i] = zero if second < SMALLEST_NORMAL else second
        online[i] -= step_size * mean[i] / (np.sqrt(mean_sq[i]) * inverse_correction + eps)
    if follow:
        for i in range(count):
            target[i] += tau * (online[i] - target[i])


@compiled
def min_of(a: Any, b: Any) -> Any:
    """Return the smaller of two, NaN if one is."""
    return a if a < b or a != a else b


@compiled
def max_of(a: Any, b: Any) -> Any:
    """Return the larger of two, NaN if one is."""
    return a if a > b or a != a else b
