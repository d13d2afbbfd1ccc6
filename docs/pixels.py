"""What was learned from pictures, beside the same task from vectors and beside Stable-Baselines3's CNN."""

from __future__ import annotations

import statistics
from typing import Any

Study = dict[str, Any]

SOLVED = -250  # of Pendulum-v1
# What the films show, of studies that were made to see it.
SEEN = {
    "carracing": (
        "It comes round the track at speed, brakes before bends and takes hairpins, in which the best policy of\n"
        "20,000 steps before still spun. One of the last evaluation's five episodes gave less than half.\n"
        "The run was stopped after three hours (`--hours 3`)."
    ),
    "pixels-halfcheetah": (
        "It has thrown itself on its back and pushes itself along with its feet in the air, which pays from the first\n"
        "evaluation on and hardly more later: a local optimum, which it has not left in two hours\n"
        "(`--hours 2`)."
    ),
}


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
        f"| Pendulum-v1 | seeds | frames | final return over seeds | of them at {SOLVED} or above | first evaluation "
        "that was, at the latest | wall time of a run, at most |",
        "|---|---:|---:|---|---:|---:|---:|",
        *(_row(label, study) for label, study in rows if study is not None),
    ]
    peer = (
        "Stable-Baselines3 sees the same pictures, with the options of its TD3 and CnnPolicy as they come, on one\n"
        "thread for an hour ([learn_sb3_pixels.py](../benchmarks/peers/learn_sb3_pixels.py)). All its evaluations are\n"
        "the same: its actor soon pushes to the bound, whatever it sees. The hour fell on a slower machine than t3d's\n"
        "runs: [log.md](log.md) has both, why, and what t3d did there.\n"
    )
    return (
        "## from pictures\n\n"
        "A picture of 64x64 pixels in grey, three at once, in place of the angle and its velocity; `--pixels` hides\n"
        "these. Each action is played for two frames.\n"
        f"{peer if 'sb3-pixels-pendulum' in named else ''}\n" + "\n".join(lines) + "\n"
    )


def task(study: Study) -> str:
    """Return the name of a study's environment, with what is learned from."""
    return f"{study['env']}, from its pictures" if "pixels" in study["options"] else str(study["env"])


def frames(study: Study) -> str:
    """Return the env steps up to a study's last evaluation, and the frames where they are more."""
    steps, repeat = max(run["curve"][-1][0] for run in study["runs"]), _repeat(study["runs"][0])
    return f"{steps:,}" + (f" ({steps * repeat:,} frames)" if repeat > 1 else "")


def _row(label: str, study: Study) -> str:
    runs = study["runs"]
    finals = [run["final"] for run in runs]
    frames = max(run.get("env_steps", run["curve"][-1][0]) * _repeat(run) for run in runs)
    spread = f" ± {statistics.stdev(finals):,.0f}" if len(finals) > 1 else ""
    solved = sum(final >= SOLVED for final in finals)
    first = [next((step * _repeat(run) for step, seen in run["curve"] if seen >= SOLVED), None) for run in runs]
    latest = "never" if None in first else f"{max(filter(None, first)):,} frames"
    minutes = max(run["wall_s"] for run in runs) / 60
    return (
        f"| {label} | {len(runs)} | {frames:,} | {statistics.mean(finals):,.0f}{spread} "
        f"| {solved} of {len(runs)} | {latest} | {minutes:.1f} min |"
    )


def _repeat(run: dict[str, Any]) -> int:
    return int(run.get("action_repeat") or run.get("config", {}).get("action_repeat", 1))
