"""What a frame costs that is learned from with --pixels, and what the same frame costs as Gymnasium draws it.

Each environment is measured in a process of its own: what one has drawn with slows nothing down in another. Results go
to benchmarks/results/frames.json.

    python benchmarks/frames.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from t3d.env_spec import EnvSpec, View
from t3d.environments.make import make
from t3d.machine import describe

HERE = Path(__file__).resolve()
ENVS = ("HalfCheetah-v5", "InvertedPendulum-v5", "Pendulum-v1", "CarRacing-v3")
SIZE = View().frame_size
FRAMES, ROUNDS = 50, 5


def cpu_ms(env: gymnasium.Env[Any, Any], draw: Callable[[], Any]) -> float:
    """Return the median over some rounds of the CPU time that a frame takes, in ms, each after a random step."""
    env.action_space.seed(0)
    env.reset(seed=0)
    draw()
    rounds = []
    for _ in range(ROUNDS):
        took = 0.0
        for _ in range(FRAMES):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
            began = time.process_time()
            draw()
            took += time.process_time() - began
        rounds.append(1000 * took / FRAMES)
    return round(statistics.median(rounds), 3)


def measure(name: str) -> dict[str, Any]:
    """Return what a frame of one environment costs, in t3d's way; of MuJoCo's also in Gymnasium's, at the same size."""
    seen = make(EnvSpec(name, pixels=True))
    row = {"env": name, "size": list(seen.observation_space.shape or ()), "drawn_by": seen.get_wrapper_attr("drawn_by")}
    row["cpu_ms"] = cpu_ms(seen, seen.get_wrapper_attr("picture"))
    seen.close()
    if hasattr(seen.unwrapped, "mujoco_renderer"):
        camera = {"camera_name": "track", "width": SIZE, "height": SIZE}
        plain = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True, **camera)
        row["gymnasium_cpu_ms"] = cpu_ms(plain, plain.render)
        plain.close()
    return row


def as_table(content: dict[str, Any]) -> str:
    """Return the results as a table of Markdown."""
    lines = ["| environment | frame | ms of CPU | as Gymnasium draws it at that size |", "|---|---|---:|---:|"]
    for row in content["rows"]:
        height, width, _ = row["size"]
        theirs = f"{row['gymnasium_cpu_ms']:.1f}" if "gymnasium_cpu_ms" in row else "the same"
        lines.append(f"| {row['env']} | {width} x {height} | {row['cpu_ms']:.1f} | {theirs} |")
    machine = content["machine"]
    drawn_by = next(row["drawn_by"] for row in content["rows"] if "gymnasium_cpu_ms" in row)
    lines += ["", f"{machine['processor']}, {machine['cores']} cores; MuJoCo by {drawn_by}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    rows = []
    for name in ENVS:
        said = subprocess.run([sys.executable, HERE, name], check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(said.splitlines()[-1]))
        print(rows[-1], flush=True)
    content = {"machine": describe(), "rows": rows}
    (HERE.parent / "results" / "frames.json").write_text(json.dumps(content, indent=2) + "\n")
    print(as_table(content))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
