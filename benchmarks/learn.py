"""Does it learn? Train every study, several seeds each, and keep what was seen in benchmarks/results/<study>.json.

    python benchmarks/learn.py                      all studies, two runs at a time, one thread each
    python benchmarks/learn.py halfcheetah          one of them
    python benchmarks/learn.py --jobs 1 pendulum

Run it again to go on where it was interrupted. A run that has finished is not run again; delete its folder under
runs/benchmarks to do so.
`python docs/results.py` makes docs/results.md from the JSON files.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RUNS = HERE.parent / "runs" / "benchmarks"


@dataclass(frozen=True)
class Study:
    """One environment, one set of options, several seeds."""

    env: str
    steps: int
    seeds: int
    goal: str  # for people
    statistic: str  # what must reach `at_least`: the mean over seeds, or the least seed
    at_least: float | None  # None where the study is there to be compared with another
    options: dict[str, str] = field(default_factory=dict)
    script: str | None = None  # of the repository, that trains in place of the command t3d train


STUDIES = {
    "inverted-pendulum": Study("InvertedPendulum-v5", 20_000, 5, "every seed >= 950", "least", 950),
    "pendulum": Study("Pendulum-v1", 20_000, 5, "mean >= -200", "mean", -200),
    "halfcheetah": Study("HalfCheetah-v5", 100_000, 5, "mean >= 4,000", "mean", 4000),
    "halfcheetah-eager": Study("HalfCheetah-v5", 100_000, 3, "compare engines", "mean", None, {"engine": "eager"}),
    "halfcheetah-layer-norm": Study(
        "HalfCheetah-v5", 100_000, 3, "compare a normalised critic", "mean", None, {"layer-norm": "critic"}
    ),
    "halfcheetah-batch-128": Study(
        "HalfCheetah-v5", 100_000, 3, "compare half the batch", "mean", None, {"batch-size": "128"}
    ),
    "hopper": Study("Hopper-v5", 100_000, 5, "what is seen", "mean", None),
    "hopper-one-critic": Study(
        "Hopper-v5", 100_000, 5, "compare one critic", "mean", None, script="examples/one_critic.py"
    ),
    "ant-bullet": Study("AntBulletEnv-v0", 100_000, 5, "mean >= 350", "mean", 350),
}


def train(name: str, study: Study, seed: int) -> Path:
    """Train one seed in a process of its own, unless that is done already."""
    out = RUNS / name / f"s{seed}"
    options = {"steps": str(study.steps), "seed": str(seed), "threads": "1", **study.options, "out": str(out)}
    flags = [part for flag, value in options.items() for part in (f"--{flag}", value)]
    if study.script is None:
        t3d = str(Path(sys.executable).with_name("t3d"))
        command = [t3d, "train", study.env, *flags, "--no-video", "--resume", "auto"]
    else:
        command = [sys.executable, str(HERE.parent / study.script), study.env, *flags]
    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    print(f"{name} seed {seed}: {time.monotonic() - began:,.0f} s, {rows(out, 'evaluation')[-1]['return_mean']:,.0f}")
    return out


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return a run's rows of one kind."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def promises(run: Path) -> list[list[float | None]]:
    """Return of each evaluation: env steps, what was obtained, and the bias of Q1 and of the least critic."""
    told = ("env_steps", "obtained", "q1_bias", "min_q_bias")
    # A run from before a run looked at its health has none.
    return [[row[name] for name in told] for row in rows(run, "health") if row["of"] == "evaluation"]


def collect(name: str, study: Study, runs: list[Path]) -> None:
    """Write the study's result file."""
    recorded = json.loads((runs[0] / "config.json").read_text())
    seen = []
    for seed, run in enumerate(runs):
        evaluations = rows(run, "evaluation")
        seen.append(
            {
                "seed": seed,
                "final": evaluations[-1]["return_mean"],
                "final_std_over_episodes": evaluations[-1]["return_std"],
                "best": max(row["return_mean"] for row in evaluations),
                "wall_s": evaluations[-1]["wall_s"],
                "curve": [[row["env_steps"], row["return_mean"]] for row in evaluations],
                "promises": promises(run),
            }
        )
    finals = [float(run["final"]) for run in seen]
    value = statistics.mean(finals) if study.statistic == "mean" else min(finals)
    result = {
        "study": name,
        **asdict(study),
        "preset": recorded["preset"],
        "config": recorded["config"],
        "engine": recorded["engine"],
        "machine": recorded["machine"],
        "runs": seen,
        "final_mean": statistics.mean(finals),
        "final_std_over_seeds": statistics.stdev(finals),
        "reached": None if study.at_least is None else value >= study.at_least,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    verdict = {None: "", True: ": reached", False: ": MISSED"}[result["reached"]]
    print(f"{name}: final {result['final_mean']:,.1f}, goal {study.goal}{verdict}")


def main(studies: tyro.conf.Positional[tuple[str, ...]] = (), jobs: int = 2) -> None:
    """Run studies.

    Args:
        studies: their names; all if left out.
        jobs: runs at a time.
    """
    chosen = {name: STUDIES[name] for name in studies or STUDIES}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            name: [pool.submit(train, name, study, seed) for seed in range(study.seeds)]
            for name, study in chosen.items()
        }
        for name, runs in futures.items():
            collect(name, chosen[name], [run.result() for run in runs])


if __name__ == "__main__":
    tyro.cli(main)
