"""What was learned from pictures, beside the same task from vectors and beside Stable-Baselines3's CNN."""

from __future__ import annotations

import statistics
from typing import Any

Study = dict[str, Any]

SOLVED = -250  # of Pendulum-v1


def section(found: list[Study], peers: list[Study]) -> str:
    """Return the section on Pendulum from pictures; nothing as long as it was not studied.

    Args:
        found: t3d's studies that have results.
        peers: those of other libraries.
    """
    named = {study["study"]: study for study in [*found, *peers]}
    if "pixels-pendulum" not in named:
        return ""
    rows = [
        ("t3d, from vectors", named.get("pendulum")),
        ("t3d, from pictures", named["pixels-pendulum"]),
        ("Stable-Baselines3, from pictures", named.get("sb3-pixels-pendulum")),
    ]
    lines = [
        "| Pendulum-v1 | seeds | frames | final return over seeds | seeds that reach "
        f"{SOLVED} at the end | wall time of a run, at most |",
        "|---|---:|---:|---|---:|---:|",
        *(_row(label, study) for label, study in rows if study is not None),
    ]
    return (
        "## from pictures\n\n"
        "A picture of 64x64 pixels in grey, three at once, in place of the angle and its velocity; `--pixels` hides\n"
        "these. Each action is played for two frames. Stable-Baselines3 sees the same pictures, with the options of\n"
        "its TD3 and CnnPolicy as they come, on one thread for an hour ([learn_sb3_pixels.py]"
        "(../benchmarks/peers/learn_sb3_pixels.py)).\n\n" + "\n".join(lines) + "\n"
    )


def _row(label: str, study: Study) -> str:
    runs = study["runs"]
    finals = [run["final"] for run in runs]
    frames = max(run["curve"][-1][0] * _repeat(run) for run in runs)
    spread = f" ± {statistics.stdev(finals):,.0f}" if len(finals) > 1 else ""
    solved = sum(final >= SOLVED for final in finals)
    minutes = max(run["wall_s"] for run in runs) / 60
    return (
        f"| {label} | {len(runs)} | {frames:,} | {statistics.mean(finals):,.0f}{spread} "
        f"| {solved} of {len(runs)} | {minutes:.0f} min |"
    )


def _repeat(run: dict[str, Any]) -> int:
    return int(run.get("action_repeat") or run.get("config", {}).get("action_repeat", 1))
