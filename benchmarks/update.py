"""Time one update: eager, fused on 1 and 2 threads, and the floor under it, interleaved. Prints JSON.

python benchmarks/update.py [--hidden 256 256] [--batch 256] [--obs 17] [--action 6] [--layer-norm none]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from t3d.config import TD3Config
from t3d.engines import cores_available, native
from t3d.engines.floor import floor_s
from t3d.engines.fused import Fused
from t3d.replay import Batch
from t3d.td3 import TD3


def draw(rng: np.random.Generator, batch: int, obs: int, action: int) -> tuple[Batch, Any]:
    """Return a batch and its noise."""
    shapes = (batch, obs), (batch, obs), (batch, action), (batch,), (batch,), (batch, action)
    parts = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return Batch(parts[0], parts[1], np.tanh(parts[2]), parts[3], (parts[4] > 1).astype(np.float32)), parts[5]


def pairs_ms(update: Callable[[], object], seconds: float) -> list[float]:
    """Return the milliseconds of one update, each the mean of a pair: every second update moves the actor."""
    readings = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        update()
        update()
        readings.append((time.perf_counter() - start) * 500)
    return readings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--obs", type=int, default=17)
    parser.add_argument("--action", type=int, default=6)
    parser.add_argument("--layer-norm", default="none")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each candidate in each round")
    args = parser.parse_args()
    config = TD3Config(hidden=tuple(args.hidden), layer_norm=args.layer_norm)
    batch, noise = draw(np.random.default_rng(0), args.batch, args.obs, args.action)
    threads = [1, 2] if cores_available() > 1 else [1]
    load_before = os.getloadavg()

    def agent() -> TD3:
        return TD3(args.obs, args.action, config, np.random.default_rng(1))

    engines: dict[str, TD3 | Fused] = {f"fused_{t}": Fused(agent(), t) for t in threads}
    engines |= {f"eager_{t}": agent() for t in threads}
    times: dict[str, list[float]] = {name: [] for name in engines}
    floors: dict[int, list[float]] = {t: [] for t in threads}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            torch.set_num_threads(int(name[-1]))
            engine.update(batch, noise)
            times[name] += pairs_ms(lambda engine=engine: engine.update(batch, noise), args.seconds)
        for t in threads:
            floors[t].append(1000 * floor_s(args.obs, args.action, args.hidden, args.batch, t, repeats=5))
    result: dict[str, Any] = {"arguments": vars(args), "blas": native.blas, "cpu": platform.processor()}
    result["cores"] = cores_available()
    result["load"] = [load_before, os.getloadavg()]
    for t in threads:
        result[f"floor_{t}_ms"] = round(float(np.median(floors[t])), 4)
    for name, readings in times.items():
        low, middle, high = np.quantile(readings, [0.1, 0.5, 0.9])
        result[name] = {"median_ms": round(middle, 4), "p10_ms": round(low, 4), "p90_ms": round(high, 4)}
        result[name]["over_floor"] = round(middle / result[f"floor_{name[-1]}_ms"], 3)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
