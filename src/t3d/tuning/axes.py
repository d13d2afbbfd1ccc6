"""The axes of a grid: options with several values each, as they stand on a command line."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from t3d.config import Config, TD3Config
from t3d.errors import ConfigRefused

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
