"""Hyper-parameters as data: named sets of options, and which environment gets which.

`environments.toml` says what is known of environments (their preset, and facts about them that hold under any
preset); every other `.toml` file here is a preset, and those in `spaces` are
search spaces for `t3d tune`. Precedence: defaults < environment's facts < preset < what
hardware needs < flags.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused

DEFAULT = "td3"
IMAGES = "images"
# Of algorithms that need options of their own, where nobody names a preset.
_OF_ALGORITHM = {"td7": "td7"}
_MAX_BYTES = 1 << 20


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
    env: EnvSpec,
    preset: str | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    hardware: bool = False,
    images: bool = False,
) -> Choice:
    """Lay defaults, the environment's facts, its or the named preset, and the given values over each other.

    Args:
        env: the environment. With arguments or wrappers it is not the task that its preset is for; facts still hold.
        preset: a preset's name, or a file of options, as `t3d tune` writes them; None takes the environment's.
        values: option name to value, laid over everything.
        hardware: it is one physical device.
        images: its observations hold some.

    Raises:
        ConfigRefused: no preset of that name, a file that is none, or an impossible option; or hardware is to be drawn.
    """
    if hardware and env.pixels:
        raise ConfigRefused(
            "--pixels learns from what an environment draws, and one physical device is not drawn",
            got=f"--pixels with --hardware, {env.name}",
            do="let its observations be what its camera sees, and leave --pixels out",
        )
    known = _environment(env.name)
    if not env.is_plain:
        known.pop("preset", None)
    of_algorithm = _OF_ALGORITHM.get((values or {}).get("algorithm", ""))
    if images:
        known["preset"] = IMAGES
    name = preset or of_algorithm or known.get("preset", DEFAULT)
    if name.endswith(".toml"):
        options, name = _read_file(Path(name)), Path(name).stem
    elif name in names():
        options = _read(f"{name}.toml")
    else:
        raise ConfigRefused(
            "there is no such preset", got=name, expected=", ".join(names()), do="name one of them, or a file.toml"
        )
    own = f"chosen for {env.name}" if "preset" in known else "the default"
    own = "chosen for images" if images else own
    own = "of the algorithm" if of_algorithm else own
    config = Config().with_values(known.get("facts", {})).with_values(options)
    if hardware:
        config = config.with_values({"hardware": True, "eval_env": "same", "on_resume": "reset"})
    return Choice(name, config.with_values(values or {}), "as asked" if preset else own)


def _environment(env: str) -> dict[str, Any]:
    env_id = env.rsplit(":", 1)[-1]
    for known in _read("environments.toml")["environment"]:
        if any(fnmatch.fnmatchcase(env_id, pattern) for pattern in known["ids"]):
            return dict(known)
    return {}


def spaces() -> list[str]:
    """Return the names of all search spaces."""
    files = [file.name for file in resources.files(__package__).joinpath("spaces").iterdir()]
    return sorted(file.removesuffix(".toml") for file in files if file.endswith(".toml"))


def read_space(name: str) -> dict[str, Any]:
    """Return a search space, as its file says: one of `spaces()`, or the user's own file.

    Raises:
        ConfigRefused: there is none of that name, or the file cannot be read.
    """
    if name in spaces():
        return _read(f"spaces/{name}.toml")
    if name.endswith(".toml"):
        return _read_file(Path(name))
    raise ConfigRefused(
        "there is no such search space", got=name, expected=", ".join(spaces()), do="name one of them, or a file.toml"
    )


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES:,} bytes")
        return _parsed(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigRefused(
            "this file cannot be read", got=f"{path}: {error}", expected="a TOML file of options", do="mend it"
        ) from error


def _read(file: str) -> dict[str, Any]:
    return _parsed(resources.files(__package__).joinpath(file).read_text("utf-8"))


def _parsed(text: str) -> dict[str, Any]:
    # TOML has arrays, options have tuples.
    return {k: tuple(v) if k == "hidden" and isinstance(v, list) else v for k, v in tomllib.loads(text).items()}
