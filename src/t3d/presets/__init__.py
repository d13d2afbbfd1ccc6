"""Hyper-parameters as data: named sets of options, and which environment gets which.

`environments.toml` says what is known of environments (their preset, and facts about them that hold under any
preset); every other `.toml` file here is a preset. Precedence: defaults < environment's facts < preset < what
hardware needs < flags.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused

DEFAULT = "td3"
# Of algorithms that need options of their own, where nobody names a preset.
_OF_ALGORITHM = {"td7": "td7"}


class Choice(NamedTuple):
    """A configuration and where it comes from."""

    preset: str
    config: Config
    reason: str  # why this preset, for people


def names() -> list[str]:
    """Return the names of all presets."""
    files = [file.name for file in resources.files(__package__).iterdir()]
    return sorted(f.removesuffix(".toml") for f in files if f.endswith(".toml") and f != "environments.toml")


def choose(
    env: EnvSpec, preset: str | None = None, values: Mapping[str, Any] | None = None, *, hardware: bool = False
) -> Choice:
    """Lay defaults, the environment's facts, its or the named preset, and the given values over each other.

    Args:
        env: the environment. With arguments or wrappers it is not the task that its preset is for; facts still hold.
        preset: a preset's name; None takes the environment's.
        values: option name to value, laid over everything.
        hardware: it is one physical device.

    Raises:
        ConfigRefused: no preset of that name, or an impossible option.
    """
    known = _environment(env.name)
    if not env.is_plain:
        known.pop("preset", None)
    of_algorithm = _OF_ALGORITHM.get((values or {}).get("algorithm", ""))
    name = preset or of_algorithm or known.get("preset", DEFAULT)
    if name not in names():
        raise ConfigRefused("there is no such preset", got=name, expected=", ".join(names()))
    own = f"chosen for {env.name}" if "preset" in known else "the default"
    own = "of the algorithm" if of_algorithm else own
    config = Config().with_values(known.get("facts", {})).with_values(_read(f"{name}.toml"))
    if hardware:
        config = config.with_values({"hardware": True, "eval_env": "same", "on_resume": "reset"})
    return Choice(name, config.with_values(values or {}), "as asked" if preset else own)


def _environment(env: str) -> dict[str, Any]:
    env_id = env.rsplit(":", 1)[-1]
    for known in _read("environments.toml")["environment"]:
        if any(fnmatch.fnmatchcase(env_id, pattern) for pattern in known["ids"]):
            return dict(known)
    return {}


def _read(file: str) -> dict[str, Any]:
    values = tomllib.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))
    # TOML has arrays, options have tuples.
    return {k: tuple(v) if k == "hidden" else v for k, v in values.items()}
