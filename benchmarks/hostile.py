"""How soon, and in how much memory, hostile run folders are refused: benchmarks/results/hostile.json.

    python benchmarks/hostile.py

Every folder of the tests' corpus is opened with every command that must refuse it, one after another in one process
that has imported everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from t3d.machine import describe

TESTS = Path(__file__).resolve().parents[1] / "tests"
TRAIN = (
    "import sys; from small_runs import train; train(__import__('pathlib').Path(sys.argv[1]), 'Pendulum-v1', n_envs=2)"
)


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", TRAIN, f"{folder}/good"], cwd=TESTS, check=True)
        command = [sys.executable, str(TESTS / "hostile.py"), f"{folder}/good"]
        rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    slowest = max(rows, key=lambda row: float(row["s"]))
    result = {
        "folders": len({row["case"] for row in rows}),
        "openings": len(rows),
        "refused": sum(row["code"] == 2 for row in rows),
        "slowest_s": round(slowest["s"], 3),
        "slowest": f"{slowest['command']}: {slowest['case']}",
        "bytes_above_imports": sum(row["bytes"] for row in rows),
        "machine": describe(),
    }
    print(json.dumps(result, indent=2))
    out = Path(__file__).parent / "results" / "hostile.json"
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
