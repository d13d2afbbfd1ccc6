"""Which environment, and how it is made: a name, arguments and wrappers, or what a caller has in hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from t3d.address import FILE_AND_NAME, address_of, in_words
from t3d.errors import ConfigRefused

FrameSize = Annotated[int, Meta(ge=16, le=256, description="a whole number, 16 to 256")]
FrameColor = Annotated[Literal["grey", "rgb"], Meta(description="grey or rgb")]
FrameStack = Annotated[int, Meta(ge=1, le=16, description="a whole number, 1 to 16")]
ActionRepeat = Annotated[int, Meta(ge=1, le=1_000, description="a whole number, 1 to 1,000")]


@dataclass(frozen=True)
class View:
    """How a run looks at its environment and plays in it, as its options say."""

    frame_size: FrameSize = 64
    """Pixels of a frame's side, of an image among the observations."""
    frame_color: FrameColor = "grey"
    """grey, or rgb."""
    frame_stack: FrameStack = 3
    """Frames that the networks see at once."""
    action_repeat: ActionRepeat = 1
    """Frames of the environment that one action is played for."""


@dataclass(frozen=True)
class EnvSpec:
    """What must be known to make an environment."""

    name: str
    """A registered id; module:Name, of an id that the module registers, or of a class or function in it that makes an
    environment; or path/to/file.py:Name. What no other process can find stands in <>."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor or function; all that JSON can hold."""
    wrappers: tuple[str, ...] = ()
    """module:Name or file.py:Name of functions from environment to environment, the innermost first."""
    maker: Callable[..., Any] | None = field(default=None, compare=False, repr=False)
    """The class or function itself, where the caller has given it."""
    pixels: bool = False
    """The observation is the rendered picture; what the environment observes itself is hidden."""
    view: View = field(default=View(), compare=False)
    """How it is looked at. Not part of which environment it is: a run's options say it."""

    @property
    def is_named(self) -> bool:
        """Whether another process can make it."""
        return not self.name.startswith("<")

    @property
    def is_plain(self) -> bool:
        """Whether it is as its name says, without arguments, wrappers and pixels: what is known of that name holds."""
        return not (self.kwargs or self.wrappers or self.pixels)

    @property
    def is_registered(self) -> bool:
        """Whether it needs no code but what an installed suite registers, as that suite means it."""
        return not (self.kwargs or self.wrappers) and self.is_named and ":" not in self.name

    @property
    def title(self) -> str:
        """How it is called where people read it."""
        return self._titled(str)

    @property
    def short_title(self) -> str:
        """The same without the folders of files, wherever they lie."""
        return self._titled(lambda name: Path(name).name if FILE_AND_NAME.fullmatch(name) else name)

    def _titled(self, called: Callable[[str], str]) -> str:
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.kwargs.items())
        title = f"{called(self.name)}({arguments})" if arguments else called(self.name)
        return " in ".join([f"{title} from pixels" if self.pixels else title, *map(called, self.wrappers)])

    @property
    def identity(self) -> list[Any]:
        """What makes it the same environment as another one, wherever its file lies."""
        wrappers = [_without_folder(wrapper) for wrapper in self.wrappers]
        return [_without_folder(self.name), dict(self.kwargs), wrappers, self.pixels]

    @property
    def folder(self) -> str:
        """The name of its folder under runs/: that of the environment, with a hash where that does not say all."""
        short = re.sub(r"[^A-Za-z0-9._-]", "_", _without_folder(self.name))
        name = f"{short}-pixels" if self.pixels else short
        if self.name.isascii() and not (self.kwargs or self.wrappers):
            return name
        identity = json.dumps(self.identity, sort_keys=True).encode()
        return f"{name}-{hashlib.sha256(identity).hexdigest()[:6]}"

    @property
    def flags(self) -> list[str]:
        """Arguments, wrappers and pixels as flags of a command line."""
        arguments = [f"{name}={json.dumps(value)}" for name, value in self.kwargs.items()]
        pairs = [("--env-arg", argument) for argument in arguments] + [("--wrapper", name) for name in self.wrappers]
        return [word for pair in pairs for word in pair] + ["--pixels"] * self.pixels

    @property
    def command_words(self) -> str:
        """What a command on a run of it needs, quoted for the shell: nothing for an installed suite's id."""
        return "" if self.is_registered else shlex.join(["--env", self.name, *self.flags])

    def as_json(self) -> dict[str, Any]:
        """Return the arguments that make an equal one in another process."""
        named = {"name": self.name, "kwargs": dict(self.kwargs), "wrappers": list(self.wrappers)}
        return named | {"pixels": self.pixels, "view": vars(self.view)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EnvSpec:
        """Return what `as_json` described."""
        wrappers, view = tuple(fields["wrappers"]), View(**fields["view"])
        return cls(fields["name"], fields["kwargs"], wrappers, pixels=fields["pixels"], view=view)

    def looked_at(self, view: View) -> EnvSpec:
        """Return the same environment, looked at in another way."""
        return dataclasses.replace(self, view=view)

    def refuse_unnamed(self, what: str, do: str) -> None:
        """Refuse what takes another process, if that cannot make the environment.

        Args:
            what: takes it.
            do: what to do without it.

        Raises:
            ConfigRefused: it cannot.
        """
        if not self.is_named:
            raise ConfigRefused(
                f"{what} cannot make this environment: another process finds nothing by its name",
                got=self.title,
                expected="a class or function at the top level of a module, or of the script that is run",
                do=f"move it there, or {do}",
            )


def spec_of(
    env: str | Callable[..., Any] | EnvSpec,
    kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    pixels: bool = False,
) -> EnvSpec:
    """Return how to make what a caller calls an environment.

    Args:
        env: a name as in `EnvSpec.name`; or a class, or a function that makes one.
        kwargs: arguments for it, as JSON can hold them.
        wrappers: as in `EnvSpec.wrappers`.
        pixels: as in `EnvSpec.pixels`.

    Raises:
        ConfigRefused: it is an environment that is made already, or an argument is nothing that JSON can hold.
    """
    if isinstance(env, EnvSpec):
        return env
    arguments, around = _as_json(kwargs or {}), tuple(wrappers)
    if isinstance(env, str):
        return EnvSpec(env, arguments, around, pixels=pixels)
    made = not isinstance(env, type) and hasattr(env, "reset") and hasattr(env, "step")
    if made or not callable(env):
        raise ConfigRefused(
            "this is no way to make an environment",
            got=f"{'an environment that is made already' if made else 'an object'}, {type(env).__qualname__}",
            expected="an id, a class, or a function: more than one instance is made, and each anew",
            do="def make_env(): return ..., then t3d.train(make_env)",
        )
    try:
        return EnvSpec(address_of(env), arguments, around, env, pixels)
    except ConfigRefused:
        return EnvSpec(f"<{in_words(env)}>", arguments, around, env, pixels)


def _as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(dict(kwargs), allow_nan=False, ensure_ascii=False).encode()
        arguments: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigRefused(
            "arguments of an environment must be what JSON can hold: they are part of what a run is",
            got=f"{error}"[:200],
            expected="numbers, texts, True, False, None, and lists and dicts of them",
            do="let a function make the environment, and take such arguments",
        ) from error
    return arguments


def _without_folder(name: str) -> str:
    """Return an environment's name without the folder of its file: its id, or <module or file stem>.<Class>."""
    module, _, last = name.rpartition(":")
    return (f"{Path(module).name.removesuffix('.py')}.{last}" if module else last).strip("<>")
