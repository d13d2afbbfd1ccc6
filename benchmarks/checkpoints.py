"""How long a checkpoint stops training, what it writes, how soon a run resumes: against the size of the replay memory.

    python benchmarks/checkpoints.py [--out benchmarks/results/checkpoints.json]

HalfCheetah's sizes and networks. The memory is filled with random slots as training would fill it; then checkpoints
of 10,000 new steps each are timed, and a new process's resume.
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
from t3d.machine import describe
from t3d.runs import disk
from t3d.runs.session import Session

ENV = "HalfCheetah-v5"
SIZES = (10_000, 100_000, 1_000_000)
COMMITS = 9
NEW_STEPS = 10_000
STEPS = 3_000


def fill(session: Session, steps: int, rng: np.random.Generator) -> None:
    """Write steps into the replay memory as HalfCheetah would, an episode's end every 1,000."""
    replay = session.trainer.replay
    obs_size, action_size = session.trainer.agent.obs_size, session.trainer.agent.action_size
    obs = rng.standard_normal((steps, 1, obs_size), np.float32)
    action = rng.uniform(-1, 1, (steps, 1, action_size)).astype(np.float32)
    one, no = np.ones(1, np.float32), np.zeros(1, bool)
    for k in range(steps):
        replay.add(action[k], one, no, no, obs[k])


def measured(size: int) -> dict[str, object]:
    """Return times and bytes with a replay memory that holds `size` steps."""
    folder = Path(tempfile.mkdtemp(prefix="t3d-checkpoints-", dir="."))
    try:
        choice = presets.choose(ENV, None, {"steps": 10_000_000, "random_steps": 10_000_000, "threads": 1})
        session = Session(ENV, choice, folder / "run")
        rng = np.random.default_rng(0)
        # Begun at a real episode's start, so that resuming plays it again: its 0 steps.
        for _ in range(size // NEW_STEPS):
            fill(session, NEW_STEPS, rng)
            session._store.commit(session.trainer, session.progress)
        times, written = [], []
        for _ in range(COMMITS):
            fill(session, NEW_STEPS, rng)
            before, disk_os = written_bytes(), time.perf_counter()
            session._store.commit(session.trainer, session.progress)
            times.append((time.perf_counter() - disk_os) * 1e3)
            written.append(written_bytes() - before)
        run = str(session.path)
        session._store.close()
        resumed = [resume_s(run) for _ in range(3)]
        return {
            "replay_steps": size,
            "commit_ms": statistics.median(times),
            "commit_ms_worst": max(times),
            "written_mb": statistics.median(written) / 1e6,
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


def written_bytes() -> int:
    """Return the bytes written through disk.py so far."""
    return _Counting.total


RESUME = """
import sys, time
import t3d.runs.session, t3d.api, numba
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
    """Return the µs per env step that durability costs between checkpoints: the loop's clocks and flags, alone."""
    folder = Path(tempfile.mkdtemp(prefix="t3d-checkpoints-", dir="."))
    try:
        choice = presets.choose(ENV, None, {"steps": STEPS * 100, "random_steps": 10_000_000, "threads": 1})
        session = Session(ENV, choice, folder / "run")
        trainer = session.trainer
        counted = iter(range(10**9))

        def nothing() -> list[object]:
            trainer.envs.env_steps += 1
            next(counted)
            return []

        trainer.step = nothing  # type: ignore[assignment, method-assign]
        rows, began = session._loop(_NoSignals()), time.perf_counter()  # type: ignore[arg-type]
        session._store._every = session.config.eval_every = 10**9  # type: ignore[misc]
        for _ in rows:
            pass
        return (time.perf_counter() - began) / session.config.steps * 1e6
    finally:
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
    out.write_text(json.dumps({"env": ENV, "rows": rows, "machine": describe()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
