"""The live line under a training run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from contextlib import closing

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from t3d.diagnosis.hints import Hint, hints
from t3d.formats import Row
from t3d.runs.live_report import LiveReport
from t3d.runs.session import Session


class _Live(Progress):
    """A progress line that asks the session how far it is whenever it is drawn: the loop need not tell."""

    session: Session

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            self.update(task.id, completed=min(self.session.trainer.env_steps, self.session.config.steps))
        return super().get_renderables()


class _Steps(ProgressColumn):
    """Env steps done, of all, and their rate."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = f"{speed:,.0f}/s" if speed else "-/s"
        return Text(f"{int(task.completed):>9,}/{int(task.total or 0):,} steps {rate:>7}")


def columns() -> list[ProgressColumn]:
    """Return the parts of the live line: in 80 columns what was seen last may be cut, and never a number of steps."""
    return [
        BarColumn(4, table_column=Column(no_wrap=True, min_width=4)),
        _Steps(table_column=Column(no_wrap=True, min_width=33)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[seen]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    ]


def watch(session: Session, least_s: float = 0.0) -> None:
    """Run a session to its end, showing env steps, their rate, time left, last episode and last evaluation.

    What is wrong is named as long as it is, and reported in full when it is first seen. Where stderr is no terminal,
    one line is printed at every evaluation instead of the live one.

    Args:
        session: which has not run yet.
        least_s: seconds between two such lines; an evaluation that comes sooner has none, unless it is the last.
    """
    console = Console(stderr=True)
    progress = _Live(*columns(), console=console, disable=not console.is_terminal)
    progress.session = session
    with LiveReport(session.path) as page, progress, closing(session.run()) as rows:
        task = progress.add_task("train", total=session.config.steps, seen="random actions")
        episode = evaluation = wrong = ""
        health = session.rows("health")
        shown: set[str] = set()
        said_s, unsaid = -math.inf, ""
        for row in rows:
            if row["kind"] == "episode":
                episode = f"episode {row['return']:,.0f}"
            elif row["kind"] == "evaluation":
                page.evaluated()
                evaluation = f"eval {row['return_mean']:,.0f}"
                unsaid = _plain(row)
                if progress.disable and time.monotonic() - said_s >= least_s:
                    _say(progress, unsaid)
                    said_s, unsaid = time.monotonic(), ""
            elif row["kind"] == "health":
                health.append(row)
                wrong_now = hints(health)
                wrong = "! " + ", ".join(hint.name for hint in wrong_now) if wrong_now else ""
                for hint in wrong_now:
                    if hint.name not in shown:
                        _say(progress, _full(row, hint))
                shown |= {hint.name for hint in wrong_now}
            seen = "  ".join(text for text in (wrong, evaluation, episode) if text)
            progress.update(task, seen=seen)
        if progress.disable and unsaid:
            _say(progress, unsaid)


def _say(progress: Progress, line: str) -> None:
    """Print a line above the live one, or as it is where there is none: in a notebook Rich would show it as HTML."""
    if progress.disable:
        print(line, file=sys.stderr, flush=True)
    else:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _plain(row: Row) -> str:
    policy = f", {row['policy']} policy" if "policy" in row else ""
    return (
        f"{row['env_steps']:>9,} steps  {row['wall_s']:>8,.0f} s  "
        f"evaluation {row['return_mean']:,.1f} ± {row['return_std']:,.1f}{policy}"
    )


def _full(row: Row, hint: Hint) -> str:
    return f"{row['env_steps']:>9,} steps  {hint.name}: {hint}"
