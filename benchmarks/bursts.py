"""Training in bursts and with drawn batches against the tree before: benchmarks/results/bursts.json.

    git worktree add ../before a74497c
    python benchmarks/bursts.py ../before                 some 15 minutes; --only JOB --rounds 5 for a look

Three processes a job, each with a trainer of its own beyond its warm-up, take a thousand env steps in turns, with the
updates that these earn; whoever has no turn sleeps. In every other round the order is turned round. What counts is the
ratio within a round: what else runs on the machine meets all of a round alike. Options are the preset's, but for the
threads where they are said. Times are those of the wall and, where there is one thread, of the processor: the second
leaves out the waiting for a core that others hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "bursts.json"
HERE = Path(__file__).resolve().parents[1]
WARM_STEPS, SPAN = 2_000, 1_000  # whole episodes of both environments
RANDOM_STEPS = 1_000
JOBS = {
    "HalfCheetah-v5, 2 threads": ("HalfCheetah-v5", 2),
    "HalfCheetah-v5, 1 thread": ("HalfCheetah-v5", 1),
    "Pendulum-v1, 1 thread": ("Pendulum-v1", 1),
}
BEFORE = "step, before"


def work(env: str, train_at: str, threads: str) -> None:
    """Train whenever a line comes in; answer with the seconds that took, by the wall and of the processor."""
    from t3d import presets
    from t3d.env_spec import EnvSpec
    from t3d.training.trainer import Trainer

    options = {"random_steps": RANDOM_STEPS, "train_at": train_at, "threads": int(threads)}
    trainer = Trainer(EnvSpec(env), presets.choose(EnvSpec(env), None).config.with_values(options))

    def train(until: int) -> None:
        while trainer.env_steps < until or trainer.in_burst:
            trainer.step()
        trainer.learner.losses()

    train(WARM_STEPS)
    config = trainer.config
    sizes = {"hidden": config.td3.hidden, "batch_size": config.batch_size}
    print(json.dumps(sizes | {"updates_per_step": config.updates_per_step}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter(), time.process_time()
        train(trainer.env_steps + SPAN)
        print([time.perf_counter() - began[0], time.process_time() - began[1]], flush=True)
        assert trainer.updates_due == 0


def start(tree: Path, *job: str) -> subprocess.Popen[str]:
    """Return a process of a tree that trains on demand."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    command = [sys.executable, __file__, "--work", *job]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> Any:
    """Return what a process says next."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def quartiles(values: list[float]) -> list[float]:
    """Return the quartiles and, between them, the median."""
    return statistics.quantiles(values, n=4, method="inclusive")


def measure(before: Path, env: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return the microseconds an env step of each, and how many times as fast as before, over all rounds."""
    ways = {BEFORE: (before, "step"), "step": (HERE, "step"), "episode": (HERE, "episode")}
    processes = {name: start(tree, env, train_at, str(threads)) for name, (tree, train_at) in ways.items()}
    options, *_ = [answer(process) for process in processes.values()]
    took: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            stdin = processes[name].stdin
            assert stdin is not None
            print("go", file=stdin, flush=True)
            took[name].append(answer(processes[name]))
    for process in processes.values():
        process.communicate()
    found = {"wall": compare(took, 0)} | ({"processor": compare(took, 1)} if threads == 1 else {})
    return options | {"threads": threads, "rounds": rounds} | found


def compare(took: dict[str, list[list[float]]], clock: int) -> dict[str, Any]:
    """Return what one of the two clocks says."""
    by = {name: [seconds[clock] for seconds in rounds] for name, rounds in took.items()}
    ratios = {
        name: quartiles([a / b for a, b in zip(by[BEFORE], by[name], strict=True)]) for name in by if name != BEFORE
    }
    a_step = {name: 1e6 / SPAN * statistics.median(seconds) for name, seconds in by.items()}
    return {"us_a_step": a_step, "times_as_fast": ratios}


def main() -> None:
    """Measure both jobs and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", type=Path, help="the tree to compare with")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=JOBS, help="one job; the others' entries stay")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*given.work)
        return
    if given.before is None:
        parser.error("which tree is to be compared with?")
    from t3d.machine import describe

    for name in [given.only] if given.only else JOBS:
        seen = measure(given.before.resolve(), *JOBS[name], given.rounds)
        print(name, json.dumps(seen, indent=1))
        kept = json.loads(RESULTS.read_text())["jobs"] if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({"machine": describe(), "jobs": kept | {name: seen}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
