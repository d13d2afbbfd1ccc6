"""`t3d check`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import parse
from t3d.env_spec import View
from t3d.errors import ConfigRefused

_COLOURS = {"ok": "green", "look": "yellow", "fails": "red"}


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Look at an environment before training in it: spaces, bounds, numbers, repeatability, speed."""

    env: tyro.conf.Positional[str]
    """A registered id, module:Name (an id that it registers, a class, or a function), or path/to/file.py:Name."""
    steps: int | None = None
    """Random steps to take, three times: 1,000 if left out. Hardware takes them once, and none if left out."""
    frame: Path | None = None
    """With --pixels: write what is seen after some random steps to this .png, the picture and the frames made of it."""
    json: bool = False
    """Print one JSON object and nothing else."""
    view: View = field(default_factory=View)
    """How images are looked at."""


def main(arguments: list[str]) -> int:
    """Check and print what was found; return 1 if training would fail."""
    args = parse(Arguments, "check", arguments)

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from t3d import api
    from t3d.environments import check_pixels
    from t3d.environments.check import STEPS, check, steps_taken
    from t3d.runs import seen_picture

    if args.steps is not None:
        api.refuse_below_one("steps", args.steps)
    env = args.spec(args.env).looked_at(args.view)
    if args.frame is not None:
        if not env.pixels:
            raise ConfigRefused("a frame is drawn with --pixels alone", got=f"--frame {args.frame}", do="add --pixels")
        check_pixels.refuse_impossible_file(args.frame)
    console = Console(stderr=True)
    # Own environments may print; under --json stdout is the object's alone.
    quiet = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with quiet, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("random steps", total=steps_taken(args.steps or STEPS))
        findings = check(env, args.steps, lambda: progress.advance(task))
        if env.pixels:
            looked = check_pixels.look(env)
            findings += looked.findings
            if args.frame is not None:
                seen_picture.write_of(args.frame, looked.pictures, env.view)
                print(f"frame in {args.frame}", file=sys.stderr)
    if args.json:
        rows = [finding._asdict() for finding in findings]
        print(json.dumps({"env": env.title, "findings": rows}))
    else:
        table = Table(title=Text(env.title), show_header=False, box=None, padding=(0, 1), title_justify="left")
        for name, verdict, text in findings:
            table.add_row(Text(verdict, _COLOURS[verdict]), name, Text(text))
        Console().print(table)
    return int(any(finding.verdict == "fails" for finding in findings))
