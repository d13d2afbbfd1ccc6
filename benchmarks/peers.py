"""How fast do t3d and its peers train? The same jobs, in turns, on this machine; into benchmarks/results/peers.json.

    make bench-peers                                         all of it, about half an hour; leave the machine alone
    python benchmarks/peers.py --rounds 1 --jobs pendulum    a part

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

from t3d.machine import describe, usable_cores

HERE = Path(__file__).resolve().parent
WORKERS = HERE / "peers"
sys.path.append(str(WORKERS))
from job import Job  # noqa: E402

RESULT = HERE / "results" / "peers.json"
JOBS = {
    "halfcheetah": Job(env="HalfCheetah-v5", hidden=(256, 256), batch_size=256, steps=3_000),
    "pendulum": Job(env="Pendulum-v1", hidden=(64, 64), batch_size=100, steps=10_000),
}
LABELS = {"t3d": "t3d", "stable-baselines3": "Stable-Baselines3", "sbx-rl": "SBX", "rltools": "RLtools"}
WORKER_OF = {
    "t3d": "run_t3d.py",
    "stable-baselines3": "run_sb3.py",
    "sbx-rl": "run_sb3.py",
    "rltools": "run_rltools.py",
}


def measure(library: str, job: Job, peers_python: Path) -> dict[str, Any]:
    """Run a job in a process of its own.

    Returns:
        What the worker printed, or {"skipped": reason} where a peer cannot run.

    Raises:
        RuntimeError: t3d cannot run.
    """
    threads = str(job.threads)
    variables = {
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), threads),
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false" if job.threads == 1 else "",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    python = sys.executable if library == "t3d" else str(peers_python)
    command = [python, str(WORKERS / WORKER_OF[library]), json.dumps(asdict(job)), library]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if library == "t3d":
        raise RuntimeError(f"t3d failed: {reason}\n{done.stderr}")
    print(done.stdout + done.stderr, file=sys.stderr)
    return {"skipped": reason}


def measure_in_turns(
    name: str, job: Job, rounds: int, threads: tuple[int, ...], peers_python: Path
) -> dict[str, list[dict[str, Any]]]:
    """Measure every library once per round and thread count, one after the other, so that drift hits all alike."""
    seen: dict[str, list[dict[str, Any]]] = {library: [] for library in LABELS}
    for turn in range(rounds):
        for count in threads:
            for library, rows in seen.items():
                if rows and "skipped" in rows[-1]:
                    continue
                row = measure(library, replace(job, threads=count), peers_python)
                rows.append(row)
                said = (
                    f"skipped: {row['skipped']}"
                    if "skipped" in row
                    else f"{row['steps_per_s']:8,.0f} env steps/s, {row['cores_busy']:.2f} cores busy, {row['blas']}"
                )
                print(f"{name}, round {turn + 1}/{rounds}, {count} thread(s), {LABELS[library]:17} {said}", flush=True)
    return seen


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a library's medians over the rounds per thread count, and its better thread count."""
    if "skipped" in rows[-1]:
        return {"skipped": rows[-1]["skipped"]}
    rates: dict[int, list[float]] = {}
    for row in rows:
        rates.setdefault(row["threads"], []).append(row["steps_per_s"])
    medians = {count: statistics.median(values) for count, values in rates.items()}
    best = max(medians, key=lambda count: medians[count])
    kept = ("version", "versions", "blas", "engine", "compiler", "replay_bytes_per_row")
    return {
        **{key: rows[0][key] for key in kept if key in rows[0]},
        "threads": best,
        "steps_per_s": medians[best],
        "steps_per_s_by_threads": medians,
        "measurements": [
            {key: row[key] for key in ("threads", "steps_per_s", "seconds", "cores_busy")} for row in rows
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table: libraries by jobs.

    Args:
        result: what stands in benchmarks/results/peers.json.
    """
    jobs = list(result["jobs"].values())
    heads = [f"{job['env']}, {'-'.join(map(str, job['hidden']))}, batch {job['batch_size']}" for job in jobs]
    lines = [
        "| Library | " + " | ".join(f"{head}: env steps/s | t3d is faster by" for head in heads) + " |",
        "|---|" + "---:|" * (2 * len(jobs)),
    ]
    for library, label in LABELS.items():
        cells = []
        version = ""
        for job in jobs:
            row = job["libraries"][library]
            if "skipped" in row:
                cells += ["-", "-"]
                continue
            version = row["version"]
            cells.append(f"{row['steps_per_s']:,.0f} ({row['threads']} thread{'s' * (row['threads'] > 1)})")
            cells.append("" if library == "t3d" else f"{row['t3d_faster_by']:.2f}x")
        lines.append(f"| {label} {version} | " + " | ".join(cells) + " |")
    machine = result["machine"]
    lines += [
        "",
        f"Median of {result['rounds']} rounds, the better of {' and '.join(map(str, result['threads']))} threads, "
        f"on {machine['processor']}, {machine['cores']} cores, {result['began'][:10]}. "
        "One update per env step. On Pendulum-v1 RLtools steps its own pendulum, in C++.",
    ]
    return "\n".join(lines) + "\n"


def main(
    jobs: tuple[str, ...] = tuple(JOBS),
    rounds: int = 3,
    threads: tuple[int, ...] = (1, 2),
    steps: int | None = None,
    warm_updates: int = 500,
    engine: str | None = None,
    peers_python: Path = HERE.parent / ".venv-peers" / "bin" / "python",
    out: Path = RESULT,
) -> None:
    """Measure t3d and its peers in turns.

    Args:
        jobs: which jobs: halfcheetah, pendulum.
        rounds: how often every library takes its turn with each thread count.
        threads: thread counts to try; more than this process may use are left out.
        steps: env steps under the clock; 3,000 of HalfCheetah and 10,000 of Pendulum if left out.
        warm_updates: updates before the clock starts.
        engine: t3d's engine; its own choice if left out.
        peers_python: the interpreter that has the peers.
        out: where the result goes.
    """
    if not peers_python.exists():
        raise SystemExit(f"{peers_python} does not exist: run make bench-peers, which builds it")
    counts = tuple(count for count in threads if count <= usable_cores())
    result: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "load_average": os.getloadavg(),
        "rounds": rounds,
        "threads": counts,
        "jobs": {},
    }
    print(f"load average before the start: {result['load_average'][0]:.1f}", flush=True)
    for name in jobs:
        job = replace(JOBS[name], steps=steps or JOBS[name].steps, warm_updates=warm_updates, engine=engine)
        seen = measure_in_turns(name, job, rounds, counts, peers_python)
        libraries = {library: summary(rows) for library, rows in seen.items()}
        for row in libraries.values():
            if "skipped" not in row:
                row["t3d_faster_by"] = libraries["t3d"]["steps_per_s"] / row["steps_per_s"]
        result["jobs"][name] = {key: value for key, value in asdict(job).items() if key != "threads"}
        result["jobs"][name]["libraries"] = libraries
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n" + table(json.loads(out.read_text())))
    for name, job in result["jobs"].items():
        sizes = {key: row.get("replay_bytes_per_row") for key, row in job["libraries"].items()}
        print(
            f"{name}: replay, bytes a row: "
            + ", ".join(f"{LABELS[key]} {size:.0f}" for key, size in sizes.items() if size)
        )


if __name__ == "__main__":
    tyro.cli(main)
