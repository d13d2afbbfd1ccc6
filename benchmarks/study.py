"""A study of t3d tune that is killed ten times on the way, and what it found: benchmarks/results/tune/<name>.json.

    python benchmarks/study.py pendulum      half an hour on two cores
    python benchmarks/study.py inverted

The command is killed with SIGKILL again and again, and given once more each time: it goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from t3d.machine import describe
from t3d.reports.page import gather

HERE = Path(__file__).resolve().parent
KILLS = 10


class Study(NamedTuple):
    """What is searched, and how long the command lives before it is killed."""

    words: str
    lives_s: float


STUDIES = {
    "pendulum": Study("Pendulum-v1 --trials 60 --steps 10_000 --seeds 3 --confirm 10", 90),
    "inverted": Study("InvertedPendulum-v5 --trials 60 --steps 10_000 --seeds 3 --confirm 10", 120),
}


def main(name: tyro.conf.Positional[str], out: Path = Path("runs/studies"), jobs: int = 2) -> None:
    """Run a study to its end.

    Args:
        name: pendulum, or inverted.
        out: where its folder is; it must not be there yet.
        jobs: runs at a time.
    """
    study, folder = STUDIES[name], out / name
    if folder.exists():
        raise SystemExit(f"{folder} is there: a study that is timed begins anew")
    out.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "t3d", "tune", *study.words.split(), "--jobs", str(jobs), "--out", str(folder)]
    began = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        kills, code, said = _run(words, study.lives_s, log)
    wall_s = time.monotonic() - began
    if code:
        raise SystemExit(f"it ended with {code}: see {log.name}")
    place = HERE / "results" / "tune" / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"t3d tune {study.words} --jobs {jobs}",
        "kills": kills,
        "lives_s": study.lives_s,
        "wall_s": round(wall_s, 1),
        "machine": describe(),
        "said": [line.split(maxsplit=1) for line in said.splitlines() if not line.startswith(("preset", "page"))],
        "preset": (folder / "tuned.toml").read_text("utf-8").splitlines(),
        "confirmed": _confirmed(folder / "confirm"),
    }
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _run(words: list[str], lives_s: float, log: Any) -> tuple[int, int, str]:
    """Return how often the command was killed, its exit code, and what it printed at its end."""
    for kills in range(KILLS + 1):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            said, _ = process.communicate(timeout=lives_s if kills < KILLS else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            continue
        return kills, process.returncode, said
    raise AssertionError("the last one is not killed")


def _confirmed(folder: Path) -> dict[str, Any] | None:
    """Return what the fresh seeds of the preset and of the default came to, by name; None if there are none."""
    if not folder.exists():
        return None
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    groups = gather(runs).numbers["groups"]
    return {group["label"]: {"seeds": len(group["runs"]), **group["scores"]} for group in groups}


if __name__ == "__main__":
    tyro.cli(main)
