"""How near the engine is to the floor, and what a step takes around it: benchmarks/results/engine.json.

    python benchmarks/engine.py         three minutes, on an idle machine

`t3d bench` at HalfCheetah's sizes on one thread and two, and at Pendulum's with one update a step; five times in turns.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from floor import floor_s

from t3d import presets
from t3d.bench import bench
from t3d.cli.bench import flat
from t3d.env_spec import EnvSpec, View
from t3d.environments.make import make, spaces_of
from t3d.machine import describe

ROUNDS = 5
RESULTS = Path(__file__).parent / "results" / "engine.json"
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "HalfCheetah-v5, 256-256, batch 256, 2 threads": ("HalfCheetah-v5", {"threads": 2}),
    "HalfCheetah-v5, 256-256, batch 256, 1 thread": ("HalfCheetah-v5", {"threads": 1}),
    "Pendulum-v1, 64-64, batch 100, 1 thread": (
        "Pendulum-v1",
        {"hidden": (64, 64), "batch_size": 100, "updates_per_step": 1.0, "threads": 1},
    ),
}


def measure(env: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what one bench of a job says, and the floor, measured before and behind it."""
    config = presets.choose(EnvSpec(env), None).config.with_values(options)
    made = make(EnvSpec(env))
    spaces = spaces_of(made, env, View())
    made.close()
    sizes = spaces.obs_size, spaces.action_size, config.td3.hidden, config.batch_size, options["threads"]
    before = floor_s(*sizes)
    seen = bench(EnvSpec(env), config, ("fused",))
    floor_ms = 1e3 * (before + floor_s(*sizes)) / 2
    timings = {timing.engine: flat(timing) | {"over_floor": timing.update_ms / floor_ms} for timing in seen.timings}
    values = seen._asdict()
    del values["spaces"]
    return {**values, "floor_ms": floor_ms, "config": dataclasses.asdict(seen.config), "timings": timings}


def over_floor(seen: dict[str, Any]) -> float:
    """Return how far above the floor the update is."""
    return float(seen["timings"]["fused"]["over_floor"])


def main() -> None:
    """Measure the jobs in turns, and write of each the round with the median ratio, beside all ratios."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in JOBS}
    for _ in range(ROUNDS):
        for name, job in JOBS.items():
            rounds[name].append(measure(*job))
            print(name, f"{over_floor(rounds[name][-1]):.3f}x the floor", flush=True)
    jobs = {}
    for name, seen in rounds.items():
        ranked = sorted(seen, key=over_floor)
        jobs[name] = {**ranked[ROUNDS // 2], "over_floor": [over_floor(one) for one in seen]}
        print(name, json.dumps(jobs[name]["timings"]["fused"]))
    RESULTS.write_text(json.dumps({"machine": describe(), "jobs": jobs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
