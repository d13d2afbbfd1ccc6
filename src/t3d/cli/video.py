"""`t3d video`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Film one episode of a run's policy."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    policy: Literal["best", "last"] = "best"
    """Which of the run's policies."""
    video_frames: int = 300
    """Frames, at most."""
    env: str | None = None
    """The environment, where it is not an installed suite's id alone: nothing that is code is taken from a file."""


def main(arguments: list[str]) -> None:
    """Film, and print where; where nothing can draw, say so and succeed."""
    args = parse(Arguments, "video", arguments)

    from t3d import api
    from t3d.errors import VideoFailed

    try:
        print(api.film_run(args.run, args.policy, frames=args.video_frames, env=args.given(args.env)))
    except VideoFailed as problem:
        print(f"no video: {problem.one_line()}")
