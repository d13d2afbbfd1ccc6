"""`t3d video`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse, refuse_no_policy


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Film one episode of a policy."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder, or a policy's .safetensors together with --env."""
    policy: Literal["best", "last"] = "best"
    """Which of a run's policies."""
    video_frames: int = 300
    """Frames, at most."""
    env: str | None = None
    """The environment: another of equal shapes, whose film stands beside the run's own; or the run's own, where that is
    not an installed suite's id alone."""


def main(arguments: list[str]) -> None:
    """Film, and print where; where nothing can draw, say so and succeed."""
    args = parse(Arguments, "video", arguments)
    refuse_no_policy(args.run)

    from t3d import api
    from t3d.errors import VideoFailed

    try:
        video, notes = api.film_run(args.run, args.policy, frames=args.video_frames, env=args.given(args.env))
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        print(video)
    except VideoFailed as problem:
        print(f"no video: {problem.one_line()}")
