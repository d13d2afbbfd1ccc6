"""`t3d track`, and the process of it that `t3d train --track` starts beside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from t3d.cli.parsing import counted, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Send a run's configuration, numbers, films and report to an experiment tracker, live or afterwards.

    What the tracker has already is not sent again, after a kill of the run or of this command. W&B's own variables hold
    (WANDB_MODE=offline, WANDB_PROJECT, WANDB_DIR), and MLflow's (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or one that holds several."""
    to: Literal["wandb", "mlflow"]
    """Weights & Biases, or MLflow."""


def main(arguments: list[str]) -> None:
    """Follow, and print how many rows were sent."""
    args = parse(Arguments, "track", arguments)

    from t3d.tracking.follow import follow

    print(f"sent        {counted(follow(args.run, args.to), 'row')} to {args.to}")


@contextmanager
def beside(folder: Path, to: str | None) -> Iterator[None]:
    """Track what is trained meanwhile, in a process of its own; whatever happens to that one, training goes on.

    Args:
        folder: of the run, or of several.
        to: the tracker; None tracks nothing.
    """
    if to is None:
        yield
        return
    command = [sys.executable, "-P", "-m", "t3d.tracking.follow", str(folder), to]
    # A session of its own: Ctrl-C is for the run, and the tracker sends its last rows.
    tracker = subprocess.Popen(  # noqa: S603 - our own interpreter and module; arguments reach no shell
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert tracker.stdin is not None
        tracker.stdin.close()
        if code := tracker.wait():
            print(
                f"tracking by {to} ended with exit code {code}; t3d track {folder} --to {to} sends the rest",
                file=sys.stderr,
            )
