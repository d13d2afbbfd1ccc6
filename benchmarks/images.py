"""What learning from images costs beside the networks of vectors: benchmarks/results/images.json.

    python benchmarks/images.py      three minutes, nothing else running

Of t3d's encoder, three grey frames and batches of 128, by the frames' size and the threads of PyTorch: an update, and
putting its batch together, with the frames shifted as in training. And an env step with its update, by the preset
images: with the environment in this process, and beside the update in another (--env-workers 1), in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from t3d import presets
from t3d.config import Config
from t3d.env_spec import EnvSpec, View
from t3d.frames import shifts
from t3d.machine import describe
from t3d.replay import Replay
from t3d.spaces import ObsPart, Spaces
from t3d.td3 import TD3
from t3d.training.trainer import Trainer

ENVS = EnvSpec("CarRacing-v3"), EnvSpec("HalfCheetah-v5", pixels=True), EnvSpec("Pendulum-v1", pixels=True)
RESULT = Path(__file__).resolve().parent / "results" / "images.json"
SIZES, THREADS = (64, 84), (1, 2)
BATCH, TRANSITIONS, EPISODE, UPDATES, WARM = 128, 3_000, 200, 60, 10
SPAN, SPANS, WARM_STEPS = 40, 9, 80
WHERE = {"in this process": {}, "beside": {"env_workers": 1}}


def main(size: int | None = None, threads: int | None = None) -> None:
    """Measure all of them, each in a process of its own; or one, which is printed."""
    if size is not None and threads is not None:
        print(json.dumps(measure(size, threads)))
        return
    rows = []
    for one in SIZES:
        for count in THREADS:
            words = [sys.executable, __file__, "--size", str(one), "--threads", str(count)]
            rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
            print(rows[-1], flush=True)
    measured = {"batch": BATCH, "hidden": list(Config().td3.hidden), "updates": UPDATES, "machine": describe()}
    measured |= {"rows": rows, "steps": [step_ms(env, count) for env in ENVS for count in THREADS]}
    RESULT.write_text(json.dumps(measured, indent=1) + "\n")


def step_ms(env: EnvSpec, threads: int) -> dict[str, Any]:
    """Return the median ms of an env step with its update, by where the environment is."""
    options = {"random_steps": WARM_STEPS // 2, "buffer_size": 10_000, "threads": threads}
    config = presets.choose(env, None, options, images=True).config
    trainers = {where: Trainer(env, config.with_values(more)) for where, more in WHERE.items()}
    seen: dict[str, list[float]] = {where: [] for where in WHERE}
    for span in range(SPANS + 1):
        for where, trainer in trainers.items():
            began, until = time.perf_counter(), trainer.env_steps + (SPAN if span else WARM_STEPS)
            while trainer.env_steps < until:
                trainer.step()
            seen[where].append(1e3 * (time.perf_counter() - began) / SPAN)
    medians = {where: statistics.median(spans[1:]) for where, spans in seen.items()}
    for trainer in trainers.values():
        trainer.envs.close()
    print(env.title, threads, medians, flush=True)
    return {"env": env.title, "threads": threads, **medians}


def measure(size: int, threads: int) -> dict[str, float]:
    """Return medians in ms, and the bytes of a slot."""
    torch.set_num_threads(threads)
    picture = ObsPart(shape=(size, size, 1), dtype="uint8")
    spaces = Spaces((picture,), (1,), (-1.0,), (1.0,), View(size, "grey", 3))
    rng, replay = np.random.default_rng(0), Replay(TRANSITIONS, 1, spaces)
    agent = TD3(spaces, Config().td3, rng)
    replay.begin(_frame(rng, spaces), np.ones(1, bool))
    for step in range(1, TRANSITIONS):
        ends = np.array([step % EPISODE == 0])
        replay.add(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), ends & False, ends, _frame(rng, spaces))
        if ends[0]:
            replay.begin(_frame(rng, spaces), ends)
    drawn, updated = [], []
    for _ in range(WARM + UPDATES):
        began = time.perf_counter()
        batch = replay.sample(replay.draw(rng, BATCH), 0.99, shifts(spaces, rng, BATCH))
        middle = time.perf_counter()
        agent.update(batch, rng.standard_normal((BATCH, 1), np.float32))
        drawn.append(1e3 * (middle - began))
        updated.append(1e3 * (time.perf_counter() - middle))
    medians = {"batch_ms": statistics.median(drawn[WARM:]), "update_ms": statistics.median(updated[WARM:])}
    return {"size": size, "threads": threads, "slot_bytes": replay.slot.itemsize, **medians}


def _frame(rng: np.random.Generator, spaces: Spaces) -> np.ndarray:
    return rng.integers(0, 256, (1, spaces.obs_size), dtype=np.uint8)


if __name__ == "__main__":
    tyro.cli(main)
