"""What a cluster costs: eight runs by processes of this machine and by Ray on it; and a look at a thousand runs.

    unshare -n sh -c 'ip link set lo up && exec python benchmarks/cluster.py'     make test-cluster installs Ray

Results go to benchmarks/results/cluster.json, and from there into docs/cluster.md (make docs).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from t3d.execution.jobs import Job
from t3d.execution.processes import Child
from t3d.machine import describe
from t3d.storage.row_lines import as_line

RESULT = Path(__file__).with_name("results") / "cluster.json"
RUNS, STEPS = 8, 2_000
FAKE, ROUNDS, ROWS = 1_000, 20, 30  # runs that only write; looks at all of them; rows that each has at first
OPTIONS = f"--steps {STEPS} --random-steps 200 --eval-every 1000 --eval-episodes 2 --no-video --threads 1"


def trained(place: Path, on: str) -> dict[str, Any]:
    """Return what eight runs take: seconds, and the memory of everything that they started, at most."""
    command = [sys.executable, "-m", "t3d", "train", "Pendulum-v1", "--seeds", str(RUNS), "--jobs", "2", "--on", on]
    began, peak = time.monotonic(), 0
    process = subprocess.Popen([*command, *OPTIONS.split(), "--out", str(place)], stderr=subprocess.DEVNULL)
    first = None
    while process.poll() is None:
        peak = max(peak, family_bytes(process.pid))
        if first is None and any(place.glob("s*/config.json")):
            first = time.monotonic() - began
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"--on {on} ended with {process.returncode}")
    return {"wall_s": time.monotonic() - began, "first_run_s": first, "peak_bytes": peak}


def family_bytes(pid: int) -> int:
    """Return the memory that a process and all it has started have to themselves."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue  # it has just ended
    return total


def a_thousand(place: Path) -> dict[str, Any]:
    """Return what it takes to look at a thousand runs, all of which have written a row since the last look."""
    children, crcs = [], [0] * FAKE
    config = {"seed": 0}
    for number in range(FAKE):
        folder = place / f"s{number}"
        folder.mkdir()
        children.append(Child(Job({}, "td3", {**config, "seed": number}, str(folder))))
        write(folder, crcs, number, range(ROWS))
    for child in children:
        child.look()
    seconds, idle = [], []
    for k in range(ROUNDS):
        for number in range(FAKE):
            write(place / f"s{number}", crcs, number, [ROWS + k])
        began = time.process_time()
        for child in children:
            child.look()
        seconds.append(time.process_time() - began)
        began = time.process_time()
        for child in children:
            child.look()
        idle.append(time.process_time() - began)
    middle = ROUNDS // 2
    return {"runs": FAKE, "look_s": sorted(seconds)[middle], "idle_look_s": sorted(idle)[middle]}


def write(folder: Path, crcs: list[int], number: int, rows: Sequence[int]) -> None:
    """Append rows to a run's log as a run does."""
    with (folder / "metrics.jsonl").open("ab") as log:
        for k in rows:
            row = {"kind": "episode", "env_steps": 200 * (k + 1), "wall_s": float(k), "env": 0, "return": -1.0}
            line, crcs[number] = as_line({**row, "length": 200, "end": "truncated"}, crcs[number])
            log.write(line)


def as_table(result: dict[str, Any]) -> str:
    """Return a result for docs/cluster.md."""
    machine, many = result["machine"], result["thousand"]
    rows = [
        f"| `--on {on}` | {row['first_run_s']:.0f} s | {row['wall_s']:.0f} s | {row['peak_bytes'] / 1e6:,.0f} MB |"
        for on, row in ((on, result[on]) for on in ("local", "ray"))
    ]
    return "\n".join(
        [
            f"| {result['runs']} runs of {result['steps']:,} steps on Pendulum-v1 | until the first began | in all | "
            "memory of all processes, at most |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"A look at {many['runs']:,} runs takes {1e3 * many['look_s']:.0f} ms of processor time where each has "
            f"written a row since the last one, and {1e3 * many['idle_look_s']:.0f} ms where none has. "
            f"{machine['processor']}, {machine['cores']} cores; "
            "[`benchmarks/cluster.py`](../benchmarks/cluster.py) measures it anew.",
            "",
        ]
    )


def main() -> None:
    """Measure everything and write it down."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        trained(place / "warm", "local")  # compiled, and its result thrown away
        result: dict[str, Any] = {"machine": describe(), "runs": RUNS, "steps": STEPS}
        result |= {on: trained(place / on, on) for on in ("local", "ray")}
        (place / "fake").mkdir()
        result["thousand"] = a_thousand(place / "fake")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
