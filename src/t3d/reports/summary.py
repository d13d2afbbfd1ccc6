"""The numbers of a report: what `t3d report --json` prints and the page shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from t3d.reports import published, statistics, wording
from t3d.reports.grouping import EVALUATIONS, Group
from t3d.reports.read_runs import Run

# Each score of a seed, and how it is called wherever it is shown.
SCORES = {
    "final": "final",
    "area": "area under the curve",
    "best": "best (maximum over time, flatters)",
}


def summarize(groups: Sequence[Group]) -> dict[str, Any]:
    """Return every number about some groups, as JSON allows: finite numbers, texts, lists, None."""
    return {
        "method": {
            "confidence": statistics.CONFIDENCE,
            "resamples": statistics.RESAMPLES,
            "bootstrap_seed": statistics.BOOTSTRAP_SEED,
            "fewest_seeds": statistics.FEWEST_SEEDS,
            "scores": SCORES,
        },
        "groups": [_group(group) for group in groups],
        "comparisons": _comparisons(groups),
        "best_of": _best_of(groups),
    }


def _group(group: Group) -> dict[str, Any]:
    scores = _scores(group)
    return {
        "env": group.env,
        "label": group.label,
        "trained": wording.trained(group.runs[0]),
        "measured": group.measured,
        "differing": group.differing,
        "runs": [
            {
                "path": str(run.path),
                "seed": run.seed,
                "env_steps": run.env_steps,
                "finished": run.finished,
                "wall_s": run.wall_s,
                **{name: float(values[i]) for name, values in scores.items()},
                "best_env_steps": best_env_steps(run),
                **(run.last_actions.row() if run.last_actions else {}),
            }
            for i, run in enumerate(group.runs)
        ],
        "action_repeat": group.action_repeat,
        "env_steps": list(group.env_steps),
        "frames": list(group.frames),
        "curve": {
            "mean": _lists(statistics.mean(group.returns)),
            "iqm": _lists(_middle(group.returns)),
        },
        "scores": {name: _score(values) for name, values in scores.items()},
        "baseline": _baseline(group),
        "coverage": coverage(len(group.runs)),
        "references": [_reference(reference, group) for reference in _published(group)],
        "notes": [*(f"Seed {run.seed}: {note}" for run in group.runs for note in run.notes), *group.notes],
    }


def _scores(group: Group) -> dict[str, statistics.Floats]:
    return {
        "final": group.returns[:, -1],
        "area": statistics.area(group.env_steps, group.returns),
        "best": group.returns.max(axis=1),
    }


def best_env_steps(run: Run) -> int:
    """Return when a run's curve was at its best; the first of equals, which is the policy kept."""
    curve = run.curve
    return max(curve, key=lambda step: (curve[step], -step))


def _score(values: statistics.Floats) -> dict[str, Any]:
    return {
        "mean": _interval(statistics.mean(values[:, None])),
        "iqm": _interval(_middle(values[:, None])),
    }


def _middle(values: statistics.Floats) -> statistics.Band | None:
    return statistics.interquartile_mean(values) if len(values) >= statistics.FEWEST_SEEDS else None


def _baseline(group: Group) -> dict[str, Any] | None:
    """Compare the final return with one that took no learning, seed by seed.

    That is what random actions got while the replay was filled, or an evaluation before the first update: whichever
    was the better over all seeds. None unless every seed has one of them.
    """
    baselines: dict[str, statistics.Floats] = {}
    if all(run.random_returns for run in group.runs):
        baselines["random actions"] = np.array([np.mean(run.random_returns) for run in group.runs])
    if all(run.untrained_returns for run in group.runs):
        baselines["the untrained policy"] = np.array([np.mean(run.untrained_returns) for run in group.runs])
    if not baselines:
        return None
    what = max(baselines, key=lambda name: float(baselines[name].mean()))
    return {
        "what": what,
        "mean": _interval(statistics.mean(baselines[what][:, None])),
        "gain": _interval(statistics.mean((group.returns[:, -1] - baselines[what])[:, None])),
    }


def _reference(reference: published.Reference, group: Group) -> dict[str, Any]:
    last = group.frames[-1]
    return {**reference._asdict(), "frames": last, "there": published.at(reference, last)}


def _published(group: Group) -> list[published.Reference]:
    # With arguments or wrappers it is not the environment that was published, and what was published are evaluations.
    alike = group.runs[0].spec.is_plain and group.measured == EVALUATIONS
    return published.find(group.env) if alike else []


def _comparisons(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compare the first group of each environment with its others, after equally many frames.

    Equal pairs of labels are pooled.
    """
    compared: list[dict[str, Any]] = []
    parts: dict[tuple[str, str], list[tuple[str, statistics.Interval]]] = {}
    for env in dict.fromkeys(group.env for group in groups):
        first, *others = [group for group in groups if group.env == env]
        for other in others:
            frames = max(set(first.frames) & set(other.frames), default=None)
            if frames is None or first.measured != other.measured:
                continue
            ends = [group.returns[:, group.frames.index(frames)] for group in (first, other)]
            seen = statistics.compare(*ends)
            parts.setdefault((first.label, other.label), []).append((env, seen.improvement))
            compared.append(
                {
                    "env": env,
                    "first": first.label,
                    "second": other.label,
                    "frames": frames,
                    "repeated": first.action_repeat != 1 or other.action_repeat != 1,
                    "seeds": [len(end) for end in ends],
                    **seen._asdict(),
                    "mean": seen.mean._asdict(),
                    "improvement": seen.improvement._asdict(),
                }
            )
    pooled = [
        {
            "envs": [env for env, _ in pairs],
            "first": first,
            "second": second,
            "improvement": statistics.pooled_improvement([part for _, part in pairs])._asdict(),
        }
        for (first, second), pairs in parts.items()
        if len(pairs) > 1
    ]
    return compared + pooled


def _best_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return of each environment with several groups which did best, and by how much its mean flatters."""
    entries: list[dict[str, Any]] = []
    for env in dict.fromkeys(group.env for group in groups):
        mine = [group for group in groups if group.env == env]
        alike = [group for group in mine if group.measured == mine[0].measured]
        common = set.intersection(*(set(group.frames) for group in alike)) if len(alike) > 1 else set()
        if not common:
            continue
        frames = max(common)
        ends = [group.returns[:, group.frames.index(frames)] for group in alike]
        means = [float(end.mean()) for end in ends]
        seen = statistics.optimism(ends)
        entries.append(
            {
                "env": env,
                "of": len(alike),
                "frames": frames,
                "best": alike[means.index(max(means))].label,
                "mean": max(means),
                "optimism": seen and seen._asdict(),
            }
        )
    return entries


def coverage(seeds: int) -> dict[str, Any] | None:
    """Return how often intervals labelled with CONFIDENCE held the truth in simulated studies of so many seeds.

    Args:
        seeds: how many are shown. The nearest simulated number that is not larger answers.

    Returns:
        `seeds` (the number simulated), `mean` and `iqm`, each with the least and the most over the simulated
        distributions. None for a single seed.
    """
    simulated = json.loads(resources.files(__package__).joinpath("coverage.json").read_text("utf-8"))
    rows = {int(count): row for count, row in simulated["seeds"].items() if int(count) <= seeds}
    if not rows:
        return None
    nearest = max(rows)
    shares = {name: list(rows[nearest][name].values()) for name in ("mean", "iqm")}
    return {"seeds": nearest, **{name: [min(values), max(values)] for name, values in shares.items()}}


def _lists(band: statistics.Band | None) -> dict[str, list[float] | None] | None:
    if band is None:
        return None
    return {name: None if points is None else points.tolist() for name, points in band._asdict().items()}


def _interval(band: statistics.Band | None) -> dict[str, float | None] | None:
    if band is None:
        return None
    return {name: None if points is None else float(points[0]) for name, points in band._asdict().items()}
