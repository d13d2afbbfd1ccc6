"""How long a checkpoint stops training, what it writes, how soon a run resumes: against the size of the replay memory.

    python benchmarks/checkpoints.py [--out benchmarks/results/checkpoints.json]

HalfCheetah's sizes and networks. The memory is filled with random slots and metrics.jsonl with rows as training would
fill them; then checkpoints of 10,000 new steps each are timed, and a new process's resume.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.environments.envs import Episode
from t3d.machine import describe
from t3d.runs.session import Session
from t3d.runs.signals import Signals
from t3d.runs.store import Store
from t3d.storage import disk

ENV = "HalfCheetah-v5"
SIZES = (10_000, 100_000, 1_000_000)
COMMITS = 9
NEW_STEPS = 10_000
LOOP_STEPS = 200_000
EPISODE_STEPS = 1_000
LOSSES = ("critic_loss", "actor_loss", "q1", "q2", "target_q")
HEALTH = 20  # numbers in a row, as many as training writes


def fill(session: Session, steps: int, rng: np.random.Generator) -> None:
    """Write steps into the replay memory of HalfCheetah's size."""
    replay = session.trainer.replay
    obs_size, action_size = session.trainer.envs.spaces.obs_size, session.trainer.envs.spaces.action_size
    obs = rng.standard_normal((steps, 1, obs_size), np.float32)
    action = rng.uniform(-1, 1, (steps, 1, action_size)).astype(np.float32)
    one, no = np.ones(1, np.float32), np.zeros(1, bool)
    for k in range(steps):
        replay.add(action[k], one, no, no, obs[k])
    metrics, at = session._store.metrics, replay.written[0]
    for _ in range(steps // EPISODE_STEPS):
        metrics.write("episode", at, env=0, **{"return": 4321.987}, length=EPISODE_STEPS, end="truncated")
        losses = dict(zip(LOSSES, rng.standard_normal(len(LOSSES)).tolist(), strict=True))
        metrics.write("update", at, updates=at, **losses)
        health = {f"number_{i}": x for i, x in enumerate(rng.standard_normal(HEALTH).tolist())}
        metrics.write("health", at, of="batch", **health)
    returns = rng.standard_normal(10).tolist()
    metrics.write("evaluation", at, returns=returns, lengths=[EPISODE_STEPS] * 10, return_mean=0.0, return_std=1.0)


def measured(size: int) -> dict[str, object]:
    """Return times and bytes with a replay memory that holds `size` steps."""
    folder = Path(tempfile.mkdtemp(prefix="t3d-checkpoints-", dir="."))
    try:
        choice = presets.choose(EnvSpec(ENV), None, {"steps": 10_000_000, "random_steps": 10_000_000, "threads": 1})
        session = Session(EnvSpec(ENV), choice, folder / "run")
        rng = np.random.default_rng(0)
        # The environment itself takes no step: what a resumed run plays again is no part of this.
        for _ in range(size // NEW_STEPS):
            fill(session, NEW_STEPS, rng)
            session._store.commit(session.trainer, session.progress)
        times, written = [], []
        for _ in range(COMMITS):
            fill(session, NEW_STEPS, rng)
            before, began = _Counting.total, time.perf_counter()
            session._store.commit(session.trainer, session.progress)
            times.append((time.perf_counter() - began) * 1e3)
            written.append(_Counting.total - before)
        run = str(session.path)
        session._store.close()
        resumed = [resume_s(run) for _ in range(3)]
        return {
            "replay_steps": size,
            "commit_ms": statistics.median(times),
            "commit_ms_worst": max(times),
            "written_mb": statistics.median(written) / 1e6,
            "metrics_rows": sum(1 for _ in (session.path / "metrics.jsonl").open("rb")),
            "resume_s": statistics.median(resumed),
        }
    finally:
        shutil.rmtree(folder)


class _Counting:
    """os, with the bytes written through disk.py counted."""

    total = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, file: int, content: bytes) -> int:
        """Write and count."""
        count = os.write(file, content)
        _Counting.total += count
        return count


RESUME = """
import sys, time
# All that is imported late.
import gymnasium.envs.mujoco.half_cheetah_v5, mujoco, tensorboard.summary.writer.event_file_writer, torch._dynamo
import t3d.api, t3d.engines.fused
began = time.perf_counter()
session = t3d.api.resume(__import__("pathlib").Path(sys.argv[1]))
session.trainer.step()
print(time.perf_counter() - began)
"""


def resume_s(run: str) -> float:
    """Return the seconds from the end of the imports to the first env step behind the checkpoint."""
    command = [sys.executable, "-c", RESUME, run]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def per_step_us() -> float:
    """Return the µs per env step that the loop itself costs between checkpoints: clocks, flags, an episode's row."""
    folder = Path(tempfile.mkdtemp(prefix="t3d-checkpoints-", dir="."))
    try:
        steps = {"steps": LOOP_STEPS, "eval_every": 10 * LOOP_STEPS, "log_every": 5 * LOOP_STEPS}
        session = Session(EnvSpec(ENV), presets.choose(EnvSpec(ENV), None, {**steps, "threads": 1}), folder / "run")
        trainer, episode = session.trainer, Episode(0, 0.0, EPISODE_STEPS, "truncated")

        def step() -> list[Episode]:
            trainer.envs.env_steps += 1
            return [episode] if trainer.envs.env_steps % EPISODE_STEPS == 0 else []

        trainer.step = step  # type: ignore[method-assign]
        session._store.due = lambda env_steps: Store.due(session._store, env_steps) and False  # type: ignore[method-assign]
        began = time.perf_counter()
        for _ in session._loop(Signals()):
            pass
        return (time.perf_counter() - began) / LOOP_STEPS * 1e6
    finally:
        session._store.close()
        shutil.rmtree(folder)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "checkpoints.json")
    out = parser.parse_args().out
    disk.os = _Counting()  # type: ignore[assignment]
    rows = []
    for size in SIZES:
        rows.append(measured(size))
        print(rows[-1], flush=True)
    step_us = statistics.median(per_step_us() for _ in range(5))
    print(f"{step_us:.2f} µs per env step between checkpoints")
    out.write_text(
        json.dumps({"env": ENV, "rows": rows, "loop_us_per_step": step_us, "machine": describe()}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
