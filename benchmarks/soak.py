"""Whether a run that goes on and on takes more and more: benchmarks/results/soak.json.

    python benchmarks/soak.py [--minutes 10]

`t3d train` with worker processes, a checkpoint and an evaluation (in a worker of its own) at every 500th env step, and
a replay memory that goes round many times, looked at from outside once a second. Small networks: what may leak is
around them. What stays is told from what comes and goes with an evaluation: memory is that of the processes that last,
and of counts (descriptors, threads, processes) the least of a span is taken. Exits with 1 where something grows that
should not. On Linux.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import tyro

from t3d.machine import describe
from t3d.runs.checkpoints import Checkpoints, folders
from t3d.storage.row_lines import RowReader

RESULTS = Path(__file__).parent / "results" / "soak.json"
WORKERS = 2
# Ant's observations are long, so that files of the replay memory are begun and removed within minutes.
SETTINGS = (
    f"Ant-v5 --n-envs {WORKERS} --env-workers {WORKERS} --max-episode-steps 100 --normalize-obs "
    "--random-steps 1000 --buffer-size 5000 --hidden 32 32 --batch-size 64 "
    "--log-every 500 --eval-every 500 --eval-episodes 1 --checkpoint-every 500"
)
STEPS = 1_000_000_000  # it is stopped before
PARTS = ("replay", "checkpoints", "policy", "metrics.jsonl", "tensorboard")
GROWING = ("metrics.jsonl", "tensorboard")  # by nature
COUNTS = ("descriptors", "threads", "processes")
MOST_SAMPLES = 200
# `t3d train` keeps the rows of health for its hints: 1.7 kB for one of a batch, 0.7 kB for one of an evaluation (by
# tracemalloc, which finds hardly anything else that stays), and in 500 env steps there is one of each here. Twice that,
# as resident memory comes in pages; and what the allocator still takes for its own ends in the first minutes, 0.5 to
# 1.5 MB in soaks of one minute, and hardly more in longer ones.
ROWS_KB = 2 * 5.0  # in 1,000 env steps
SETTLING_MB = 2.0

Sample = dict[str, float]


def sizes_mb(run: Path) -> Sample:
    """Return the size of each part of a run folder, while it is written to."""
    sizes = dict.fromkeys(PARTS, 0)
    for folder, _, names in os.walk(run):
        for path in (Path(folder, name) for name in names):
            part = path.relative_to(run).parts[0]
            with contextlib.suppress(FileNotFoundError):
                sizes[part] = sizes.get(part, 0) + path.stat().st_size
    return {f"{part}_mb": sizes[part] / 1e6 for part in PARTS}


def look(trainer: psutil.Process, run: Path, began: float) -> Sample:
    """Return what a training process, its workers and its folder take now."""
    children = sorted(trainer.children(recursive=True), key=psutil.Process.create_time)
    # The workers of the training last; behind them comes that of an evaluation, if there is one.
    lasting = [trainer, *children[:WORKERS]]
    memory = [process.memory_info() for process in lasting]
    descriptors, threads, evaluation = 0, 0, 0
    for process in (trainer, *children):
        with contextlib.suppress(psutil.NoSuchProcess):  # the evaluation has just ended
            descriptors += process.num_fds()
            threads += process.num_threads()
            evaluation += 0 if process in lasting else process.memory_info().rss
    return {
        "s": time.monotonic() - began,
        "env_steps": max(int(path.stem) for path in folders(run / "checkpoints")),
        "resident_mb": sum(taken.rss for taken in memory) / 1e6,
        "anonymous_mb": sum(taken.rss - taken.shared for taken in memory) / 1e6,
        "trainer_resident_mb": memory[0].rss / 1e6,
        "evaluation_resident_mb": evaluation / 1e6,
        "descriptors": descriptors,
        "threads": threads,
        "processes": 1 + len(children),
        **sizes_mb(run),
    }


def soak(run: Path, seconds: float) -> list[Sample]:
    """Train for so long, from the first checkpoint on, and return a sample of every second or so."""
    command = [sys.executable, "-m", "t3d", "train", *shlex.split(SETTINGS), "--steps", str(STEPS), "--out", str(run)]
    samples: list[Sample] = []
    with run.with_name("said").open("w+") as said:
        training = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            trainer, began = psutil.Process(training.pid), time.monotonic()
            while time.monotonic() - began < seconds and training.poll() is None:
                if not samples and not folders(run / "checkpoints"):
                    began = time.monotonic()
                else:
                    with contextlib.suppress(psutil.NoSuchProcess):  # then training has ended, and says why
                        samples.append(look(trainer, run, began))
                    if len(samples) % 60 == 1:
                        print({name: round(value, 1) for name, value in samples[-1].items()}, flush=True)
                time.sleep(1.0)
        finally:
            training.send_signal(signal.SIGTERM)
            code = training.wait()
        if code != 128 + signal.SIGTERM:
            said.seek(0)
            raise SystemExit(f"training ended with code {code}:\n{said.read()[-2000:]}")
    return samples


def verdict(samples: list[Sample]) -> dict[str, Any]:
    """Compare the last fifth of the samples with the second: the first is still filling the replay memory."""
    fifth = len(samples) // 5
    second, last = samples[fifth : 2 * fifth], samples[-fifth:]

    def growth(name: str) -> float:
        return statistics.mean(s[name] for s in last) - statistics.mean(s[name] for s in second)

    env_steps = growth("env_steps")
    names = ("resident_mb", "anonymous_mb", "trainer_resident_mb")
    grown = {
        name: {"mb": growth(name), "kb_per_1000_env_steps": 1e6 * growth(name) / env_steps} for name in names
    }  # MB an env step are 1e3 kB in 1e-3 thousands of them
    counts = {name: min(s[name] for s in last) - min(s[name] for s in second) for name in COUNTS}
    limit_mb = SETTLING_MB + ROWS_KB * env_steps / 1e6
    kept = [sum(s[f"{part}_mb"] for part in PARTS if part not in GROWING) for s in samples]
    return {
        "env_steps_between": env_steps,
        "growth": grown,
        "resident_mb_limit": limit_mb,
        "growth_of_least": counts,
        "folder_mb_largest": max(kept),
        "folder_mb_last": kept[-1],
        "replay_mb_largest": max(s["replay_mb"] for s in samples),
        "growing_by_nature_mb": {part: samples[-1][f"{part}_mb"] for part in GROWING},
        "sound": growth("resident_mb") <= limit_mb and max(counts.values()) <= 0,
    }


def main(minutes: float = 10.0) -> None:
    """Train, watch, judge and write.

    Args:
        minutes: how long, from the first checkpoint on; in less than one what any run takes at first looks like a leak.
    """
    with tempfile.TemporaryDirectory(prefix="t3d-soak-", dir=".") as folder:
        run = Path(folder) / "run"
        samples = soak(run, 60 * minutes)
        _, newest = Checkpoints(run / "checkpoints").find(lambda path, manifest: None)[0]
        metrics = run / "metrics.jsonl"
        rows = [row["kind"] for row in RowReader(metrics).rows(metrics.stat().st_size)]
    judged = verdict(samples)
    thinned = samples[:: math.ceil(len(samples) / MOST_SAMPLES)]
    result = {
        "machine": describe(),
        "settings": SETTINGS,
        "minutes": minutes,
        "env_steps": newest.trainer.envs.env_steps,
        "updates": newest.trainer.updates,
        "checkpoints": newest.number + 1,
        "evaluations": rows.count("evaluation"),
        "episodes": rows.count("episode"),
        "replay_slots_written": sum(newest.trainer.written),
        "verdict": judged,
        "samples": [{name: round(value, 3) for name, value in sample.items()} for sample in thinned],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))
    sys.exit(0 if judged["sound"] else 1)


if __name__ == "__main__":
    tyro.cli(main)
