"""A search space: options to be drawn, each from a range or a list, some only where another has a certain value.

A TOML table an option, in the order they are drawn:

    [lr]
    low = 1e-4
    high = 3e-3
    log = true

    [embedding]
    choices = [64, 128, 256]
    when = { algorithm = "td7" }
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from t3d.config import IDLE, Config
from t3d.errors import ConfigRefused
from t3d.presets import read_space

Value = float | int | str | bool
# What the study decides, or what would change how a trial is measured.
_FIXED = IDLE | {"steps", "seed", "eval_every", "eval_episodes", "eval_env", "hardware", "device", "engine", "threads"}
_TRIES = 200


class Option(Struct, frozen=True, forbid_unknown_fields=True):
    """How one option is drawn: from low to high, or from choices."""

    name: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Value | tuple[int, ...], ...] = ()
    when: dict[str, Value] = {}

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def words(self) -> tuple[Value, ...]:
        """The choices as Optuna takes them: a list as its JSON."""
        return tuple(json.dumps(choice) if isinstance(choice, tuple) else choice for choice in self.choices)

    def applies(self, values: dict[str, Any]) -> bool:
        """Return whether it is drawn, after others have these values."""
        return all(values.get(name) == value for name, value in self.when.items())


Space = tuple[Option, ...]


class Drawer(Protocol):
    """Whoever draws: a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Value], /) -> Any: ...  # noqa: D102

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int, log: bool) -> int: ...  # noqa: D102

    def suggest_float(  # noqa: D102
        self, name: str, low: float, high: float, /, *, step: float | None, log: bool
    ) -> float: ...


def read(name: str, base: Config) -> Space:
    """Return a search space, held against the configuration whose options it changes.

    Args:
        name: of one of ours, or a file.toml.
        base: the configuration.

    Raises:
        ConfigRefused: there is no such space or option (the nearest one is suggested), a range or choice is impossible,
            or options that may come together are.
    """
    tables = read_space(name)
    if not tables:
        raise ConfigRefused("this search space is empty", got=name, expected="a table for each option", do="name some")
    space: list[Option] = []
    for option, table in tables.items():
        try:
            space.append(msgspec.convert({"name": option, **dict(table)}, Option))
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise _refused(name, option, str(error), "low and high, or choices; also log, step, when") from error
        _check(name, space[-1], space[:-1], base)
    _check_together(tuple(space), base)
    return tuple(space)


def _refused(space: str, option: str, got: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"{option} is no part of a search space", got=f"{space}: {got}", expected=expected, do="mend it"
    )


def _check(space: str, option: Option, before: Sequence[Option], base: Config) -> None:
    if option.name in _FIXED:
        raise _refused(space, option.name, option.name, "an option that the study does not fix itself")
    if bool(option.choices) == (option.low is not None) or (option.low is None) != (option.high is None):
        raise _refused(space, option.name, "neither a range nor choices, or half of each", "low and high, or choices")
    if option.low is not None and option.high is not None:
        if not option.low < option.high or (option.log and (option.low <= 0 or option.step is not None)):
            got = f"low = {option.low}, high = {option.high}, log = {option.log}, step = {option.step}"
            raise _refused(space, option.name, got, "low < high; with log, low above 0 and no step")
        if option.whole and option.step is not None and not isinstance(option.step, int):
            raise _refused(space, option.name, f"step = {option.step}", "a whole number, as low and high are")
    for value in option.choices or (option.low, option.high):
        base.with_values({option.name: value})
    known = {earlier.name: earlier for earlier in before}
    for name, value in option.when.items():
        if name not in known or value not in known[name].choices:
            got = f"when = {{ {name} = {json.dumps(value)} }}"
            raise _refused(space, option.name, got, "an option that stands before it, and one of its choices")


def _check_together(space: Space, base: Config) -> None:
    """Draw some configurations, so that one that cannot be is refused before an hour is spent."""
    random = _Random(np.random.default_rng(0))
    for _ in range(_TRIES):
        values = draw(space, random)
        try:
            base.with_values(values).check_together()
        except ConfigRefused as error:
            rows = {**error.rows, "got": f"{error.rows.get('got', '')}; drawn together: {values}"}
            raise ConfigRefused(error.what, **rows) from error


class _Random:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def suggest_categorical(self, _: str, choices: Sequence[Value], /) -> Any:
        return choices[int(self._rng.integers(len(choices)))]

    def suggest_int(self, _: str, low: int, high: int, /, *, step: int, log: bool) -> int:
        return int(self._rng.integers(low, high + 1))

    def suggest_float(self, _: str, low: float, high: float, /, *, step: float | None, log: bool) -> float:
        return float(self._rng.uniform(low, high))


def draw(space: Space, drawer: Drawer) -> dict[str, Any]:
    """Return a value for every option that applies."""
    values: dict[str, Any] = {}
    for option in space:
        if not option.applies(values):
            continue
        if option.choices:
            word = drawer.suggest_categorical(option.name, option.words)
            values[option.name] = option.choices[option.words.index(word)]
            continue
        assert option.low is not None and option.high is not None
        if option.whole:
            low, high, step = int(option.low), int(option.high), int(option.step or 1)
            values[option.name] = drawer.suggest_int(option.name, low, high, step=step, log=option.log)
        else:
            values[option.name] = drawer.suggest_float(
                option.name, option.low, option.high, step=option.step, log=option.log
            )
    return values


def default_of(space: Space, base: Config) -> dict[str, Value] | None:
    """Return what would have to be drawn for the configuration itself; None where the space does not hold it."""
    options = {**vars(base), **vars(base.td3)}
    params: dict[str, Value] = {}
    values: dict[str, Any] = {}
    for option in space:
        if not option.applies(values):
            continue
        value = options[option.name]
        if option.choices:
            if value not in option.choices:
                return None
            params[option.name] = option.words[option.choices.index(value)]
        elif None not in (value, option.low, option.high) and option.low <= value <= option.high:
            params[option.name] = value
        else:
            return None
        values[option.name] = value
    return params
