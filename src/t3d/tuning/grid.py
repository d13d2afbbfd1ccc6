"""The grid of `t3d sweep`: options with several values each, from a command line, and every combination of them."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t3d.config import Config, TD3Config, refuse_before_it_learns
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.execution.jobs import Job, job_of, refuse_as_parent
from t3d.presets import Choice

_MOST_NAME = 80  # characters of a folder's name, without its seed; longer ones are numbered
_FLAGS = {
    field.name: field for kind in (Config, TD3Config) for field in dataclasses.fields(kind) if field.name != "td3"
}
AXES = ("preset", *_FLAGS)


def split(arguments: Sequence[str], own: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Part the axes of a grid from a command's other words.

    Args:
        arguments: as they stand behind the command: `--lr 1e-4,3e-4`, `--hidden=[256,256],[400,300]`,
            `--normalize-obs`, `--preset td3,course`.
        own: the command's own flags, by their fields' names.

    Returns:
        The values of each axis, and every other word.

    Raises:
        ConfigRefused: there is no such option, it has no value, or two lists of them.
    """
    axes: dict[str, list[Any]] = {}
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name == "help" or _stem(name) in own:
            rest.append(word)
            continue
        if name.startswith("no_") and _is_switch(name[3:]):
            name, equals, text = name[3:], "=", "False"
        if name not in AXES:
            raise _unknown(flag, own)
        if not equals and words and _follows(name, words[0]):
            text = words.pop(0)
        elif not equals and _is_switch(name):
            text = "True"
        if name in axes or not text:
            raise ConfigRefused(
                "an axis of the grid has no values" if not text else "an axis of the grid is named twice",
                got=word,
                expected=f"{flag} VALUE,VALUE,...",
                do="put all its values behind one flag, with commas and no spaces",
            )
        axes[name] = _values(name, text)
    return axes, rest


def _stem(name: str) -> str:
    return name.removeprefix("no_")


def _is_switch(name: str) -> bool:
    return name in _FLAGS and isinstance(_FLAGS[name].default, bool)


def _follows(name: str, word: str) -> bool:
    """Return whether the next word is an axis's values; a switch needs none."""
    if _is_switch(name):
        return {part.lower() for part in word.split(",")} <= {"true", "false"}
    return not word.startswith("--")


def _unknown(flag: str, own: Sequence[str]) -> ConfigRefused:
    name = flag.removeprefix("--").replace("-", "_")
    near = difflib.get_close_matches(name, [*AXES, *own], n=1)
    return ConfigRefused(
        "there is no such option",
        got=flag,
        expected=f"for example --{near[0].replace('_', '-')}" if near else "an option of t3d train",
        do="t3d sweep --help and t3d train --help list every option",
    )


def _values(name: str, text: str) -> list[Any]:
    """Return the values of an axis: commas separate them, but for those within a list."""
    parts = re.findall(r"\[[^\]]*\]|[^,\[\]]+", text)
    if ",".join(parts) != text:
        raise ConfigRefused(
            f"the values of {name} cannot be told apart",
            got=text,
            expected="values with commas between them; one that is a list as JSON: [256,256],[400,300]",
            do="quote the text for the shell, and leave no comma at its end",
        )
    if name == "preset":
        return parts
    return [_value(part) for part in parts]


def _value(text: str) -> Any:
    """Return what a text stands for: a list, None, True, False, a number; else itself. The option's type holds it."""
    constants = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in constants and text != "none":  # none is a value of --layer-norm
        return constants[text.lower()]
    if text.startswith("["):
        try:
            return tuple(json.loads(text))
        except ValueError as error:
            raise ConfigRefused(
                "this is no list", got=f"{text}: {error}", expected="JSON, as [256,256]", do="mend the list"
            ) from error
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


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
        ConfigRefused: a combination is impossible; it is named.
    """
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


def jobs_of(env: EnvSpec, grid: Grid, seeds: int, parent: Path) -> list[Job]:
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
        job_of(env, point.choice, seed, parent / f"{name}-s{seed}")
        for k in range(seeds)
        for point, name in zip(grid.points, names, strict=True)
        for seed in [point.choice.config.seed + k]
    ]


def _name(point: Point, differing: Sequence[str]) -> str:
    shown = [f"{name}-{_exact(point.values[name])}" for name in differing] or [point.choice.preset]
    return re.sub(r"[^A-Za-z0-9._-]", "_", "_".join(shown))
