"""The library's front door: what `t3d.train` does. The command line does the same, with a progress bar."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

from t3d import presets
from t3d.address import refuse_while_imported
from t3d.env_spec import EnvSpec, spec_of
from t3d.environments.make import spaces_in
from t3d.errors import ConfigRefused, RunRefused, VideoFailed
from t3d.formats import PolicyInfo, RunRecord
from t3d.policy.policy import ARCHITECTURES, Policy, load
from t3d.replay import slot_dtype
from t3d.reports import write_report
from t3d.runs import run_folder
from t3d.runs.seeds import Job, Seed, jobs_of, train_seeds
from t3d.runs.session import Session
from t3d.runs.signals import Signals
from t3d.runs.video import film
from t3d.spaces import Spaces
from t3d.storage import disk
from t3d.td3 import TD3
from t3d.training import evaluation
from t3d.training.evaluation import Evaluation, evaluate
from t3d.training.limits import refuse_too_large

__all__ = ["train_seeds"]


class Run(NamedTuple):
    """A finished run."""

    path: Path  # its folder
    best: Evaluation  # the best evaluation of the run
    best_env_steps: int  # when that was
    last: Evaluation  # the evaluation at its end
    report: Path  # the page about it
    video: Path | None  # of the best policy; None if none was asked for or none could be drawn
    video_problem: VideoFailed | None  # why it, or that of the last policy beside it, could not be drawn


def train(
    env: str | Callable[..., Any] | EnvSpec,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    preset: str | None = None,
    out: str | Path | None = None,
    resume: Literal["no", "auto"] = "no",
    algorithm: type[TD3] = TD3,
    video: bool = True,
    video_frames: int = 300,
    **options: Any,
) -> Run:
    """Train a policy and keep everything in a run folder: what the command `t3d train` does.

    Args:
        env: a class, or a function that makes an environment; a registered id; or the name of one of these as
            `module:Name` or `path/to/file.py:Name`. Another process (of env_workers, or for a film) finds a class or
            function at the top level of a module or of the script that is run, and no other.
        env_kwargs: its arguments, as JSON can hold them; they are part of what the run is.
        wrappers: `module:Name` or `path/to/file.py:Name` of wrappers around it, the innermost first.
        preset: named set of options; None takes the environment's.
        out: the run folder; None takes runs/<env>/<preset>-s<seed>.
        resume: auto continues the run in that folder, if there is one.
        algorithm: a subclass of TD3 that changes it; it runs on the engine eager.
        video: film the best policy at the end, and the last one where it is another.
        video_frames: of each, at most so many.
        options: any option of `Config` and `TD3Config`, by its name.

    Raises:
        Refused: before anything began.
        Failed: while running; what was learned is saved.
        Stopped: a signal asked for it; what was learned is saved. It is a KeyboardInterrupt.
    """
    refuse_below_one("video_frames", video_frames)
    refuse_unknown_resume(resume)
    refuse_while_imported()
    spec = spec_of(env, env_kwargs, wrappers)
    choice = presets.choose(spec, preset, options)
    session = Session(spec, choice, Path(out) if out else None, resume=resume == "auto", algorithm=algorithm)
    with closing(session.run()) as rows:
        for _ in rows:
            pass
    return finish(session, video=video, video_frames=video_frames)


def resume(run: Path, *, env: EnvSpec | None = None, steps: int | None = None) -> Session:
    """Return the session that continues a run from its newest checkpoint; a finished one has nothing left to do.

    Args:
        run: the run folder.
        env: the environment; None takes the recorded one, if an installed suite registers it.
        steps: go on for longer than was planned; None goes on to what was.

    Raises:
        RunRefused: it is not a run folder, or nothing in it can be continued.
    """
    info = _recorded(run)
    config = info.config if steps is None else info.config.with_values({"steps": steps})
    choice = presets.Choice(info.preset, config, "as recorded")
    return Session(_environment(info, env), choice, run, resume=True, recorded=info)


def plan_seeds(
    env: EnvSpec, choice: presets.Choice, seeds: int, jobs: int, out: Path | None = None
) -> tuple[Path, list[Job]]:
    """Return the parent folder and the jobs that train several seeds of one configuration, the environment looked at.

    Args:
        env: which environment.
        choice: preset and configuration; the seeds begin with its own.
        seeds: how many.
        jobs: how many will be trained at a time: their replay memories must fit together.
        out: the parent folder; None takes runs/<env>/<preset>-n<seeds>.

    Raises:
        Refused: what the first of them would be refused for.
    """
    choice.config.check_together()
    slot_bytes = slot_dtype(spaces_in(env)).itemsize
    refuse_too_large(
        "the replay memory", jobs * choice.config.buffer_size * slot_bytes, "lower --buffer-size or --jobs"
    )
    return jobs_of(env, choice, seeds, out)


def film_middle_seed(env: EnvSpec, seeds: list[Seed], *, frames: int) -> tuple[Path | None, VideoFailed | None]:
    """Film, as `film_policies` does, the seed that a report shows: the one nearest the median by its last evaluation.

    Args:
        env: the environment.
        seeds: all of them have ended.
        frames: of each policy, at most so many.
    """
    # SciPy, which the reports use, takes a second to import.
    from t3d.reports.videos import nearest_the_median

    evaluations = [seed.evaluation for seed in seeds if seed.evaluation is not None]
    assert len(evaluations) == len(seeds)
    middle = nearest_the_median([row["return_mean"] for row in evaluations])[0]
    return film_policies(seeds[middle].path, frames=frames, env=env, anew=True)


def refuse_unknown_resume(resume: str) -> None:
    """Refuse another word than no and auto.

    Raises:
        ConfigRefused: it is one.
    """
    if resume not in ("no", "auto"):
        raise ConfigRefused("resume is impossible", got=f"resume = {resume}", expected="no or auto")


def finish(session: Session, *, video: bool, video_frames: int) -> Run:
    """Film the policies of a session that has run to its end, write its report, and sum the run up.

    A machine that cannot draw has still trained: the reason stands in the result, nothing is raised.

    Raises:
        Stopped: a signal asked for it while it was being filmed; the run itself is complete.
        RunRefused: the report cannot be written; the run itself is complete.
    """
    progress = session.progress
    assert progress.best is not None and progress.last is not None
    filmed, problem = None, None
    if video:
        filmed, problem = film_policies(
            session.path,
            frames=video_frames,
            env=session.env,
            anew=not session.had_ended,
            algorithm=session.algorithm,
        )
    report = session.path / "report.html"
    films = [file.stat().st_mtime for file in (session.path / "video").glob("*.mp4")]
    # Of a run that had ended before it is kept: it may have been made to compare this run with others.
    if not (session.had_ended and report.is_file() and max(films, default=0.0) <= report.stat().st_mtime):
        report = write_report([session.path])
    return Run(session.path, progress.best, progress.best_env_steps, progress.last, report, filmed, problem)


def film_policies(
    run: Path, *, frames: int, env: EnvSpec, anew: bool, algorithm: type[TD3] | None = None
) -> tuple[Path | None, VideoFailed | None]:
    """Film the best policy of a run that has ended, and the last one where it is another.

    Args:
        run: the run folder.
        frames: of each, at most so many.
        env: the environment.
        anew: whether videos that are there show policies of before.
        algorithm: as for `policy.load`.

    Returns:
        The best policy's video, or None, and why one of the two could not be drawn, or None.

    Raises:
        Stopped: a signal asked for it.
    """
    filmed = None
    try:
        best, last = (run_folder.policy_path(run, which) for which in ("best", "last"))
        same = filecmp.cmp(best, last, shallow=False)
        if same and anew and _video_path(run, "last").is_file():
            disk.remove(_video_path(run, "last"))
        for which in ("best",) if same else ("best", "last"):
            video = _video_path(run, which)
            if anew or not video.is_file():
                film_run(run, which, frames=frames, env=env, algorithm=algorithm)
            filmed = filmed or video
    except VideoFailed as error:
        return filmed, error
    except (RunRefused, OSError) as error:
        return filmed, VideoFailed("the policies cannot be filmed", got=" ".join(str(error).split()))
    return filmed, None


def film_run(
    run: Path, which: str, *, frames: int, env: EnvSpec | None = None, algorithm: type[TD3] | None = None
) -> Path:
    """Film the first evaluation episode of a run's policy.

    Args:
        run: the run folder.
        which: the `best` or the `last` policy.
        frames: at most so many.
        env: the environment; None takes the recorded one.
        algorithm: as for `policy.load`.

    Returns:
        The video's path.

    Raises:
        VideoFailed: nothing on this machine can draw it.
        Stopped: a signal asked for it.
        RunRefused: it is not a run folder, has no such policy, or was trained in another environment.
    """
    refuse_below_one("video_frames", frames)
    info = _recorded(run)
    video = _video_path(run, which)
    # Looked at here, so that what is wrong with it is not taken for a machine that cannot draw.
    policy = _policy_of(run, which, info, algorithm)
    spec = _environment(info, env)
    _refuse_other_spaces(policy.info, spec)
    with Signals() as signals:
        film(
            spec,
            run_folder.policy_path(run, which),
            video,
            seed=info.config.seed,
            frames=frames,
            between=signals.stop_here,
            algorithm=None if policy.info.architecture in ARCHITECTURES else algorithm,
        )
    return video


def _video_path(run: Path, which: str) -> Path:
    return run / "video" / f"{which}.mp4"


def evaluate_run(
    run: Path,
    which: str,
    *,
    episodes: int | None = None,
    env: EnvSpec | None = None,
    algorithm: type[TD3] | None = None,
) -> tuple[Evaluation, int]:
    """Play a run's policy as its own evaluations did.

    Args:
        run: the run folder.
        which: the `best` or the `last` policy.
        episodes: how many; None takes the run's own number.
        env: the environment; None takes the recorded one, if an installed suite registers it.
        algorithm: as for `policy.load`.

    Returns:
        What was seen, and the env steps that the policy had trained for.

    Raises:
        RunRefused: it is not a run folder, has no such policy, or was trained in another environment.
    """
    info = _recorded(run)
    episodes = info.config.eval_episodes if episodes is None else episodes
    refuse_below_one("episodes", episodes)
    policy = _policy_of(run, which, info, algorithm)
    spec = _environment(info, env)
    _refuse_other_spaces(policy.info, spec)
    with Signals() as signals:
        seen = evaluate(
            policy.act,
            spec,
            episodes=episodes,
            seed=info.config.seed,
            fresh=info.config.fresh_envs,
            max_episode_steps=info.config.max_episode_steps or evaluation.LEAST_PATIENCE,
            between=signals.stop_here,
        )
    return seen, policy.info.env_steps


def _recorded(run: Path) -> RunRecord:
    run_folder.refuse_odd_files(run)
    return run_folder.read_config(run)


def _policy_of(run: Path, which: str, record: RunRecord, algorithm: type[TD3] | None) -> Policy:
    policy = load(run_folder.policy_path(run, which), algorithm)
    if policy.info.run != record.run:
        raise RunRefused(
            "this policy is another run's",
            got=f"{run_folder.policy_path(run, which)}: run {policy.info.run}",
            expected=f"run {record.run}",
            do="copy the run again",
        )
    return policy


def _environment(recorded: RunRecord, given: EnvSpec | None) -> EnvSpec:
    """Return the environment to make. What a file says of code, or to code, is compared with the given, never followed.

    Raises:
        RunRefused: another one was given, or none where one must be.
    """
    spec = recorded.spec
    if given is not None and given.identity != spec.identity:
        raise RunRefused(
            "the run was trained in another environment",
            got=given.title,
            expected=spec.title,
            do=f"{spec.command_words or f'--env {spec.name}'}",
        )
    if given is None and not spec.is_named:
        raise RunRefused(
            "this run's environment was made by a function that has no name for other processes",
            got=spec.title,
            do='t3d.train(the function, resume="auto", out=...) goes on with it, t3d.load plays its policies',
        )
    if given is None and not spec.is_registered:
        raise RunRefused(
            "this run's environment is your own code, or has arguments, and neither is taken from a file",
            got=spec.title,
            expected="the environment on the command line",
            do=f"add {spec.command_words} if you trust it",
        )
    return given or spec


def refuse_below_one(name: str, count: int) -> None:
    """Refuse a count of nothing.

    Raises:
        ConfigRefused: count is below 1.
    """
    if count < 1:
        raise ConfigRefused(
            f"{name} is impossible",
            got=f"{name} = {count}",
            expected="1 or above",
            do=f"change --{name.replace('_', '-')}",
        )


def _refuse_other_spaces(policy: PolicyInfo, env: EnvSpec) -> None:
    spaces = spaces_in(env)
    if spaces != policy.spaces:
        raise RunRefused(
            "this environment's spaces are not those that the policy was trained for",
            got=f"{env.title}: {_in_words(spaces)}",
            expected=_in_words(policy.spaces),
            do="use the version of the environment that the policy was trained in",
        )


def _in_words(spaces: Spaces) -> str:
    return f"observation {spaces.obs_in_words}, action from {spaces.action_low} to {spaces.action_high}"
