"""From which size on a second thread makes an update faster: benchmarks/results/threads.json.

    python benchmarks/threads.py

One and two threads in turns, over widths and batch sizes at HalfCheetah's sizes; `multiply_adds` is what
`engines.choose.choose_threads` goes by.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np

from t3d.config import Config, TD3Config
from t3d.engines.choose import multiply_adds
from t3d.engines.fused import Fused
from t3d.machine import describe
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3

RESULTS = Path(__file__).parent / "results" / "threads.json"
OBS, ACTIONS = 17, 6
SPACES = Spaces.of_vectors(OBS, ACTIONS)
WIDTHS, BATCHES = (64, 96, 128, 192, 256, 400), (64, 100, 256)
ROUNDS, PAIRS = 7, 40
# The loop that trains does other things between two updates; the helper must still be found awake.
PAUSE_S = 200e-6


def spin(seconds: float) -> None:
    """Pass the time as an environment would."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def main() -> None:
    """Measure and write."""
    rng = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for size in BATCHES:
            shapes = (size, OBS), (size, OBS), (size, ACTIONS), (size,), (size,), (size,)
            batch = Batch(*(rng.standard_normal(shape, np.float32) for shape in shapes))
            noise = rng.standard_normal((size, ACTIONS), np.float32)
            config = TD3Config(hidden=(width, width))
            engines = {n: Fused(TD3(SPACES, config, np.random.default_rng(0)), n) for n in (1, 2)}
            seen: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(ROUNDS):
                for threads, engine in engines.items():
                    for _ in range(PAIRS):
                        spent = 0.0
                        for _ in range(2):
                            began = time.perf_counter()
                            engine.update(batch, noise)
                            spent += time.perf_counter() - began
                            spin(PAUSE_S)
                        seen[threads].append(1e3 * spent / 2)
            one, two = statistics.median(seen[1]), statistics.median(seen[2])
            amount = multiply_adds(SPACES, Config(batch_size=size, td3=config))
            row = {"width": width, "batch": size, "multiply_adds": amount, "ms_1": one, "ms_2": two, "gain": one / two}
            print(row)
            rows.append(row)
    rows.sort(key=lambda row: row["multiply_adds"])
    RESULTS.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
