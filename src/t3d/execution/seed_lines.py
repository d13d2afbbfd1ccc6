"""How far runs are that are trained side by side, in lines: what there is where no terminal shows bars."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from t3d.execution.processes import Standing
from t3d.formats import Row


def in_words(run: Standing) -> str:
    """Return how a run stands: its last evaluation and what is wrong with its training; or why it ended early."""
    if run.problem:
        return run.problem.splitlines()[0]
    seen = "" if run.running else "waiting"
    if run.evaluation:
        seen = f"evaluation {run.evaluation['return_mean']:,.0f}"
    return seen + ("  ! " + ", ".join(hint.name for hint in run.hints) if run.hints else "")


def by_seed(run: Standing) -> str:
    """Return what a run is called among others of other seeds."""
    return f"seed {run.seed}"


class SeedLines:
    """Print a line at an evaluation of each run.

    Args:
        name: what a run is called.
        least_s: seconds between two lines of one run; its last one comes in any case.
    """

    def __init__(self, name: Callable[[Standing], str] = by_seed, least_s: float = 0.0) -> None:
        self._name, self._least_s = name, least_s
        self._said: dict[Path, tuple[float, Row | None]] = {}

    def show(self, runs: Sequence[Standing]) -> None:
        """Print what is new."""
        for run in runs:
            said_s, row = self._said.get(run.path, (-math.inf, None))
            is_due = time.monotonic() - said_s >= self._least_s or not run.running
            if run.evaluation and run.evaluation != row and is_due:
                line = f"{self._name(run):<9} {run.evaluation['env_steps']:>9,} steps  {in_words(run)}"
                print(line, file=sys.stderr, flush=True)
                self._said[run.path] = time.monotonic(), run.evaluation
