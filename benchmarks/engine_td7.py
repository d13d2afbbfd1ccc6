"""What an update of td7 costs, beside td3's and beside its own matrix products: benchmarks/results/engine_td7.json.

    python benchmarks/engine_td7.py         some minutes

All updates and lists of products in turns, at HalfCheetah's sizes. The products stand in `floor.py`; here they are
called one behind the other, each on other operands than the seven before it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from floor import FORWARD, INPUT_GRADIENT, Product, products, products_td7
from numpy.typing import NDArray

from t3d import presets
from t3d.config import Config, TD3Config
from t3d.engines import blas_and_threads
from t3d.engines.blas_and_threads import set_blas_threads
from t3d.engines.choose import choose
from t3d.engines.layers import dense, dense_input_gradient, dense_weight_gradient
from t3d.env_spec import EnvSpec
from t3d.machine import describe
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.variants.contract import algorithm_of
from t3d.variants.td7 import TD7

RESULTS = Path(__file__).parent / "results" / "engine_td7.json"
OBS, ACTIONS = 17, 6
ROUNDS, PAIRS = 60, 5
TASK = EnvSpec("HalfCheetah-v5")
JOBS = {
    "td3, 256-256, batch 256": Config(),
    "td7, fast: 256-256, embedding 128, batch 128, q1": presets.choose(TASK, "fast").config,
    "td7, full width, batch 128, mean": presets.choose(TASK, "td7", {"batch_size": 128}).config,
    "td7, full width, batch 128, q1": presets.choose(TASK, "td7", {"batch_size": 128, "climb": "q1"}).config,
}
SHOWN = (1, 10, 100, 300)  # updates; the first hard copy is the 250th's
PAIRS_APART = ("eager", "exact"), ("fused", "exact"), ("fused", "eager")
ROOM = 256 * 800  # numbers in the largest operand, generously


# Not kept on disk: Numba's cache would not notice that one of these kernels has changed.
@numba.njit(nogil=True, fastmath=blas_and_threads.FASTMATH, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply(
    listed: NDArray[np.int64], xs: NDArray[np.float32], ws: NDArray[np.float32], ys: NDArray[np.float32]
) -> None:
    """Do products (kind, rows, n_in, n_out), one behind the other."""
    blas_threads = set_blas_threads(1)
    for i in range(len(listed)):
        kind, rows, n_in, n_out = listed[i]
        x, w, y = xs[i % 8], ws[i % 8], ys[i % 8]
        if kind == FORWARD:
            dense(x, n_in, w, y, n_out, rows, n_in, n_out)
        elif kind == INPUT_GRADIENT:
            dense_input_gradient(y, w, n_in, x, rows, n_in, n_out)
        else:
            dense_weight_gradient(y, n_out, x, n_in, w, rows, n_in, n_out)
    set_blas_threads(blas_threads)


def products_of(config: Config) -> Counter[Product]:
    """Return the products of two updates, of which one moves the actor."""
    if config.algorithm == "td3":
        return products(OBS, ACTIONS, config.td3.hidden, config.batch_size)
    climbed = 1 if config.td3.climb == "q1" else 2
    return products_td7(OBS, ACTIONS, config.td3.hidden, config.td3.embedding, climbed, config.batch_size)


def batch_of(size: int, rng: np.random.Generator) -> tuple[Batch[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a batch and its noise."""
    shapes = (size, OBS), (size, OBS), (size, ACTIONS), (size,), (size, ACTIONS)
    obs, next_obs, action, reward, noise = (rng.standard_normal(shape, np.float32) for shape in shapes)
    ends, discount = np.zeros(size, np.float32), np.full(size, 0.99, np.float32)
    return Batch(obs, next_obs, np.tanh(action), reward, ends, discount), noise


def measure() -> list[dict[str, Any]]:
    """Return of each job and number of threads what an update and its products take, all in turns."""
    spaces = Spaces.of_vectors(OBS, ACTIONS)
    runs = []
    for name, config in JOBS.items():
        found = products_of(config)
        listed = np.array([product for product, count in found.items() for _ in range(count)], np.int64)
        for threads in (1, 2):
            agent = algorithm_of(config)(spaces, config.td3, np.random.default_rng(0))
            engine = choose("fused", agent, threads).engine
            runs.append((name, threads, engine, batch_of(config.batch_size, np.random.default_rng(0)), listed, [], []))
    rng = np.random.default_rng(1)
    xs, ws, ys = (rng.standard_normal((8, ROOM), np.float32) for _ in range(3))
    multiply(runs[0][4], xs, ws, ys)
    for _ in range(ROUNDS):
        for _, threads, engine, (batch, noise), listed, updates, alone in runs:
            for _ in range(PAIRS):
                updates.append(_timed(lambda: (engine.update(batch, noise), engine.update(batch, noise))))  # noqa: B023
                if threads == 1:
                    alone.append(_timed(lambda: multiply(listed, xs, ws, ys)))  # noqa: B023
    first = {threads: _medians(updates) for name, threads, *_, updates, _ in runs if name == next(iter(JOBS))}
    rows = []
    for name, threads, _, _, listed, updates, alone in runs:
        taken = _medians(updates)
        row: dict[str, Any] = {"job": name, "threads": threads, **taken}
        row["over_td3"] = taken["processor_ms"] / first[threads]["processor_ms"]
        row["multiply_adds"] = int(listed[:, 1:].prod(axis=1).sum()) // 2
        if alone:
            row["over_products"] = taken["processor_ms"] / _medians(alone)["processor_ms"]
        rows.append(row)
    return rows


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return what one of two updates, or its products, took: ms on the wall, and of this thread on a processor."""
    wall, processor = time.perf_counter(), time.thread_time()
    run()
    return 5e2 * (time.perf_counter() - wall), 5e2 * (time.thread_time() - processor)


def _medians(readings: list[tuple[float, float]]) -> dict[str, float]:
    wall, processor = zip(*readings, strict=True)
    return {"wall_ms": statistics.median(wall), "processor_ms": statistics.median(processor)}


def drift() -> dict[str, dict[str, float]]:
    """Return how far all online weights are apart after equal updates, by pair; exact: eager in float64."""
    spaces, config = Spaces.of_vectors(OBS, ACTIONS), TD3Config(hidden=(64, 64), embedding=32)
    agents = {name: TD7(spaces, config, np.random.default_rng(7)) for name in ("exact", "eager", "fused")}
    for network in agents["exact"].networks().values():
        network.double()
    engines = agents | {"fused": choose("fused", agents["fused"], 1).engine}
    rng, found = np.random.default_rng(1), {f"{one} from {other}": {} for one, other in PAIRS_APART}
    for update in range(1, max(SHOWN) + 1):
        batch, noise = batch_of(64, rng)
        for name, engine in engines.items():
            kind = np.float64 if name == "exact" else np.float32
            engine.update(Batch(*(part.astype(kind) for part in batch)), noise.astype(kind))
        if update in SHOWN:
            flat = {
                name: torch.cat([weight.detach().double().flatten() for weight in weights_of(agent)])
                for name, agent in agents.items()
            }
            for one, other in PAIRS_APART:
                apart = torch.linalg.vector_norm(flat[one] - flat[other]) / torch.linalg.vector_norm(flat[other])
                found[f"{one} from {other}"][str(update)] = float(apart)
    return found


def weights_of(agent: TD7) -> list[torch.Tensor]:
    """Return what learns."""
    return [*agent.actor.parameters(), *agent.critic.parameters(), *agent.encoder.parameters()]


def main() -> None:
    """Measure and write."""
    rows, apart = measure(), drift()
    for row in rows:
        print(row)
    print(apart)
    told = {"machine": describe(), "rows": rows, "relative_distance": apart}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
