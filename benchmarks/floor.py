"""The floor under an update: the matrix products it cannot do without, each at the best rate its shape was seen at."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from t3d.engines import blas_and_threads
from t3d.engines.blas_and_threads import set_blas_threads
from t3d.engines.layers import dense, dense_input_gradient, dense_weight_gradient

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(3)


# Not kept on disk: Numba's cache would not notice that one of these kernels has changed.
@numba.njit(nogil=True, fastmath=blas_and_threads.FASTMATH, error_model="numpy")  # type: ignore[untyped-decorator]
def repeat_product(
    kind: int,
    times: int,
    x: NDArray[np.float32],
    w: NDArray[np.float32],
    y: NDArray[np.float32],
    rows: int,
    n_in: int,
    n_out: int,
) -> None:
    """Do a layer's product or one of its gradients again and again."""
    blas_threads = set_blas_threads(1)
    for _ in range(times):
        if kind == FORWARD:
            dense(x, n_in, w, y, n_out, rows, n_in, n_out)
        elif kind == INPUT_GRADIENT:
            dense_input_gradient(y, w, n_in, x, rows, n_in, n_out)
        else:
            dense_weight_gradient(y, n_out, x, n_in, w, rows, n_in, n_out)
    set_blas_threads(blas_threads)


class Product(NamedTuple):
    """A layer's forward product, or one of its gradients: x (rows, n_in), w (n_out, n_in), y (rows, n_out)."""

    kind: int
    rows: int
    n_in: int
    n_out: int


def products(obs_size: int, action_size: int, hidden: Sequence[int], batch_size: int) -> Counter[Product]:
    """Return the products of two updates, of which one moves the actor; so every count is whole.

    Args:
        obs_size: S.
        action_size: A.
        hidden: widths of the hidden layers.
        batch_size: B.
    """
    actor = list(itertools.pairwise([obs_size, *hidden, action_size]))
    critic = list(itertools.pairwise([obs_size + action_size, *hidden, 1]))
    found: Counter[Product] = Counter()

    def add(times: int, kind: int, layers: list[tuple[int, int]]) -> None:
        for n_in, n_out in layers:
            found[Product(kind, batch_size, n_in, n_out)] += times

    add(2, FORWARD, actor)  # actor target
    add(4 + 4, FORWARD, critic)  # critic targets, critics
    add(4, WEIGHT_GRADIENT, critic)
    add(4, INPUT_GRADIENT, critic[1:])
    add(1, FORWARD, actor)
    add(1, FORWARD, critic)
    add(1, INPUT_GRADIENT, [(action_size, hidden[0]), *critic[1:]])  # in the first layer the action's columns
    add(1, WEIGHT_GRADIENT, actor)
    add(1, INPUT_GRADIENT, actor[1:])
    return found


def products_td7(
    obs_size: int, action_size: int, hidden: Sequence[int], embedding: int, climbed: int, batch_size: int
) -> Counter[Product]:
    """Return the products of two updates of td7, of which one moves the actor.

    Args:
        obs_size: S.
        action_size: A.
        hidden: widths of the hidden layers of actor and critics.
        embedding: E.
        climbed: critics that the actor climbs.
        batch_size: B.
    """
    first = hidden[0]
    zs = [(obs_size, embedding), (embedding, embedding), (embedding, embedding)]
    zsa = [(embedding + action_size, embedding), *zs[1:]]
    actor = [(obs_size, first), *itertools.pairwise([first + embedding, *hidden, action_size])]
    critic = [(obs_size + action_size, first), *itertools.pairwise([first + 2 * embedding, *hidden, 1])]
    found: Counter[Product] = Counter()

    def add(times: int, kind: int, layers: list[tuple[int, int]]) -> None:
        for n_in, n_out in layers:
            found[Product(kind, batch_size, n_in, n_out)] += times

    add(2 * 2, FORWARD, zs)  # the encoder, of s and s'
    add(2, FORWARD, zsa)
    add(2, WEIGHT_GRADIENT, zs + zsa)
    add(2, INPUT_GRADIENT, [*zs[1:], (embedding, embedding), *zsa[1:]])  # of what is read, zs alone
    add(2, FORWARD, zs + zsa + actor + 2 * critic)  # targets
    add(2, FORWARD, zs + zsa)  # what actor and critics see
    add(2, FORWARD, 2 * critic)
    add(2, WEIGHT_GRADIENT, 2 * critic)
    add(2, INPUT_GRADIENT, 2 * [(first, hidden[0]), *critic[2:]])  # of what is read, the first layer's answer alone
    add(1, FORWARD, actor + zsa + climbed * critic)
    climb = [(action_size, first), (first, hidden[0]), (embedding, hidden[0]), *critic[2:]]
    add(1, INPUT_GRADIENT, climbed * climb + [(action_size, embedding), *zsa[1:]])
    add(1, WEIGHT_GRADIENT, actor)
    add(1, INPUT_GRADIENT, [(first, hidden[0]), *actor[2:]])
    return found


def measure(product: Product, threads: int, repeats: int = 15) -> float:
    """Return the seconds a product takes at best: by PyTorch, or by the engine's own call, split among threads."""
    return min(_median_s(run, repeats) for run in _ways(product, threads))


def floor_s(
    obs_size: int, action_size: int, hidden: Sequence[int], batch_size: int, threads: int, repeats: int = 15
) -> float:
    """Return the floor of one update in seconds, the actor's moves spread evenly over two updates."""
    found = products(obs_size, action_size, hidden, batch_size)
    return sum(count * measure(product, threads, repeats) for product, count in found.items()) / 2


def _median_s(run: Callable[[int], None], repeats: int) -> float:
    run(2)
    start = time.perf_counter()
    run(2)
    # A reading long enough for the clock, short enough to fall between other processes' turns.
    times = max(1, int(3e-4 / ((time.perf_counter() - start) / 2)))
    readings = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(times)
        readings.append((time.perf_counter() - start) / times)
    return median(readings)


def _ways(product: Product, threads: int) -> Iterator[Callable[[int], None]]:
    kind, rows, n_in, n_out = product
    rng = np.random.default_rng(0)

    def matrix(m: int, n: int) -> NDArray[np.float32]:
        return rng.standard_normal((m, n)).astype(np.float32)

    x, w, y = matrix(rows, n_in), matrix(n_out, n_in), matrix(rows, n_out)
    tx, tw, ty = (torch.from_numpy(part) for part in (x, w, y))
    left, right, out = [(tx, tw.T, ty), (ty, tw, tx), (ty.T, tx, tw)][kind]

    def by_torch(times: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        for _ in range(times):
            torch.mm(left, right, out=out)
        torch.set_num_threads(before)

    # Threads side by side each take a share of the rows, or of the weights, and do not slow each other down.
    share_rows = rows if kind == WEIGHT_GRADIENT else -(-rows // threads)
    share_outputs = -(-n_out // threads) if kind == WEIGHT_GRADIENT else n_out
    flat_x, flat_w, flat_y = matrix(share_rows, n_in).ravel(), w.ravel(), matrix(share_rows, n_out).ravel()

    def by_kernel(times: int) -> None:
        blas_and_threads.run(repeat_product, kind, times, flat_x, flat_w, flat_y, share_rows, n_in, share_outputs)

    yield by_torch
    yield by_kernel
