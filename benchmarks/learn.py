"""Does it learn? Train every study, several seeds each: benchmarks/results/learn/<study>/s<seed>.json for each of them.

    python benchmarks/learn.py                             all studies, two runs at a time, one thread each
    python benchmarks/learn.py halfcheetah hopper          some of them
    python benchmarks/learn.py halfcheetah --seeds 5 6     other seeds than the study's own
    python benchmarks/learn.py sb3-hopper --jobs 1         a peer, in .venv-peers (make .venv-peers/installed)
    python benchmarks/learn.py carracing --hours 3         each run is stopped after three hours, wherever it is then
    python benchmarks/learn.py fast-hopper-v4 --jobs 1 --threads 2      one run at a time, on two threads

A seed's file is written the moment it ends, and names the commit it ran on. A seed whose file is there is never run
again; one that was interrupted goes on where it was. `python docs/build.py` makes docs/results.md from the files.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from t3d.training.randomness import evaluation_seed

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "learn"
RUNS = HERE.parent / "runs" / "benchmarks"
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True)
class Study:
    """One environment, one set of options, several seeds."""

    env: str
    steps: int
    seeds: int  # how many, if nobody asks for others
    goal: str  # for people
    statistic: str = "mean"  # what must reach `at_least`: the mean over seeds, or the least seed
    at_least: float | None = None  # None where the study is there to be compared with another
    options: dict[str, str] = field(default_factory=dict)
    script: str | None = None  # of the repository, that trains in place of the command t3d train
    peer: str | None = None  # of benchmarks/peers, that trains another library
    beside: str | None = None  # the study that a peer is compared with
    seconds: float | None = None  # of a peer, after which it ends
    evaluated: tuple[int, int] = (10_000, 10)  # of a peer: every so many env steps, in so many episodes
    first_seed: int = 0


_STOPPED = 128 + signal.SIGTERM
FAST = {"preset": "fast"}
# At full width: what costs at most three times TD3's update.
TD7 = {"preset": "td7", "batch-size": "128", "climb": "q1", "pre-tanh-weight": "1e-5"}
AS_GOOD = "as good as td3"  # the goal of studies that are to show no harm
RARELY = {"eval-every": "25_000"}
PIXELS = {"pixels": ""}
CAR_RACING = {"action-repeat": "4", "env-workers": "1", "eval-every": "10_000"}
STUDIES = {
    "inverted-pendulum": Study("InvertedPendulum-v5", 20_000, 5, "every seed >= 950", "least", 950),
    "pendulum": Study("Pendulum-v1", 20_000, 5, "mean >= -200", at_least=-200),
    "halfcheetah": Study("HalfCheetah-v5", 100_000, 5, "mean >= 4,000", at_least=4000),
    "halfcheetah-eager": Study("HalfCheetah-v5", 100_000, 6, "compare engines", options={"engine": "eager"}),
    "halfcheetah-layer-norm": Study(
        "HalfCheetah-v5", 100_000, 3, "compare a normalised critic", options={"layer-norm": "critic"}
    ),
    "halfcheetah-batch-128": Study(
        "HalfCheetah-v5", 100_000, 3, "compare half the batch", options={"batch-size": "128"}
    ),
    "hopper": Study("Hopper-v5", 100_000, 5, "what is seen"),
    "hopper-one-critic": Study("Hopper-v5", 100_000, 5, "compare one critic", script="examples/one_critic.py"),
    "ant-bullet": Study("AntBulletEnv-v0", 100_000, 5, "mean >= 350", at_least=350),
    "sb3-halfcheetah": Study(
        "HalfCheetah-v5", 100_000, 5, "compare Stable-Baselines3", peer="learn_sb3.py", beside="halfcheetah"
    ),
    "sb3-hopper": Study("Hopper-v5", 100_000, 5, "compare Stable-Baselines3", peer="learn_sb3.py", beside="hopper"),
    "fast-halfcheetah": Study("HalfCheetah-v5", 100_000, 5, "mean >= 9,000", at_least=9000, options=FAST),
    "fast-halfcheetah-v4": Study("HalfCheetah-v4", 300_000, 5, "score", options=FAST),
    "fast-hopper-v4": Study("Hopper-v4", 300_000, 5, "score", options=FAST),
    "fast-walker2d-v4": Study("Walker2d-v4", 300_000, 5, "score", options=FAST),
    "fast-ant-v4": Study("Ant-v4", 300_000, 5, "score", options=FAST),
    "td7-halfcheetah-v4": Study("HalfCheetah-v4", 300_000, 2, "mean >= 11,273", at_least=11_273, options=TD7),
    "td7-walker2d-v4": Study("Walker2d-v4", 300_000, 2, "mean >= 4,034", at_least=4_034, options=TD7),
    "fast-ant-bullet": Study("AntBulletEnv-v0", 500_000, 5, "mean >= 2,963", at_least=2963, options=FAST | RARELY),
    "fast-halfcheetah-bullet": Study(
        "HalfCheetahBulletEnv-v0", 500_000, 5, "mean >= 2,322", at_least=2322, options=FAST | RARELY
    ),
    "fast-walker2d-bullet": Study(
        "Walker2DBulletEnv-v0", 500_000, 5, "mean >= 1,800", at_least=1800, options=FAST | RARELY
    ),
    "pixels-pendulum": Study("Pendulum-v1", 30_000, 5, "mean >= -250", at_least=-250, options=PIXELS),
    "sb3-pixels-pendulum": Study(
        "Pendulum-v1",
        30_000,
        2,
        "compare Stable-Baselines3",
        peer="learn_sb3_pixels.py",
        beside="pixels-pendulum",
        seconds=3_600,
        evaluated=(1_000, 5),
    ),
    "pixels-halfcheetah": Study(
        "HalfCheetah-v5", 120_000, 1, "what is seen", options=PIXELS | {"eval-every": "10_000"}
    ),
    "carracing": Study("CarRacing-v3", 120_000, 1, "what is seen", options=CAR_RACING),
    "fast-pendulum": Study("Pendulum-v1", 20_000, 5, AS_GOOD, at_least=-200, options=FAST),
    "fast-inverted-pendulum": Study("InvertedPendulum-v5", 20_000, 5, AS_GOOD, "least", at_least=950, options=FAST),
}
# The screen of cheap changes to plain TD3 at half the batch: groups first, taken apart where one helps. With seeds of
# their own, since what is kept by them is confirmed by others.
SCREEN = "screen"  # its studies' goal
SCREENED = {
    "plain": "",
    "norm": "norm",
    "td7s": "norm lap copies clamp",
    "draw": "norm nstep recency",
    "elu": "norm elu",
    "lap": "norm lap",
    "copies": "norm copies",
    "nstep": "norm nstep",
    "recency": "norm recency",
}
for _name, _levers in SCREENED.items():
    for _env in ("HalfCheetah-v4", "Walker2d-v4"):
        STUDIES[f"screen-{_name}-{_env.lower()}"] = Study(
            _env,
            100_000,
            3,
            SCREEN,
            options={"batch-size": "128"} | ({"levers": _levers} if _levers else {}),
            script="benchmarks/levers.py" if _levers else None,
            first_seed=100,
        )


def train(name: str, study: Study, seed: int, threads: int, hours: float | None = None) -> None:
    """Train one seed in a process of its own, and write what was seen, unless that is there already."""
    result = RESULTS / name / f"s{seed}.json"
    if result.exists():
        return
    began, commit = time.monotonic(), _commit()
    result.parent.mkdir(parents=True, exist_ok=True)
    run = RUNS / name / f"s{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    of_peer = run.with_suffix(".json")
    command = _of_peer(study, seed, of_peer) if study.peer else _of_t3d(study, seed, threads, run)
    processor_s = _run(command, run.with_suffix(".log"), hours)
    told = json.loads(of_peer.read_text()) if study.peer else _seen(run)
    part = result.with_suffix(".part")
    part.write_text(
        json.dumps({"study": name, "seed": seed, "commit": commit, "processor_s": processor_s, **told}, indent=1) + "\n"
    )
    part.rename(result)
    print(f"{name} seed {seed}: {time.monotonic() - began:,.0f} s, {told['final']:,.0f}", flush=True)


def _run(command: list[str], log: Path, hours: float | None) -> float:
    """Run it, and return the seconds of processor time that it and its own processes took, earlier tries included.

    After so many hours it is stopped, which saves it.
    """
    counted = "processor seconds of this try: "
    with log.open("a") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out)
        timer = threading.Timer(3_600 * (hours or 0), child.terminate)
        if hours is not None:
            timer.start()
        _, status, used = os.wait4(child.pid, 0)
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        print(f"{counted}{used.ru_utime + used.ru_stime:.0f}", file=out)
    if child.returncode and (hours is None or child.returncode != _STOPPED):
        raise SystemExit(f"{log} tells why this ended with {child.returncode}: {' '.join(command)}")
    tries = [line.removeprefix(counted) for line in log.read_text().splitlines() if line.startswith(counted)]
    return float(sum(map(int, tries)))


def _commit() -> str:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"


def _of_t3d(study: Study, seed: int, threads: int, run: Path) -> list[str]:
    options = {"steps": str(study.steps), "seed": str(seed), "threads": str(threads), **study.options, "out": str(run)}
    flags = [part for flag, value in options.items() for part in (f"--{flag}", *value.split())]
    if study.script is not None:
        return [sys.executable, str(HERE.parent / study.script), study.env, *flags]
    t3d = str(Path(sys.executable).with_name("t3d"))
    return [t3d, "train", study.env, *flags, "--no-video", "--resume", "auto"]


def _of_peer(study: Study, seed: int, result: Path) -> list[str]:
    """Return the command of a peer, which is evaluated from the very seeds of t3d's own evaluations."""
    every, episodes = study.evaluated
    seeds = [evaluation_seed(seed, k) for k in range(episodes)]
    job = {"env": study.env, "seed": seed, "steps": study.steps, "eval_every": every, "eval_seeds": seeds}
    job |= {} if study.seconds is None else {"seconds": study.seconds}
    return [str(PEERS_PYTHON), str(HERE / "peers" / str(study.peer)), json.dumps(job), str(result)]


def _seen(run: Path) -> dict[str, Any]:
    """Return what a run that has ended says of itself."""
    recorded, evaluations = json.loads((run / "config.json").read_text()), _rows(run, "evaluation")
    told = ("env_steps", "obtained", "q1_bias", "min_q_bias")
    # Of each evaluation: env steps, what was obtained, the bias of Q1 and of the least critic.
    promises = [[row[name] for name in told] for row in _rows(run, "health") if row["of"] == "evaluation"]
    return {
        "final": evaluations[-1]["return_mean"],
        "final_std_over_episodes": evaluations[-1]["return_std"],
        "best": max(row["return_mean"] for row in evaluations),
        "wall_s": _rows(run)[-1]["wall_s"],
        "curve": [[row["env_steps"], row["return_mean"]] for row in evaluations],
        "curve_wall_s": [row["wall_s"] for row in evaluations],
        **_of_each_policy(evaluations),
        "promises": promises,
        **{name: recorded[name] for name in ("env", "preset", "config", "engine", "machine")},
    }


def _of_each_policy(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the curve of each of td7's two policies; `curve` is that of the better one at each evaluation."""
    names = [name for name in evaluations[0] if name.startswith("returns_")]
    return {
        name.replace("returns", "curve"): [[row["env_steps"], statistics.fmean(row[name])] for row in evaluations]
        for name in names
    }


def _rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if kind in (None, row["kind"])]


def main(
    studies: tyro.conf.Positional[tuple[str, ...]] = (),
    seeds: tuple[int, ...] = (),
    jobs: int = 2,
    threads: int = 1,
    hours: float | None = None,
) -> None:
    """Run studies.

    Args:
        studies: their names; all if left out.
        seeds: of each of them; the study's own if left out.
        jobs: runs at a time.
        threads: of each run of t3d.
        hours: after which each run of t3d is stopped, and told of as far as it is; to the end if left out.
    """
    chosen = {name: STUDIES[name] for name in studies or STUDIES}
    if any(study.peer for study in chosen.values()) and not PEERS_PYTHON.exists():
        raise SystemExit(
            f"{PEERS_PYTHON} does not exist: run make bench, or make .venv-peers/installed, which builds it"
        )
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [
            pool.submit(train, name, study, seed, threads, hours)
            for name, study in chosen.items()
            for seed in seeds or range(study.first_seed, study.first_seed + study.seeds)
        ]
        for one in waiting:
            one.result()


if __name__ == "__main__":
    tyro.cli(main)
