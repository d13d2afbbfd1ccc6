"""`t3d explain`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from t3d.cli.algorithm import class_given
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse
from t3d.errors import printable


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Write one page that takes a batch of a run through steps 4 to 15, number by number, beside an episode's film.

    The run may go on meanwhile.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    at: int | None = None
    """Env steps of the checkpoint, one of the two that a run keeps; the newest if left out."""
    batch: int = 0
    """Which batch: another number is another draw."""
    out: Path | None = None
    """The page; explain.html in the run folder if left out."""
    video_frames: int = 300
    """Frames of the film, at most."""
    algorithm: str | None = None
    """path/to/file.py:Name or module:Name of the run's algorithm, where that is a class of your own."""
    env: str | None = None
    """The environment, where it is not an installed suite's id alone: nothing that is code is taken from a file."""


def main(arguments: list[str]) -> None:
    """Write the page, and print where."""
    args = parse(Arguments, "explain", arguments)

    from t3d import api

    page, notes = api.explain_run(
        args.run,
        at=args.at,
        batch=args.batch,
        env=args.given(args.env),
        algorithm=class_given(args.algorithm),
        out=args.out,
        video_frames=args.video_frames,
    )
    for note in notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    print(page)
