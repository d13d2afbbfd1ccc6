"""What a report's charts draw, as data: points, labels, and which group a line belongs to. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from t3d.reports.groups import Group
from t3d.reports.reading import Row, Run, is_number
from t3d.reports.texts import number

# More points than this are not seen; evaluations are never thinned.
MOST_POINTS = 300
_REFERENCES_SHOWN = 2
_TITLES = {
    ("episode", "return"): "training return",
    ("episode", "length"): "episode length",
    ("update", "critic_loss"): "critic loss",
    ("update", "actor_loss"): "actor loss",
    ("update", "q1"): "Q1",
    ("update", "q2"): "Q2",
    ("update", "target_q"): "target Q",
}

Points = list[tuple[float, float]]


def learning(groups: Sequence[Group], counted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the chart of evaluations of one environment.

    Args:
        groups: those of the environment.
        counted: their numbers, in the same order.
    """
    last = max(max(run.evaluations) for group in groups for run in group.runs)
    references = [_reference(found, last) for found in counted[0]["references"]]
    overlapping = [reference for reference in references if reference["shown"]]
    for reference in overlapping[_REFERENCES_SHOWN:]:
        reference["shown"] = False
    return {
        "x_max": last,
        "groups": [
            {
                "label": group.label,
                "env_steps": numbers["env_steps"],
                "seeds": len(group.runs),
                **numbers["curve"],
                "runs": [{"seed": run.seed, "points": sorted(run.evaluations.items())} for run in group.runs],
            }
            for group, numbers in zip(groups, counted, strict=True)
        ],
        "references": references,
    }


def _reference(found: dict[str, Any], last: int) -> dict[str, Any]:
    """Return a published curve up to the step `last`; one that begins later is a level line, at first not shown."""
    points = [(steps, mean) for steps, mean, _ in found["points"]]
    inside = [(x, y) for x, y in points if x <= last]
    after = [(x, y) for x, y in points if x > last]
    told = [found["algorithm"], found["env"], found["statistic"]]
    if not inside:
        (steps, level) = after[0]
        told.insert(2, f"{number(level)} after {steps:,} steps")
        inside = [(0, level), (last, level)]
    elif after:
        (x0, y0), (x1, y1) = inside[-1], after[0]
        inside.append((last, y0 + (y1 - y0) * (last - x0) / (x1 - x0)))
    overlaps = points[0][0] <= last
    return {"label": found["source"], "told": " \N{MIDDLE DOT} ".join(told), "points": inside, "shown": overlaps}


def small(groups: Sequence[Group], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return one small chart for each number that rows of these kinds hold, a line for each run.

    Args:
        groups: those of one environment.
        kinds: such as episode and update, or health.
    """
    runs = [(index, run) for index, group in enumerate(groups) for run in group.runs]
    names = dict.fromkeys(entry for _, run in runs for entry in _fields(run, kinds))
    charts = []
    for kind, name in names:
        lines = [(index, run, _points(run.rows[kind], name)) for index, run in runs]
        averaged = max(math.ceil(len(points) / MOST_POINTS) for _, _, points in lines)
        charts.append(
            {
                "title": _TITLES.get((kind, name), name.replace("_", " ")),
                "averaged": averaged,
                "lines": [
                    {"group": index, "seed": run.seed, "points": thinned(points)}
                    for index, run, points in lines
                    if points
                ],
            }
        )
    return charts


# Clocks, and numbers that name something: an environment, a dimension.
_NO_QUANTITIES = {"env_steps", "wall_s", "updates", "env", "obs_scale_at"}


def _fields(run: Run, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    order = list(_TITLES)
    for kind in kinds:
        names = {name for row in run.rows[kind] for name, value in row.items() if is_number(value)}
        found = [(kind, name) for name in sorted(names - _NO_QUANTITIES)]
        yield from sorted(found, key=lambda entry: order.index(entry) if entry in order else len(order))


def _points(rows: Sequence[Row], name: str) -> Points:
    return [(row["env_steps"], float(row[name])) for row in rows if is_number(row.get(name))]


def thinned(points: Points) -> Points:
    """Return at most MOST_POINTS points, each the mean of equally many neighbours, to five digits."""
    size = math.ceil(len(points) / MOST_POINTS)
    buckets = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [(round(_mean([x for x, _ in b])), float(f"{_mean([y for _, y in b]):.5g}")) for b in buckets]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
