"""`t3d watch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from t3d.cli.algorithm import class_given
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Watch a run's newest policy play in a window, in real time, until the window is closed.

    The run may go on meanwhile: a newer policy is taken between two episodes.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    algorithm: str | None = None
    """path/to/file.py:Name or module:Name of the run's algorithm, where that is a class of your own."""
    env: str | None = None
    """The environment, where it is not an installed suite's id alone: nothing that is code is taken from a file."""


def main(arguments: list[str]) -> None:
    """Open the window, and print a line for each episode."""
    args = parse(Arguments, "watch", arguments)

    from t3d.runs.window import watch

    for played in watch(args.run, env=args.given(args.env), algorithm=class_given(args.algorithm)):
        print(
            f"policy after {played.env_steps:>9,} steps  episode {played.episode + 1:<4} "
            f"return {played.episode_return:,.1f} in {played.length:,} steps",
            flush=True,
        )
