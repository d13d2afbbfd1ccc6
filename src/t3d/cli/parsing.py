"""Parse a command's arguments into its dataclass with tyro."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from t3d.config import Config

T = TypeVar("T")
registry = ConstructorRegistry()


@registry.primitive_rule
def _whole_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda texts: whole_number(texts[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(text: str) -> int:
    """Read a whole number as people write them: 1000000, 1_000_000 or 1e6.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(f"{text} is not a whole number") from None
        return int(number)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 episode, 10 episodes."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def decisive(config: Config) -> dict[str, Any]:
    """Return those of the options given that decide what the defaults of others are."""
    given = {name: getattr(config, name) for name in ("hardware", "algorithm")}
    return {name: value for name, value in given.items() if value != getattr(Config, name)}


def is_given(flag: str, arguments: list[str]) -> bool:
    """Return whether a flag stands among a command's words; underscores count as hyphens, and --no-X as --X."""
    names = {flag, flag.replace("--", "--no-", 1)}
    return any(word.partition("=")[0].replace("_", "-") in names for word in arguments)


def parse(kind: type[T], command: str, arguments: list[str], default: Any = None) -> T:
    """Parse arguments; an error or --help prints and exits.

    Args:
        kind: a dataclass; nested ones add their fields as flat flags.
        command: the command's name.
        arguments: what stands behind it.
        default: an instance whose values hold where no flag is given.
    """
    parsed: T = tyro.cli(
        kind,
        prog=f"t3d {command}",
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
        registry=registry,
    )
    return parsed


def refuse_no_policy(path: Path) -> None:
    """Refuse a file that is no policy before PyTorch, which the runs' own code needs, takes its seconds and memory.

    Raises:
        RunRefused: it is none; a folder is looked at by whoever opens it.
    """
    if path.is_file():
        from t3d.policy.policy import load

        load(path)
