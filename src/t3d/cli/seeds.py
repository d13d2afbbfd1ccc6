"""`t3d train --seeds`: one progress line a seed, then what they reached."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from t3d import api
from t3d.cli.parsing import counted
from t3d.env_spec import EnvSpec
from t3d.errors import Failed
from t3d.formats import Row
from t3d.presets import Choice
from t3d.reports import write_report
from t3d.runs.seeds import Job, Seed
from t3d.td3 import TD3


def main(
    env: EnvSpec,
    choice: Choice,
    plan: tuple[Path, list[Job]],
    jobs: int,
    video_frames: int | None,
    algorithm: type[TD3] | None = None,
) -> None:
    """Train the seeds, or go on with them; print a line for each, and film the one in their middle, or none without
    frames.

    Args:
        env: which environment.
        choice: preset and configuration.
        plan: the parent folder and a job for each seed, as `api.plan_seeds` gave them.
        jobs: how many at a time.
        video_frames: of each film, at most so many.
        algorithm: a caller's.

    Raises:
        Failed: not every seed has ended; the others are complete.
    """
    parent, planned = plan
    print(
        f"{env.title}, preset {choice.preset} ({choice.reason}): {counted(len(planned), 'seed')}, {jobs} at a time, "
        f"{counted(planned[0].config['threads'], 'thread')} each\nfolder {parent}",
        file=sys.stderr,
    )
    with _Lines(choice.config.steps) as lines:
        ended = api.train_seeds(planned, jobs, lines.show)
    print(_closing(ended))
    if failed := [seed for seed in ended if seed.problem]:
        raise Failed(
            f"{counted(len(failed), 'seed')} of {len(ended)} did not reach the end",
            got="; ".join(f"seed {seed.seed}: {seed.problem.splitlines()[0]}" for seed in failed),
            do="the same command with --resume auto goes on with them; what each said stands above",
        )
    print(f"folder      {parent}")
    if video_frames is not None:
        print("filming the best and the last policy of the seed nearest the median ...", file=sys.stderr)
        video, problem = api.film_middle_seed(env, ended, frames=video_frames, algorithm=algorithm)
        if video:
            print(f"video       {video}")
        if problem:
            print(f"no video    {problem.one_line()}")
    print(f"report      {write_report([parent])}")


class _Lines:
    """A bar for each seed, with what is wrong; where stderr is no terminal, a line at each of its evaluations."""

    def __init__(self, steps: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=6)),
            BarColumn(10, table_column=Column(no_wrap=True, min_width=4)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=17)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[seen]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
        )
        self._progress.disable = not console.is_terminal
        self._steps = steps
        self._tasks: dict[int, TaskID] = {}
        self._said: dict[int, Row | None] = {}

    def __enter__(self) -> _Lines:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, seeds: list[Seed]) -> None:
        for seed in seeds:
            if seed.seed not in self._tasks:
                self._tasks[seed.seed] = self._progress.add_task(f"seed {seed.seed}", total=self._steps, seen="")
            seen = "" if seed.running else "waiting"
            if seed.evaluation:
                seen = f"evaluation {seed.evaluation['return_mean']:,.0f}"
            if seed.hints:
                seen += "  ! " + ", ".join(hint.name for hint in seed.hints)
            if seed.problem:
                seen = seed.problem.splitlines()[0]
            self._progress.update(self._tasks[seed.seed], completed=min(seed.env_steps, self._steps), seen=seen)
            if self._progress.disable and seed.evaluation and seed.evaluation != self._said.get(seed.seed):
                line = f"seed {seed.seed:<4} {seed.evaluation['env_steps']:>9,} steps  {seen}"
                print(line, file=sys.stderr, flush=True)
                self._said[seed.seed] = seed.evaluation


def _closing(seeds: list[Seed]) -> str:
    lines = []
    for seed in seeds:
        if seed.problem:
            lines.append(f"seed {seed.seed:<6} stopped after {seed.env_steps:,} steps: {seed.problem}")
        elif seed.evaluation is None:
            lines.append(f"seed {seed.seed:<6} no evaluation, as asked")
        else:
            row = seed.evaluation
            lines.append(f"seed {seed.seed:<6} return {row['return_mean']:,.1f} ± {row['return_std']:,.1f}")
    last = [[seed.evaluation["return_mean"]] for seed in seeds if seed.evaluation and not seed.problem]
    if len(last) > 1:
        # SciPy takes a second to import.
        from t3d.reports.statistics import mean

        band = mean(last)
        assert band.low is not None and band.high is not None
        interval = f"95 % interval {band.low[0]:,.1f} to {band.high[0]:,.1f}"
        lines.append(f"all         return {band.value[0]:,.1f}, {interval}, mean of {len(last)} seeds (Student's t)")
    return "\n".join(lines)
