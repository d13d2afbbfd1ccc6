"""What plays, as plain operations on one observation at a time; NumPy alone, and none of its threads.

Sums are made by `np.einsum`, in an order of its own that depends on nothing but the sizes: a matrix product would go
to a BLAS library, whose threads belong to the whole process and whose sums depend on how many rows come together.
`t3d export --format numpy` ships this file as it stands, so it imports nothing of t3d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# As in PyTorch's LayerNorm, and as in TD7's AvgL1Norm.
LAYER_NORM_EPSILON = np.float32(1e-5)
AVG_L1_NORM_LEAST = np.float32(1e-8)
_ZERO = np.float32(0)


class Operation(NamedTuple):
    """One step from an observation to an action."""

    kind: str  # a key of FUNCTIONS
    inputs: tuple[int, ...]  # what it takes: 0 is the observation, k what the k-th operation gave
    width: int  # of what it gives
    weights: tuple[NDArray[Any], ...] = ()


def dense(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return weight (O, I) times x (I,), plus bias (O,)."""
    y: Floats = np.einsum("oi,i->o", weight, x)
    y += bias
    return y


def frames(x: Floats, shape: NDArray[np.int64]) -> Floats:
    """Return the pixels that x (I,) begins with, from 0 to 255, as pictures of this shape, from -0.5 to 0.5."""
    pictures: Floats = x[: shape.prod()].reshape(shape) / np.float32(255) - np.float32(0.5)
    return pictures


def vectors(x: Floats, shape: NDArray[np.int64]) -> Floats:
    """Return what stands in x (I,) behind pictures of this shape."""
    return x[shape.prod() :]


def convolution(x: Floats, weight: Floats, bias: Floats, stride: NDArray[np.int64]) -> Floats:
    """Return pictures x (I, H, W) under the filters weight (O, I, K, K), so many pixels apart, plus bias (O,)."""
    step = int(stride)
    kernel = weight.shape[2:]
    patches = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))[:, ::step, ::step]  # (I, H', W', K, K)
    rows = np.ascontiguousarray(patches.transpose(1, 2, 0, 3, 4)).reshape(-1, weight[0].size)
    y: Floats = np.einsum("oi,pi->op", weight.reshape(len(weight), -1), rows)
    y += bias[:, None]
    return y.reshape(len(weight), *patches.shape[1:3])


def flat(x: Floats) -> Floats:
    """Return x as one row."""
    return x.reshape(-1)


def layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return x with mean 0 and variance 1, times weight, plus bias."""
    y: Floats = x - np.add.reduce(x) / np.float32(len(x))
    y /= np.sqrt(np.add.reduce(y * y) / np.float32(len(x)) + LAYER_NORM_EPSILON)
    y *= weight
    y += bias
    return y


def relu(x: Floats) -> Floats:
    """Return x, and 0 where that is below."""
    return np.maximum(x, _ZERO)


def elu(x: Floats) -> Floats:
    """Return x, and exp(x) - 1 where that is below 0."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, _ZERO)))


def avg_l1_norm(x: Floats) -> Floats:
    """Return x over the mean of its absolute values."""
    y: Floats = x / np.maximum(np.add.reduce(np.abs(x)) / np.float32(len(x)), AVG_L1_NORM_LEAST)
    return y


def concat(*parts: Floats) -> Floats:
    """Return the parts behind each other."""
    return np.concatenate(parts)


def tanh(x: Floats) -> Floats:
    """Return tanh of each number."""
    y: Floats = np.tanh(x)
    return y


FUNCTIONS: dict[str, Callable[..., Floats]] = {
    "dense": dense,
    "frames": frames,
    "vectors": vectors,
    "convolution": convolution,
    "flat": flat,
    "layer_norm": layer_norm,
    "relu": relu,
    "elu": elu,
    "avg_l1_norm": avg_l1_norm,
    "concat": concat,
    "tanh": tanh,
}


def play(operations: Sequence[Operation], obs: Floats) -> Floats:
    """Return the actions (N, A) in [-1, 1] for observations (N, S): a row has the same bits alone and among others.

    What overflows becomes an action that is not finite; nothing is said of it here.
    """
    with np.errstate(all="ignore"):
        rows = [_play_row(operations, row) for row in obs]
    return np.array(rows, np.float32).reshape(len(obs), operations[-1].width)


def _play_row(operations: Sequence[Operation], row: Floats) -> Floats:
    values = [row]
    for kind, inputs, _, weights in operations:
        values.append(FUNCTIONS[kind](*[values[i] for i in inputs], *weights))
    return values[-1]
