"""What an update does to the code that runs after it: benchmarks/results/cold.json.

    python benchmarks/cold.py           half a minute, on an idle machine

Each part of a training step is called three times right behind an update and timed each time. Between the first call
and the last stands what the processor had to fetch again; `py loop` touches next to no memory, so a lower clock would
show there.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import numpy as np

from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.machine import describe
from t3d.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "cold.json"
JOBS = {name: job for name, job in engine.JOBS.items() if job[1]["threads"] == 1}
WARM_STEPS, TIMES = 2_000, 500


def count() -> int:
    """Add up 200 numbers."""
    return sum(number * number for number in range(200))


def measure(env: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """Return of each part the median microseconds of its first, second and third call behind an update."""
    config = presets.choose(EnvSpec(env), None).config.with_values({"random_steps": 1_000, **options})
    trainer = Trainer(EnvSpec(env), config)
    while trainer.env_steps < WARM_STEPS:
        trainer.step()
    replay, streams, size = trainer.replay, trainer.streams, config.batch_size
    shape = size, trainer.envs.spaces.action_size
    index, obs = replay.draw(streams.index, size), trainer.envs.obs
    batch, noise = replay.sample(index, config.td3.gamma), streams.target_noise.standard_normal(shape, np.float32)
    action = np.zeros((1, shape[1]), np.float32)

    def step() -> None:
        ended = trainer.envs.step(action)
        if ended.episodes:
            trainer.envs.reset(ended.terminated | ended.truncated)

    parts: dict[str, Callable[[], object]] = {
        "py loop": count,
        "replay.draw": lambda: replay.draw(streams.index, size),
        "replay.sample": lambda: replay.sample(index, config.td3.gamma),
        "target noise": lambda: streams.target_noise.standard_normal(shape, np.float32),
        "engine.act": lambda: trainer.learner.engine.act(obs),
        "envs.step": step,
    }
    seen = {}
    for name, part in parts.items():
        calls: list[list[float]] = [[], [], []]
        for _ in range(TIMES):
            trainer.learner.engine.update(batch, noise)
            for times in calls:
                began = time.perf_counter()
                part()
                times.append(1e6 * (time.perf_counter() - began))
        seen[name] = [statistics.median(times) for times in calls]
    trainer.envs.close()
    return seen


def main() -> None:
    """Measure and write."""
    jobs = {name: measure(env, options) for name, (env, options) in JOBS.items()}
    RESULTS.write_text(json.dumps({"machine": describe(), "microseconds": jobs}, indent=1) + "\n")
    print(json.dumps(jobs, indent=1))


if __name__ == "__main__":
    main()
