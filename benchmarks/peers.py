"""How fast do t3d and its peers train? The same jobs, in turns, on this machine; into benchmarks/results/peers.json.

    make bench-peers                                         all of it, about half an hour; leave the machine alone
    python benchmarks/peers.py --rounds 1 --jobs pendulum    a part
    python benchmarks/peers.py --jobs images --out benchmarks/results/peers_images.json

Every measurement is a process of its own (a worker of benchmarks/peers/): random steps, compilation and some hundred
updates first, then env steps with an update each, under the clock; without evaluation and logging. Each library is
measured with one thread and with two and judged by its better one. t3d runs in this environment, the peers in
.venv-peers, with equal versions of PyTorch, NumPy, Gymnasium and MuJoCo.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

from t3d.config import Config, TD3Config
from t3d.engines.choose import choose_threads
from t3d.machine import describe, usable_cores
from t3d.spaces import Spaces

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "peers"))
from job import Job  # noqa: E402

LIMIT_S = 1_800  # for one measurement, which takes a minute
JOBS = {
    "halfcheetah": Job(env="HalfCheetah-v5", hidden=(256, 256), batch_size=256, steps=3_000),
    "pendulum": Job(env="Pendulum-v1", hidden=(64, 64), batch_size=100, steps=10_000),
    # Three grey frames of 84x84; a peer's buffer of a million of them would take 42 GB.
    "images": Job(
        env="noise of 84x84 pixels",
        hidden=(256, 256),
        batch_size=128,
        steps=60,
        random_steps=4_000,
        warm_updates=20,
        buffer_size=10_000,
        images=True,
    ),
}
OF_VECTORS = ("halfcheetah", "pendulum")
SIZES = {"HalfCheetah-v5": (17, 6), "Pendulum-v1": (3, 1)}  # of an observation and an action
LIBRARIES = {  # name in the package index: label, worker
    "t3d": ("t3d", "run_t3d.py"),
    "stable-baselines3": ("Stable-Baselines3", "run_sb3.py"),
    "sbx-rl": ("SBX", "run_sb3.py"),
    "rltools": ("RLtools", "run_rltools.py"),
}


def measure(library: str, job: Job, peers_python: Path) -> dict[str, Any]:
    """Run a job in a process of its own.

    Returns:
        What the worker printed, or {"skipped": reason} where a peer cannot run.

    Raises:
        RuntimeError: t3d cannot run.
        subprocess.TimeoutExpired: it hangs.
    """
    by_threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # XLA reads NPROC
    variables = {**dict.fromkeys(by_threads, str(job.threads)), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false" if job.threads == 1 else ""
    python = sys.executable if library == "t3d" else str(peers_python)
    command = [python, str(HERE / "peers" / LIBRARIES[library][1]), json.dumps(asdict(job)), library]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    if library == "t3d":
        raise RuntimeError(f"t3d failed:\n{done.stderr}")
    print(done.stdout + done.stderr, file=sys.stderr)
    return {"skipped": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}


def measure_in_turns(name: str, jobs: list[Job], peers_python: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure every library on each job, one library after the other, so that drift hits all alike."""
    seen: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    for turn, job in enumerate(jobs, 1):
        for library, rows in seen.items():
            if not rows or "skipped" not in rows[-1]:
                row = measure(library, job, peers_python)
                rows.append(row)
                said = "skipped: {skipped}" if "skipped" in row else "{steps_per_s:8,.0f} env steps/s, {blas}"
                where = f"{name} {turn}/{len(jobs)}, {job.threads} thread(s), {LIBRARIES[library][0]:17}"
                print(where, said.format(**row), flush=True)
    return seen


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a library's medians over the rounds by thread count, the better one, and every measurement."""
    if "skipped" in rows[-1]:
        return dict(rows[-1])
    rates: dict[int, list[float]] = {}
    for row in rows:
        rates.setdefault(row["threads"], []).append(row["steps_per_s"])
    medians = {threads: statistics.median(values) for threads, values in rates.items()}
    best = max(medians, key=lambda threads: medians[threads])
    varies = ("threads", "seconds", "steps_per_s", "cores_busy")
    return {
        **{key: value for key, value in rows[0].items() if key not in varies},
        "threads": best,
        "steps_per_s": medians[best],
        "median_by_threads": medians,
        "measurements": [{key: row[key] for key in varies} for row in rows],
    }


def table(result: dict[str, Any]) -> str:
    """Return what stands in benchmarks/results/peers.json as a Markdown table: libraries by jobs."""
    jobs = list(result["jobs"].values())
    head = "| Library |"
    for job in jobs:
        head += f" {job['env']}, {'-'.join(map(str, job['hidden']))}, batch {job['batch_size']} | t3d over it |"
    lines = [head, "|---|" + "---:|" * (2 * len(jobs))]
    for library, (label, _) in LIBRARIES.items():
        line = f"| {label} |"
        for job in jobs:
            row = job["libraries"][library]
            if "skipped" in row:
                line += " skipped | |"
            else:
                line += f" {row['steps_per_s']:,.0f} ({row['threads']} thread{'s' * (row['threads'] > 1)}) |"
                line += " |" if library == "t3d" else f" {row['t3d_over_it']:.2f}x |"
        lines.append(line)
    machine, rows = result["machine"], jobs[0]["libraries"]
    versions = [f"{LIBRARIES[name][0]} {row['version']}" for name, row in rows.items() if "version" in row]
    lines += [
        "",
        f"Env steps/s of training, one update each: median of {result['rounds']} rounds, at the best of "
        f"{' or '.join(map(str, result['threads']))} threads. {machine['processor']}, {machine['cores']} cores, "
        f"{result['began'][:10]}; {', '.join(versions)}. On Pendulum-v1 RLtools steps its own pendulum, in C++.",
    ]
    lines += ["", by_default(result)]
    return "\n".join(lines) + "\n"


def table_of_images(result: dict[str, Any]) -> str:
    """Return what the job of images came to as a Markdown table: an update, and what a transition takes."""
    job, machine = result["jobs"]["images"], result["machine"]
    rows = {name: row for name, row in job["libraries"].items() if "skipped" not in row}
    lines = ["| library | an env step with its update | cores busy | a transition in memory |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        for threads, rate in row["median_by_threads"].items():
            busy = statistics.median(one["cores_busy"] for one in row["measurements"] if one["threads"] == int(threads))
            lines.append(
                f"| {LIBRARIES[name][0]} {row['version']}, {threads} thread{'s' * (int(threads) > 1)} "
                f"| {1e3 / rate:,.0f} ms | {busy:.1f} | {row['resident_bytes_per_row']:,.0f} bytes |"
            )
    ours, peer = (rows[name]["resident_bytes_per_row"] for name in ("t3d", "stable-baselines3"))
    hidden, (empty, full) = "-".join(map(str, job["hidden"])), JOBS["images"].filling
    lines += [
        "",
        f"Three grey frames of 84x84 pixels, batches of {job['batch_size']}, {hidden} behind each library's own "
        f"encoder; median of {result['rounds']} rounds in turns. Memory is what the process held more after "
        f"{full - empty:,} random steps had filled its replay, a step: t3d's is {ours / peer:.2f} of the peer's. "
        f"{machine['processor']}, {machine['cores']} cores, {result['began'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def by_default(result: dict[str, Any]) -> str:
    """Return a sentence on t3d with the threads that it chooses by itself, and on its peers where that is not its best.

    Args:
        result: what stands in benchmarks/results/peers.json; of a job not measured with those threads nothing is said.
    """
    parts = []
    for job in result["jobs"].values():
        spaces = Spaces.of_vectors(*SIZES[job["env"]])
        config = Config(batch_size=job["batch_size"], td3=TD3Config(hidden=tuple(job["hidden"])))
        threads = choose_threads(spaces, config, result["machine"]["cores"])
        ours = job["libraries"]["t3d"]
        rate = {int(count): median for count, median in ours["median_by_threads"].items()}.get(threads)
        if rate is None:
            continue
        said = f"{threads} thread{'s' * (threads > 1)}"
        if threads != ours["threads"]:
            peers = {LIBRARIES[name][0]: row for name, row in job["libraries"].items() if name != "t3d"}
            ratios = [f"{rate / row['steps_per_s']:.2f}x {name}" for name, row in peers.items() if "skipped" not in row]
            said += f": {', '.join(ratios)}"
        parts.append(f"{rate:,.0f} on {job['env']} ({said})")
    return f"With the threads that `--threads auto` chooses on this machine, t3d reaches {' and '.join(parts)}."


def main(
    jobs: tuple[str, ...] = OF_VECTORS,
    rounds: int = 3,
    threads: tuple[int, ...] = (1, 2),
    steps: int | None = None,
    warm_updates: int | None = None,
    engine: str | None = None,
    peers_python: Path = HERE.parent / ".venv-peers" / "bin" / "python",
    out: Path = HERE / "results" / "peers.json",
) -> None:
    """Measure t3d and its peers in turns.

    Args:
        jobs: which jobs: halfcheetah, pendulum, images.
        rounds: how often every library takes its turn with each thread count.
        threads: thread counts to try; more than this process may use are left out.
        steps: env steps under the clock; 3,000 of HalfCheetah, 10,000 of Pendulum and 60 of images if left out.
        warm_updates: updates before the clock starts; 500, and 20 of images, if left out.
        engine: t3d's engine; its own choice if left out.
        peers_python: the interpreter that has the peers.
        out: where the result goes.
    """
    if not peers_python.exists():
        raise SystemExit(f"{peers_python} does not exist: run make bench-peers, which builds it")
    threads = tuple(count for count in threads if count <= usable_cores())
    result: dict[str, Any] = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "machine": describe()}
    result |= {"load_average": os.getloadavg(), "rounds": rounds, "threads": threads, "jobs": {}}
    print(f"load average before the start: {result['load_average'][0]:.1f}", flush=True)
    for name in jobs:
        given = {"steps": steps, "warm_updates": warm_updates, "engine": engine}
        job = replace(JOBS[name], **{key: value for key, value in given.items() if value is not None})
        turns = [replace(job, threads=count) for _ in range(rounds) for count in threads]
        libraries = {key: summary(rows) for key, rows in measure_in_turns(name, turns, peers_python).items()}
        for row in libraries.values():
            if "skipped" not in row:
                row["t3d_over_it"] = libraries["t3d"]["steps_per_s"] / row["steps_per_s"]
            if "replay_bytes_per_row" in row:
                print(f"{name}: replay of {row['library']}: {row['replay_bytes_per_row']:.0f} bytes a row")
        result["jobs"][name] = {**asdict(job), "threads": threads, "libraries": libraries}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    if of_vectors := {name: job for name, job in result["jobs"].items() if not job["images"]}:
        print("\n" + table({**result, "jobs": of_vectors}))
    if "images" in result["jobs"]:
        print("\n" + table_of_images(result))


if __name__ == "__main__":
    tyro.cli(main)
