"""The environment on a command line: its name, its arguments, its wrappers, and whether its picture is learned from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused


@dataclass(frozen=True, kw_only=True)
class EnvArguments:
    """How an environment is made, beside its name."""

    env_arg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=JSON")] = ()
    """An argument of its constructor or function, as g=5.0 or 'terrain="rough"'. Repeat it for others."""
    wrapper: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WRAPPER")] = ()
    """module:Name or path/to/file.py:Name of a wrapper. Repeat it for others: the first is the innermost."""

    pixels: bool = False
    """The observation is the rendered picture; what the environment observes itself is hidden."""

    def spec(self, name: str) -> EnvSpec:
        """Return the environment of this name, made in this way.

        Raises:
            ConfigRefused: an argument is not NAME=JSON.
        """
        return EnvSpec(name, dict(map(_argument, self.env_arg)), self.wrapper, pixels=self.pixels)

    def given(self, name: str | None) -> EnvSpec | None:
        """Return the environment that a command on a run names; None if it names none.

        Raises:
            ConfigRefused: as `spec`; or arguments were given without it.
        """
        if name is not None:
            return self.spec(name)
        if self.env_arg or self.wrapper or self.pixels:
            raise ConfigRefused(
                "arguments of an environment were given, and no environment",
                got=" ".join([*self.env_arg, *self.wrapper, *["--pixels"] * self.pixels]),
                do="add --env NAME: it is made with these arguments and no others",
            )
        return None


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if not (equals and name.isidentifier()):
            raise ValueError("there is no name with = behind it")
        return name, json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigRefused(
            "this is no argument of an environment",
            got=f"--env-arg {text}: {error}",
            expected="NAME=JSON, as g=5.0, wind=true, sizes=[1,2]",
            do=f"a text stands in quotes, which a shell wants quoted again: --env-arg '{name}=\"{value}\"'",
        ) from error


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
