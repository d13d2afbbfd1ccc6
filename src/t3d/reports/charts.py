"""What a report's charts draw, as data: points, labels, and which group a line belongs to. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from t3d.formats import Row
from t3d.reports.grouping import Group
from t3d.reports.read_runs import Run
from t3d.reports.wording import number

# More points than this are not seen; evaluations are never thinned.
MOST_POINTS = 300
_REFERENCES_SHOWN = 2
TITLES = {
    ("episode", "return"): "training return",
    ("episode", "length"): "episode length",
    ("update", "critic_loss"): "critic loss",
    ("update", "actor_loss"): "actor loss",
    ("update", "q1"): "Q1",
    ("update", "q2"): "Q2",
    ("update", "target_q"): "target Q",
}

Points = list[tuple[float, float]]
# What a page draws: where rows are gone, a place without a value, and so no line.
Line = list[tuple[float, float | None]]


def learning(groups: Sequence[Group], counted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the chart of evaluations of one environment.

    Args:
        groups: those of the environment.
        counted: their numbers, in the same order.
    """
    last = max(max(run.curve) * run.action_repeat for group in groups for run in group.runs)
    references = [_reference(reference, last) for reference in counted[0]["references"]]
    overlapping = [reference for reference in references if reference["shown"]]
    for reference in overlapping[_REFERENCES_SHOWN:]:
        reference["shown"] = False
    return {
        "x_max": last,
        "x_unit": x_unit(groups),
        "groups": [
            {
                "label": group.label,
                "seeds": len(group.runs),
                **_curve(group, numbers),
                "runs": [
                    {"seed": run.seed, "points": _in_frames(_parts(sorted(run.curve.items()), run.gaps), run)}
                    for run in group.runs
                ],
            }
            for group, numbers in zip(groups, counted, strict=True)
        ],
        "references": references,
    }


def x_unit(groups: Sequence[Group]) -> str:
    """Return what the curves of an environment are drawn over; where nobody repeats actions the two are the same."""
    return "env steps" if all(group.action_repeat == 1 for group in groups) else "frames"


def _curve(group: Group, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the group's own curves and their frames, without a value where rows of a run are gone."""
    gaps = [gap for run in group.runs for gap in run.gaps]
    places = _joined(_parts([(step, i) for i, step in enumerate(numbers["env_steps"])], gaps))
    curves = {
        name: band
        and {end: values and [None if i is None else values[int(i)] for _, i in places] for end, values in band.items()}
        for name, band in numbers["curve"].items()
    }
    return {"frames": [step * group.action_repeat for step, _ in places], **curves}


def _parts(points: Points, gaps: Sequence[tuple[int, int]]) -> list[Points]:
    """Return a curve in the parts that are left of it where rows are gone."""
    parts: list[Points] = [[]]
    for point in points:
        if parts[-1] and any(begin < point[0] and end > parts[-1][-1][0] for begin, end in gaps):
            parts.append([])
        parts[-1].append(point)
    return parts


def _joined(parts: Sequence[Points]) -> Line:
    line: Line = list(parts[0])
    for part in parts[1:]:
        line += [((line[-1][0] + part[0][0]) / 2, None), *part]
    return line


def _in_frames(parts: Sequence[Points], run: Run) -> Line:
    """Return the parts of a curve over env steps as one line over frames."""
    return [(step * run.action_repeat, value) for step, value in _joined(parts)]


def _reference(reference: dict[str, Any], last: int) -> dict[str, Any]:
    """Return a published curve up to the frame `last`; one that begins later is a level line, at first not shown."""
    points = [(steps, mean) for steps, mean, _ in reference["points"]]
    inside = [(x, y) for x, y in points if x <= last]
    after = [(x, y) for x, y in points if x > last]
    label_parts = [reference["algorithm"], reference["env"], reference["statistic"]]
    if not inside:
        (steps, level) = after[0]
        label_parts.insert(2, f"{number(level)} after {steps:,} steps")
        inside = [(0, level), (last, level)]
    elif after:
        (x0, y0), (x1, y1) = inside[-1], after[0]
        inside.append((last, y0 + (y1 - y0) * (last - x0) / (x1 - x0)))
    overlaps = points[0][0] <= last
    detail = " \N{MIDDLE DOT} ".join(label_parts)
    return {"label": reference["source"], "detail": detail, "points": inside, "shown": overlaps}


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
        averaged = max(_together(points) for _, _, points in lines)
        charts.append(
            {
                "title": TITLES.get((kind, name), name.replace("_", " ")),
                "averaged": averaged,
                "lines": [
                    {
                        "group": index,
                        "seed": run.seed,
                        "points": drawn(points, run),
                    }
                    for index, run, points in lines
                    if points
                ],
            }
        )
    return charts


# Clocks, and numbers that name something: an environment, a dimension.
_NO_QUANTITIES = {"env_steps", "wall_s", "updates", "env", "obs_scale_at"}


def _fields(run: Run, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    order = list(TITLES)
    for kind in kinds:
        names = {name for row in run.rows[kind] for name, value in row.items() if isinstance(value, int | float)}
        quantities = [(kind, name) for name in sorted(names - _NO_QUANTITIES)]
        yield from sorted(quantities, key=lambda entry: order.index(entry) if entry in order else len(order))


def drawn(points: Points, run: Run) -> Line:
    """Return a run's numbers by env steps as a line over frames, of MOST_POINTS at most.

    It ends and begins anew where rows are gone.
    """
    return _in_frames([thinned(part, _together(points)) for part in _parts(points, run.gaps)], run)


def _points(rows: Sequence[Row], name: str) -> Points:
    return [(row["env_steps"], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]


def _together(points: Points) -> int:
    """Return how many points become one, so that MOST_POINTS are left at most."""
    return math.ceil(len(points) / MOST_POINTS)


def thinned(points: Points, together: int) -> Points:
    """Return points each the mean of so many neighbours, to five digits."""
    buckets = [points[i : i + together] for i in range(0, len(points), together or 1)]
    return [(round(_mean([x for x, _ in b])), float(f"{_mean([y for _, y in b]):.5g}")) for b in buckets]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
