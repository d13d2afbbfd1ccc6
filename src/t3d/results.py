"""What runs came to, once they have ended: their films, their report, and a summary."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from t3d.env_spec import EnvSpec
from t3d.errors import VideoFailed
from t3d.execution.processes import Standing
from t3d.reports import compares_several, write_report
from t3d.runs.policies import film_policies
from t3d.runs.session import Session
from t3d.td3 import TD3
from t3d.training.evaluation import Evaluation


class Run(NamedTuple):
    """A finished run."""

    path: Path  # its folder
    best: Evaluation | None  # the best evaluation of the run; None if there was none (eval_every = never)
    best_env_steps: int  # when that was
    best_is_untrained: bool  # no update had been made by then
    last: Evaluation | None  # the evaluation at its end
    report: Path  # the page about it
    video: Path | None  # of the best policy; None if none was asked for or none could be drawn
    video_problem: VideoFailed | None  # why it, or that of the last policy beside it, could not be drawn

    def __str__(self) -> str:
        """Return what it came to, a line each."""
        lines = ["evaluation  none, as asked (eval_every never): the last policy counts"]
        if self.last is not None and self.best is not None:
            episodes = len(self.last.returns)
            over = f"{episodes:,} episode{'' if episodes == 1 else 's'}"
            untrained = ", untrained" if self.best_is_untrained else ""
            lines = [
                f"evaluation  return {self.last.return_mean:,.1f} ± {self.last.return_std:,.1f} over {over}"
                f" (best {self.best.return_mean:,.1f}, after {self.best_env_steps:,} steps{untrained})"
            ]
        lines += [f"folder      {self.path}", f"report      {self.report}"]
        if self.video:
            lines.append(f"video       {self.video}")
        if self.video_problem:
            lines.append(f"no video    {self.video_problem.one_line()}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the same: it is what a notebook shows."""
        return str(self)


class Seeds(NamedTuple):
    """Finished runs that differ in their seed alone."""

    path: Path  # the folder of their run folders
    seeds: tuple[Standing, ...]  # how each ended; `path` and `evaluation`, its last, among the rest
    report: Path  # the page about them


def finish(session: Session, *, video: bool, video_frames: int) -> Run:
    """Film the policies of a session that has run to its end, write its report, and sum the run up.

    A machine that cannot draw has still trained: the reason stands in the result, nothing is raised.

    Raises:
        Stopped: a signal asked for it while it was being filmed; the run itself is complete.
        RunRefused: the report cannot be written; the run itself is complete.
    """
    progress = session.progress
    filmed, problem = None, None
    if video and not session.config.hardware:
        filmed, problem = film_policies(
            session.path,
            frames=video_frames,
            env=session.env,
            anew=not session.had_ended,
            run_s=session.wall_s,
            algorithm=session.algorithm,
        )
    report = session.path / "report.html"
    films = [file.stat().st_mtime for file in (session.path / "video").glob("*.mp4")]
    # Of a run that had ended before it is kept, and so is one that somebody has made to compare this run with others.
    is_kept = session.had_ended and report.is_file() and max(films, default=0.0) <= report.stat().st_mtime
    if not is_kept and not compares_several(report):
        report = write_report([session.path])
    untrained = progress.best is not None and session.config.updates_at(progress.best_env_steps) == 0
    best, at, last = progress.best, progress.best_env_steps, progress.last
    return Run(session.path, best, at, untrained, last, report, filmed, problem)


def film_middle_seed(
    env: EnvSpec, seeds: list[Standing], *, frames: int, algorithm: type[TD3] | None = None
) -> tuple[Path | None, VideoFailed | None]:
    """Film, as `film_policies` does, the seed that a report shows: the one nearest the median by its last evaluation.

    Args:
        env: the environment.
        seeds: all of them have ended.
        frames: of each policy, at most so many.
        algorithm: a caller's class that trained them.
    """
    # SciPy, which the reports use, takes a second to import.
    from t3d.reports.videos import nearest_the_median

    evaluations = [seed.evaluation for seed in seeds if seed.evaluation is not None]
    middle = nearest_the_median([row["return_mean"] for row in evaluations])[0] if evaluations else 0
    run_s = max((row["wall_s"] for row in evaluations), default=0.0)
    return film_policies(seeds[middle].path, frames=frames, env=env, anew=True, run_s=run_s, algorithm=algorithm)
