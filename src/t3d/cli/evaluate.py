"""`t3d evaluate`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import counted, parse, refuse_no_policy


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Play a policy without noise and count its returns."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder, or a policy's .safetensors together with --env."""
    episodes: int | None = None
    """How many; as many as the run's own evaluations if left out."""
    policy: Literal["best", "last"] = "best"
    """Which of a run's policies."""
    env: str | None = None
    """The environment: another of equal shapes; or the run's own, where that is not an installed suite's id alone."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(arguments: list[str]) -> None:
    """Evaluate and print."""
    args = parse(Arguments, "evaluate", arguments)
    refuse_no_policy(args.run)

    from t3d import api
    from t3d.diagnosis.actions import in_words

    # Own environments may print; under --json stdout is the object's alone.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        seen, which, env_steps, notes, moved, period_s = api.evaluate_run(
            args.run, args.policy, episodes=args.episodes, env=args.given(args.env)
        )
    if args.json:
        answer = {
            "return_mean": seen.return_mean,
            "return_std": seen.return_std,
            "returns": seen.returns,
            "lengths": seen.lengths,
            "policy": which,
            "env_steps": env_steps,
            "notes": notes,
            "action_change": moved.change,
            "action_at_bound": moved.at_bound,
            "action_frequency": moved.frequency,
            "period_s": period_s,
        }
        print(json.dumps(answer))
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{which} policy, trained for {env_steps:,} steps: return {seen.return_mean:,.1f} ± "
        f"{seen.return_std:,.1f} over {counted(len(seen.returns), 'episode')} "
        f"({min(seen.returns):,.1f} to {max(seen.returns):,.1f})"
    )
    for sentence in in_words(moved, period_s):
        print(sentence)
