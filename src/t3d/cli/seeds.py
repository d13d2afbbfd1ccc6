"""Runs side by side, as `t3d train --seeds` and `t3d sweep` show them: a progress line each, then what they reached."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from t3d import api
from t3d.cli.parsing import counted
from t3d.cli.track import beside
from t3d.env_spec import EnvSpec
from t3d.errors import Failed
from t3d.execution.jobs import Job
from t3d.execution.processes import Standing
from t3d.execution.seed_lines import SeedLines, by_seed, in_words
from t3d.presets import Choice
from t3d.reports import write_report
from t3d.td3 import TD3

_MOST_LINES = 20


def main(
    env: EnvSpec,
    choice: Choice,
    plan: tuple[Path, list[Job]],
    jobs: int,
    video_frames: int | None,
    algorithm: type[TD3] | None = None,
    track: str | None = None,
    on: str = "local",
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
        track: a tracker that follows them.
        on: where they are trained.

    Raises:
        Failed: not every seed has ended; the others are complete.
    """
    parent, planned = plan
    where = "" if on == "local" else f", on {on}"
    print(
        f"{env.title}, preset {choice.preset} ({choice.reason}): {counted(len(planned), 'seed')}, "
        f"{jobs} at a time{where}, "
        f"{counted(planned[0].config['threads'], 'thread')} each\nfolder {parent}",
        file=sys.stderr,
    )
    with beside(parent, track):
        with Lines(choice.config.steps) as lines:
            ended = api.train_jobs(planned, jobs, lines.show, on)
        _tell(env, parent, ended, video_frames, algorithm)


def _tell(
    env: EnvSpec, parent: Path, ended: list[Standing], video_frames: int | None, algorithm: type[TD3] | None
) -> None:
    print(_closing(ended))
    refuse_unfinished(ended, "seed", "the same command with --resume auto goes on with them")
    print(f"folder      {parent}")
    if video_frames is not None:
        print("filming the best and the last policy of the seed nearest the median ...", file=sys.stderr)
        video, problem = api.film_middle_seed(env, ended, frames=video_frames, algorithm=algorithm)
        if video:
            print(f"video       {video}")
        if problem:
            print(f"no video    {problem.one_line()}")
    print(f"report      {write_report([parent])}")


def refuse_unfinished(ended: list[Standing], noun: str, do: str) -> None:
    """Say which runs have not come to their end.

    Args:
        ended: how every run stands.
        noun: what a run is called: seed, or run.
        do: what to do about it.

    Raises:
        Failed: there is one.
    """
    if failed := [run for run in ended if run.problem]:
        raise Failed(
            f"{counted(len(failed), noun)} of {len(ended)} did not reach the end",
            got="; ".join(f"{_name(run, noun)}: {run.problem.splitlines()[0]}" for run in failed),
            do=f"{do}; what each said stands above",
        )


def _name(run: Standing, noun: str) -> str:
    return by_seed(run) if noun == "seed" else run.path.name


class Lines:
    """A bar for each run, with what is wrong; where stderr is no terminal, a line at each of its evaluations.

    Args:
        steps: env steps of a run.
        noun: what a run is called, and named by: seed, or run, and then its folder.
    """

    def __init__(self, steps: int, noun: str = "seed") -> None:
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
        self._noun = noun
        self._tasks: dict[Path, TaskID] = {}
        self._lines = SeedLines(lambda run: _name(run, noun))

    def __enter__(self) -> Lines:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, runs: list[Standing]) -> None:
        """Bring every line up to date; of many runs only those that are being trained have one."""
        for run in runs:
            name = _name(run, self._noun)
            if run.path not in self._tasks:
                self._tasks[run.path] = self._progress.add_task(name, total=self._steps, seen="")
            shown = len(runs) <= _MOST_LINES or run.running or bool(run.problem)
            steps = min(run.env_steps, self._steps)
            self._progress.update(self._tasks[run.path], completed=steps, seen=in_words(run), visible=shown)
        if self._progress.disable:
            self._lines.show(runs)


def _closing(seeds: list[Standing]) -> str:
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
