"""How near the engine is to the floor, and what a step takes around it: benchmarks/results/engine.json.

    python benchmarks/engine.py         a minute, on an idle machine

`t3d bench` at HalfCheetah's sizes on one thread and two, and at Pendulum's with one update a step.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from t3d import presets
from t3d.benching import bench
from t3d.cli.bench import flat
from t3d.machine import describe

RESULTS = Path(__file__).parent / "results" / "engine.json"
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "HalfCheetah-v5, 256-256, batch 256, 2 threads": ("HalfCheetah-v5", {"threads": 2}),
    "HalfCheetah-v5, 256-256, batch 256, 1 thread": ("HalfCheetah-v5", {"threads": 1}),
    "Pendulum-v1, 64-64, batch 100, 1 thread": (
        "Pendulum-v1",
        {"hidden": (64, 64), "batch_size": 100, "updates_per_step": 1.0, "threads": 1},
    ),
}


def main() -> None:
    """Measure and write."""
    jobs = {}
    for name, (env, options) in JOBS.items():
        seen = bench(env, presets.choose(env, None).config.with_values(options), ("fused",))
        jobs[name] = {
            **seen._asdict(),
            "config": dataclasses.asdict(seen.config),
            "timings": {timing.engine: flat(timing) for timing in seen.timings},
        }
        print(name, f"floor {seen.floor_ms:.3f} ms", jobs[name]["timings"]["fused"])
    RESULTS.write_text(json.dumps({"machine": describe(), "jobs": jobs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
