"""Where a second of training goes: each part of Trainer.step by the clock, to benchmarks/results/profile.json.

    python benchmarks/profile_step.py after                         this source tree, both jobs
    PYTHONPATH=../before/src python benchmarks/profile_step.py before     another one

The label's entry is replaced, the others stay. Parts are timed by stand-ins around the objects that the trainer
calls, so what a stand-in takes (about a microsecond a call) counts as "rest".
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from t3d import presets
from t3d.bench import _Clocked  # by this name in older trees, too
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.machine import describe
from t3d.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "profile.json"
SECONDS = 9  # of which the median is kept
WARM_STEPS = 1_000
JOBS = {
    "HalfCheetah-v5, 256-256, batch 256": ("HalfCheetah-v5", {}),
    "Pendulum-v1, 64-64, batch 100, one update a step": (
        "Pendulum-v1",
        {"hidden": (64, 64), "batch_size": 100, "updates_per_step": 1.0},
    ),
}


def profile(env: str, options: dict[str, Any]) -> dict[str, float]:
    """Return env steps and the milliseconds of each part, in the median second of several."""
    config: Config = presets.choose(EnvSpec(env), None).config.with_values({"random_steps": 1_000, **options})
    trainer: Any = Trainer(EnvSpec(env), config)
    while trainer.env_steps < config.random_steps + WARM_STEPS:
        trainer.step()
    trainer.learner.losses()
    clocks: dict[str, _Clocked] = {}

    def clocked(inner: Any, **names: str) -> Any:
        for method, name in names.items():
            inner = clocks[name] = _Clocked(inner, method)
        return inner

    trainer.collector.envs = clocked(trainer.envs, step="envs.step")
    trainer.learner.engine = clocked(trainer.learner.engine, act="engine.act", update="engine.update")
    if getattr(trainer.learner, "drawing", None) is not None:  # this tree's: draws, samples, noise and updates are one
        trainer.learner.drawing = clocked(trainer.learner.drawing, update_many="engine.update_many")
    replay = clocked(trainer.replay, add="replay.add", draw="replay.draw", sample="replay.sample")
    trainer.collector.replay = trainer.learner.replay = replay
    noise = {
        name: clocked(getattr(trainer.streams, name), standard_normal=f"{name} noise")
        for name in ("exploration", "target_noise")
    }
    trainer.collector._streams = trainer.learner._streams = dataclasses.replace(trainer.streams, **noise)
    seconds = []
    for _ in range(SECONDS):
        for clock in clocks.values():
            clock.seconds = 0.0
        first, began = trainer.env_steps, time.perf_counter()
        while (wall := time.perf_counter() - began) < 1:
            trainer.step()
        parts = {name: 1e3 * clock.seconds / wall for name, clock in clocks.items()}
        seconds.append({"env_steps": (trainer.env_steps - first) / wall, **parts, "rest": 1e3 - sum(parts.values())})
    trainer.envs.close()
    chosen = {"threads": float(trainer.learner.threads)}
    return chosen | {name: statistics.median(second[name] for second in seconds) for name in seconds[0]}


def main(label: str) -> None:
    """Measure both jobs and put them into the file under a label."""
    seen = {name: profile(env, options) for name, (env, options) in JOBS.items()}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {label: {"machine": describe(), "jobs": seen}}, indent=1) + "\n")
    print(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
