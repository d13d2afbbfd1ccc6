"""The grid of `t3d sweep`: every combination of its axes' values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t3d.config import IDLE, Config, refuse_before_it_learns
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.execution.jobs import Job, job_of, refuse_as_parent
from t3d.presets import Choice
from t3d.td3 import TD3

_MOST_NAME = 80  # characters of a folder's name, without its seed; longer ones are numbered


class Point(NamedTuple):
    """One configuration of a grid."""

    values: dict[str, Any]  # of each axis
    choice: Choice


class Grid(NamedTuple):
    """Every combination of the axes' values, those that come to the same once."""

    points: list[Point]
    equal: int  # combinations left out, since an earlier one comes to the same configuration


def combine(axes: Mapping[str, Sequence[Any]], choose: Callable[[str | None, dict[str, Any]], Choice]) -> Grid:
    """Return the grid of some axes.

    Args:
        axes: the values of each.
        choose: from a preset and options to a configuration.

    Raises:
        ConfigRefused: a combination is impossible, and is named; or an axis changes no result.
    """
    for name, given in axes.items():
        if len(given) > 1 and name in IDLE | {"seed"}:
            raise ConfigRefused(
                f"{name} is no axis: runs that differ in it alone are not held against each other",
                got=f"--{name.replace('_', '-')} with {len(given)} values",
                expected="one value",
                do="--seeds N trains so many seeds" if name == "seed" else "give the one that suits this machine",
            )
    seen: dict[Config, Point] = {}
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for values in combinations:
        options = {name: value for name, value in values.items() if name != "preset"}
        try:
            choice = choose(values.get("preset"), options)
            choice.config.check_together()
            if "random_steps" not in options:
                refuse_before_it_learns(choice.config)
        except ConfigRefused as error:
            rows = {**error.rows, "got": f"{error.rows.get('got', '')}, of {words(values)}".lstrip(", ")}
            raise ConfigRefused(error.what, **rows) from error
        seen.setdefault(choice.config, Point(values, choice))
    return Grid(list(seen.values()), len(combinations) - len(seen))


def words(values: Mapping[str, Any]) -> str:
    """Return a combination as people read it, numbers to four digits."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else _exact(value) for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _exact(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def jobs_of(env: EnvSpec, grid: Grid, seeds: int, parent: Path, algorithm: type[TD3] | None = None) -> list[Job]:
    """Return a job for each seed of each configuration, seed by seed: whoever stops early has some of each.

    Raises:
        ConfigRefused, RunRefused: as `refuse_as_parent`.
    """
    refuse_as_parent(env, parent)
    differing = [name for name in grid.points[0].values if len({repr(p.values[name]) for p in grid.points}) > 1]
    names = [_name(point, differing) for point in grid.points]
    if max(map(len, names)) > _MOST_NAME or len(set(names)) < len(names):
        names = [f"configuration-{number}" for number in range(len(names))]
    return [
        job_of(env, point.choice, seed, parent / f"{name}-s{seed}", algorithm)
        for k in range(seeds)
        for point, name in zip(grid.points, names, strict=True)
        for seed in [point.choice.config.seed + k]
    ]


def _name(point: Point, differing: Sequence[str]) -> str:
    shown = [f"{name}-{_exact(point.values[name])}" for name in differing] or [point.choice.preset]
    return re.sub(r"[^A-Za-z0-9._-]", "_", "_".join(shown))
