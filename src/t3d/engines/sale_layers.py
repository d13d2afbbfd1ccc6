"""What td7's layers have that TD3's have not, compiled: ELU, AvgL1Norm, and their gradients. Matrices are row-major.

As in `layers.py`, slices begin at their first number, and every comparison is written so that NaN comes through.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from t3d.engines.blas_and_threads import FASTMATH, compiled
from t3d.engines.layers import Floats

SMALLEST_MEAN = 1e-8  # of `networks.avg_l1_norm`

# expm1(r) / r as a polynomial, to 3e-9 of it for r from -18/32 to 0: interpolated at Chebyshev's points.
C0, C1, C2 = np.float32(0.999999997508664), np.float32(0.4999996807902209), np.float32(0.16666001179814247)
C3, C4, C5 = np.float32(0.04161564722245211), np.float32(0.00815481210773983), np.float32(0.0010943345647473862)
# Below this expm1 is -1 to float32.
LEAST = np.float32(-18)
SHARE, TWO = np.float32(1 / 32), np.float32(2)


def expm1(x: Any) -> Any:
    """Return e**x - 1 for x of 0 or below, NaN for NaN. In compiled code alone."""
    raise NotImplementedError


def _by_library(x: Any) -> Any:
    return math.expm1(x)


def _by_doubling(x: Any) -> Any:
    r = (LEAST if x < LEAST else x) * SHARE
    p = r * (C0 + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * C5)))))
    # expm1(2r) = p (p + 2), which hands on at most the relative error of p where r is negative; five times.
    p = p * (p + TWO)
    p = p * (p + TWO)
    p = p * (p + TWO)
    p = p * (p + TWO)
    return p * (p + TWO)


@overload(expm1, jit_options={"fastmath": FASTMATH, "forceinline": True})  # type: ignore[untyped-decorator]
def _expm1(x: Any) -> Any:
    """Choose by type: for float32 what makes loops over it use vectors; the library's call does not."""
    return _by_doubling if x == numba.float32 else _by_library


@compiled
def bias_elu(y: Floats, bias: Floats, rows: int, width: int) -> None:
    """Y (rows, width) = ELU(y + bias)."""
    zero = y.dtype.type(0)
    for i in range(rows):
        row = y[i * width : (i + 1) * width]
        for j in range(width):
            z = row[j] + bias[j]
            below = expm1(zero if z > zero else z)
            row[j] = z if z > zero else below


@compiled
def elu_gradient(y: Floats, dy: Floats, d_bias: Floats, rows: int, width: int) -> None:
    """Make dy (rows, width) the gradient before bias and ELU, in place; d_bias (width,) becomes its sum."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    d_bias[:width] = zero
    for i in range(rows):
        row = y[i * width : (i + 1) * width]
        d_row = dy[i * width : (i + 1) * width]
        for j in range(width):
            d = d_row[j] * (one if row[j] > zero else row[j] + one)
            d_row[j] = d
            d_bias[j] += d


@compiled
def bias_norm(y: Floats, y_stride: int, bias: Floats, size: Floats, rows: int, width: int) -> None:
    """Y (rows, width) = AvgL1Norm(y + bias); size (rows,) becomes the mean absolute value that it was divided by."""
    zero, one, share, least = y.dtype.type(0), y.dtype.type(1), y.dtype.type(1 / width), y.dtype.type(SMALLEST_MEAN)
    for i in range(rows):
        row = y[i * y_stride : i * y_stride + width]
        total = zero
        for j in range(width):
            row[j] += bias[j]
        for j in range(width):
            total += abs(row[j])
        size[i] = total * share
        scale = one / (least if size[i] < least else size[i])
        for j in range(width):
            row[j] *= scale


@compiled
def norm_gradient(y: Floats, y_stride: int, dy: Floats, size: Floats, d_bias: Floats, rows: int, width: int) -> None:
    """Make dy (rows, width) the gradient before bias and AvgL1Norm, in place; d_bias (width,) becomes its sum."""
    zero, one, share, least = y.dtype.type(0), y.dtype.type(1), y.dtype.type(1 / width), y.dtype.type(SMALLEST_MEAN)
    d_bias[:width] = zero
    for i in range(rows):
        row = y[i * y_stride : i * y_stride + width]
        d_row = dy[i * width : (i + 1) * width]
        total = zero
        for j in range(width):
            total += d_row[j] * row[j]
        is_least = size[i] < least
        scale = one / (least if is_least else size[i])
        # What is divided by a constant has no part in the divisor.
        shift = zero if is_least else total * share
        for j in range(width):
            away = shift if row[j] > zero else -shift
            d_row[j] = scale * (d_row[j] - (zero if row[j] == zero else away))
        for j in range(width):
            d_bias[j] += d_row[j]
