"""`t3d resume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from t3d.cli.algorithm import class_given
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Continue a run from its newest checkpoint, to the bit as if nothing had happened."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    steps: int | None = None
    """Train to so many env steps instead of those planned; more, not fewer."""
    env: str | None = None
    """The environment, where it is not an installed suite's id alone: nothing that is code is taken from a file."""
    algorithm: str | None = None
    """path/to/file.py:Name or module:Name of the run's algorithm, where that is a class of your own."""
    algorithm_changed: bool = False
    """That class may be written otherwise than what has trained; the run is not exact from here on."""
    video: bool = True
    """Film the best policy at the end, and the last one where it is another."""
    video_frames: int = 300
    """Frames of the video, at most."""


def main(arguments: list[str]) -> None:
    """Resume, showing progress on stderr and the result on stdout."""
    args = parse(Arguments, "resume", arguments)

    from t3d import api
    from t3d.cli.train import run_to_the_end

    api.refuse_below_one("video_frames", args.video_frames)
    session = api.resume(
        args.run,
        env=args.given(args.env),
        steps=args.steps,
        algorithm=class_given(args.algorithm),
        algorithm_changed=args.algorithm_changed,
    )
    run_to_the_end(session, video=args.video, video_frames=args.video_frames)
