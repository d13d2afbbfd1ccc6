"""The library's front door: `t3d.train`, `t3d.iterate`, and what the command line's other commands call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from t3d import presets
from t3d.address import refuse_while_imported
from t3d.config import Config, refuse_before_it_learns
from t3d.env_spec import EnvSpec, View, spec_of
from t3d.environments.make import is_hardware, spaces_in
from t3d.errors import ConfigRefused, Failed
from t3d.execution.jobs import Job, jobs_of, refuse_as_parent
from t3d.execution.places import side_by_side, train_jobs
from t3d.execution.seed_lines import SeedLines
from t3d.replay import slot_dtype
from t3d.reports import write_report
from t3d.results import Run, Seeds, film_middle_seed, finish
from t3d.runs import explanation
from t3d.runs.exports import export_policy
from t3d.runs.live_line import watch
from t3d.runs.policies import (
    environment_of,
    evaluate_run,
    film_policies,
    film_run,
    recorded_in,
    refuse_below_one,
)
from t3d.runs.rows import Rows
from t3d.runs.session import Session
from t3d.runs.signals import end_scripts_in_a_sentence
from t3d.td3 import TD3
from t3d.training.limits import refuse_too_large
from t3d.tuning.grid import Grid
from t3d.tuning.grid import jobs_of as grid_jobs
from t3d.tuning.tune import tune
from t3d.variants.contract import algorithm_of, kind_of

__all__ = [
    "Run",
    "Seeds",
    "evaluate_run",
    "export_policy",
    "film_middle_seed",
    "film_policies",
    "film_run",
    "finish",
    "refuse_below_one",
    "side_by_side",
    "train_jobs",
    "tune",
]

_LEAST_S = 1.0  # between two lines of progress, where a notebook would keep them all


@overload
def train(env: str | Callable[..., Any] | EnvSpec, *, seeds: None = None, **arguments: Any) -> Run: ...
@overload
def train(
    env: str | Callable[..., Any] | EnvSpec, *, seeds: int, jobs: int | None = None, **arguments: Any
) -> Seeds: ...
def train(
    env: str | Callable[..., Any] | EnvSpec,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    pixels: bool = False,
    preset: str | None = None,
    out: str | Path | None = None,
    resume: Literal["no", "auto"] = "no",
    algorithm: str | type[TD3] | None = None,
    algorithm_changed: bool = False,
    seeds: int | None = None,
    jobs: int | None = None,
    video: bool = True,
    video_frames: int = 300,
    quiet: bool = False,
    **options: Any,
) -> Run | Seeds:
    """Train a policy and keep everything in a run folder: what the command `t3d train` does.

    How far it is stands on stderr: in one line that changes in a terminal, elsewhere in a line at an evaluation, at
    most one a second.

    Args:
        env: a class, or a function that makes an environment; a registered id; or the name of one of these as
            `module:Name` or `path/to/file.py:Name`. Another process (of env_workers, or for a film) finds a class or
            function at the top level of a module or of the script that is run, and no other.
        env_kwargs: its arguments, as JSON can hold them; they are part of what the run is.
        wrappers: `module:Name` or `path/to/file.py:Name` of wrappers around it, the innermost first.
        pixels: the observation is the rendered picture; what the environment observes itself is hidden.
        preset: named set of options; None takes the environment's.
        out: the run folder; None takes runs/<env>/<preset>-s<seed>.
        resume: auto continues the run in that folder, if there is one.
        algorithm: td3 or td7; or a class derived from one of them, on the engine eager. None takes the preset's.
        algorithm_changed: that class may have been changed since it trained this run, which is not exact from there on.
        seeds: train so many, from `seed` on, in processes of their own; the folder is then their parent, and nothing
            is filmed.
        jobs: how many of them at a time; None takes as many as this process may use cores.
        video: film the best policy at the end, and the last one where it is another; never of hardware.
        video_frames: of each, at most so many.
        quiet: say nothing of how far it is.
        options: any option of `Config` and `TD3Config`, by its name.

    Raises:
        Refused: before anything began.
        Failed: while running; what was learned is saved.
        Stopped: a signal asked for it; what was learned is saved. It is a KeyboardInterrupt.
    """
    refuse_below_one("video_frames", video_frames)
    begun = _choose(env, env_kwargs, wrappers, pixels, preset, out, resume, algorithm, options, algorithm_changed)
    if seeds is not None:
        return _train_seeds(begun, seeds, jobs, quiet=quiet)
    session = begun.session()
    if quiet:
        with Rows(session) as rows:
            for _ in rows:
                pass
    else:
        watch(session, _LEAST_S)
    return finish(session, video=video, video_frames=video_frames)


def iterate(
    env: str | Callable[..., Any] | EnvSpec,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    pixels: bool = False,
    preset: str | None = None,
    out: str | Path | None = None,
    resume: Literal["no", "auto"] = "no",
    algorithm: str | type[TD3] | None = None,
    algorithm_changed: bool = False,
    **options: Any,
) -> Rows:
    """Train, handing out each row of metrics.jsonl as it is written: the same run as `train`'s, to the bit.

    Stop when you like: what was learned is saved once the loop is left, and `resume="auto"` goes on from there. `Rows`
    says when that is. Nothing is filmed, and the report is `t3d report`'s.

    Arguments as for `train`.

    Raises:
        Refused: before anything began. What reading the rows can raise, `Rows` says.
    """
    begun = _choose(env, env_kwargs, wrappers, pixels, preset, out, resume, algorithm, options, algorithm_changed)
    return Rows(begun.session())


class _Begun(NamedTuple):
    """What was asked for, and may begin."""

    env: EnvSpec
    choice: presets.Choice
    out: Path | None
    resume: bool
    algorithm: type[TD3] | None
    algorithm_changed: bool

    def session(self) -> Session:
        """Return the session of a run that begins, or goes on."""
        return Session(
            self.env,
            self.choice,
            self.out,
            resume=self.resume,
            algorithm=self.algorithm,
            algorithm_changed=self.algorithm_changed,
        )


def _train_seeds(begun: _Begun, seeds: int, jobs: int | None, *, quiet: bool) -> Seeds:
    for name, count in (("seeds", seeds), ("jobs", jobs or 1)):
        refuse_below_one(name, count)
    at_once, _ = side_by_side(jobs, seeds, begun.choice.config, "local")
    parent, planned = plan_seeds(
        begun.env,
        begun.choice,
        seeds,
        at_once,
        begun.out,
        resume=begun.resume,
        algorithm=begun.algorithm,
        algorithm_changed=begun.algorithm_changed,
    )
    ended = train_jobs(planned, at_once, (lambda _: None) if quiet else SeedLines(least_s=_LEAST_S).show)
    if failed := [seed for seed in ended if seed.problem]:
        raise Failed(
            f"{len(failed)} of {len(ended)} seeds did not reach the end",
            got="; ".join(f"seed {seed.seed}: {seed.problem}" for seed in failed),
            do=f'the same call with out="{parent}" and resume="auto" goes on with them',
        )
    return Seeds(parent, tuple(ended), write_report([parent]))


def _choose(
    env: str | Callable[..., Any] | EnvSpec,
    env_kwargs: Mapping[str, Any] | None,
    wrappers: Sequence[str],
    pixels: bool,
    preset: str | None,
    out: str | Path | None,
    resume: str,
    algorithm: str | type[TD3] | None,
    options: dict[str, Any],
    algorithm_changed: bool,
) -> _Begun:
    """Return what is to be trained, refused if it is impossible. Arguments as for `train`."""
    end_scripts_in_a_sentence()
    refuse_unknown_resume(resume)
    refuse_while_imported()
    spec = spec_of(env, env_kwargs, wrappers, pixels)
    own = None if isinstance(algorithm, str) else algorithm
    if algorithm is not None:
        options["algorithm"] = kind_of(algorithm) if own else algorithm
    choice = choose(spec, preset, options)
    if "random_steps" not in options:
        refuse_before_it_learns(choice.config)
    return _Begun(spec, choice, Path(out) if out else None, resume == "auto", own, algorithm_changed)


def choose(env: EnvSpec, preset: str | None = None, options: Mapping[str, Any] | None = None) -> presets.Choice:
    """Return preset and configuration, as `presets.choose` does, for what may be one physical device.

    Raises:
        ConfigRefused: as `presets.choose`.
        EnvRefused: what makes the environment is not there.
    """
    hardware = is_hardware(env) if (asked := (options or {}).get("hardware")) is None else bool(asked)
    images = preset is None and not hardware and spaces_in(env.looked_at(View(frame_size=16))).view is not None
    return presets.choose(env, preset, options, hardware=hardware, images=images)


def resume(
    run: Path,
    *,
    env: EnvSpec | None = None,
    steps: int | None = None,
    algorithm: type[TD3] | None = None,
    algorithm_changed: bool = False,
) -> Session:
    """Return the session that continues a run from its newest checkpoint; a finished one has nothing left to do.

    Args:
        run: the run folder.
        env: the environment; None takes the recorded one, if an installed suite registers it.
        steps: go on for longer than was planned; None goes on to what was.
        algorithm: as for `train`, where it is a class of the caller's.
        algorithm_changed: as for `train`.

    Raises:
        RunRefused: it is not a run folder, or nothing in it can be continued.
    """
    info = recorded_in(run)
    config = info.config if steps is None else info.config.with_values({"steps": steps})
    choice = presets.Choice(info.preset, config, "as recorded")
    return Session(
        environment_of(info, env),
        choice,
        run,
        resume=True,
        recorded=info,
        algorithm=algorithm,
        algorithm_changed=algorithm_changed,
    )


def explain_run(
    run: Path,
    *,
    at: int | None = None,
    batch: int = 0,
    env: EnvSpec | None = None,
    out: Path | None = None,
    video_frames: int = 300,
    algorithm: type[TD3] | None = None,
) -> tuple[Path, tuple[str, ...]]:
    """Write one page that takes a batch of a run through steps 4 to 15, and shows an episode as its critics saw it.

    Nothing else is written, and no lock is taken: a run that goes on may be explained.

    Args:
        run: the run folder.
        at: env steps of the checkpoint; None takes the newest.
        batch: which batch: another number is another draw.
        env: the environment, where that is not an installed suite's id alone; None then goes without an episode.
        out: the page; None takes explain.html in the run folder.
        video_frames: of the film, at most so many.
        algorithm: the class that trained it, where that is the caller's own.

    Returns:
        The page, and what a reader must know.

    Raises:
        RunRefused, ConfigRefused: there is nothing that could be explained.
        Stopped: a signal asked for it.
    """
    refuse_below_one("video_frames", video_frames)
    if batch < 0:
        raise ConfigRefused("batch is impossible", got=f"batch = {batch}", expected="0 or above", do="change --batch")
    # SciPy, which pages use, takes a second to import.
    from t3d.reports.explain import render
    from t3d.reports.html import write

    explained = explanation.gather(run, at, batch, env, video_frames, algorithm)
    return write(render(explained), out or run / "explain.html"), explained.notes


def plan_seeds(
    env: EnvSpec,
    choice: presets.Choice,
    seeds: int,
    jobs: int,
    out: Path | None = None,
    *,
    resume: bool = False,
    algorithm: type[TD3] | None = None,
    algorithm_changed: bool = False,
) -> tuple[Path, list[Job]]:
    """Return the parent folder and the jobs that train several seeds of one configuration, the environment looked at.

    Args:
        env: which environment.
        choice: preset and configuration; the seeds begin with its own.
        seeds: how many.
        jobs: how many of them at a time on this machine: their replay memories must fit into it together.
        out: the parent folder; None takes runs/<env>/<preset>-n<seeds>.
        resume: go on with the runs that are there; else the folder is made.
        algorithm: as for `train`, where it is a class of the caller's.
        algorithm_changed: as for `train`.

    Raises:
        Refused: what the first of them would be refused for.
    """
    choice.config.check_together()
    algorithm_of(choice.config, algorithm)
    _refuse_memory(env, choice.config, jobs)
    return jobs_of(env, choice, seeds, out, resume=resume, algorithm=algorithm, algorithm_changed=algorithm_changed)


def plan_grid(
    env: EnvSpec, grid: Grid, seeds: int, jobs: int, parent: Path, algorithm: type[TD3] | None = None
) -> list[Job]:
    """Return the jobs that train some seeds of every configuration of a grid, the environment looked at.

    Args:
        env: which environment.
        grid: the configurations.
        seeds: of each, from its own on.
        jobs: how many of them at a time on this machine: their replay memories must fit into it together.
        parent: the folder of the runs; what is there goes on.
        algorithm: as for `train`, where it is a class of the caller's.

    Raises:
        Refused: what one of them would be refused for.
    """
    for config in {(c.view, c.buffer_size): c for c in (point.choice.config for point in grid.points)}.values():
        _refuse_memory(env, config, jobs)
    return grid_jobs(env, grid, seeds, parent, algorithm)


def plan_study(env: EnvSpec, config: Config, jobs: int, folder: Path) -> None:
    """Refuse a study before it begins, the environment looked at.

    Raises:
        Refused: what one of its runs would be refused for.
    """
    refuse_as_parent(env, folder)
    _refuse_memory(env, config, jobs)


def _refuse_memory(env: EnvSpec, config: Config, jobs: int) -> None:
    """Refuse so many replay memories at once, if this machine cannot hold them."""
    needed = jobs * config.buffer_size * slot_dtype(spaces_in(env.looked_at(config.view))).itemsize
    refuse_too_large("the replay memory", needed, "lower --buffer-size or --jobs")


def best_of_grid(paths: Sequence[Path]) -> str:
    """Say which group of some runs did best, and how optimistic that is."""
    # SciPy, which the reports use, takes a second to import.
    from t3d.reports.page import gather
    from t3d.reports.wording import best_of

    numbers = gather(paths).numbers
    return "\n".join(f"best        {best_of(entry)}" for entry in numbers["best_of"])


def refuse_unknown_resume(resume: str) -> None:
    """Refuse another word than no and auto.

    Raises:
        ConfigRefused: it is one.
    """
    if resume not in ("no", "auto"):
        raise ConfigRefused("resume is impossible", got=f"resume = {resume}", expected="no or auto")
