"""A run's policies, played: evaluated, and filmed; in its own environment or in another of equal shapes."""

from __future__ import annotations

import filecmp
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d import presets
from t3d.config import Config
from t3d.diagnosis import actions
from t3d.diagnosis.actions import ActionTrace
from t3d.env_spec import EnvSpec
from t3d.environments.make import spaces_in
from t3d.errors import ConfigRefused, RunRefused, VideoFailed
from t3d.formats import MILESTONES, RunRecord
from t3d.policy import files
from t3d.policy.policy import Policy, load
from t3d.runs import run_folder
from t3d.runs.signals import Signals
from t3d.runs.video import SMALL_FRAMES, film
from t3d.spaces import Spaces
from t3d.storage import disk
from t3d.td3 import TD3
from t3d.training import evaluation
from t3d.training.evaluation import Evaluation

Which = Literal["best", "last", "start", "quarter", "half"]
# What the films of how a run learned, the last policy's among them, may take together: of the run's time, or seconds.
_LEARNING_SHARE, _LEARNING_S = 0.05, 30.0


def film_policies(
    run: Path, *, frames: int, env: EnvSpec, anew: bool, run_s: float = 0.0, algorithm: type[TD3] | None = None
) -> tuple[Path | None, VideoFailed | None]:
    """Film the best policy of a run that has ended, the last one where it is another, and those kept on the way.

    Args:
        run: the run folder.
        frames: of each, at most so many.
        env: the environment.
        anew: whether videos that are there show policies of before; else those kept on the way are left as they are.
        run_s: how long the run took, in seconds, which bounds what the films of those on the way may take.
        algorithm: as for `policy.load`.

    Returns:
        The best policy's video, or None, and why one of them could not be drawn, or None.

    Raises:
        Stopped: a signal asked for it.
    """
    filmed = None
    try:
        best, last = (run_folder.policy_path(run, which) for which in ("best", "last"))
        wanted: tuple[Which, ...] = ("best", "last") if best.is_file() else ("last",)
        if len(wanted) == 2 and filecmp.cmp(best, last, shallow=False):
            wanted = ("best",)
            if anew and _video_path(run, "last").is_file():
                disk.remove(_video_path(run, "last"))
        begun = time.monotonic()
        for which in wanted:
            begun, video = time.monotonic(), _video_path(run, which)
            if anew or not video.is_file():
                film_run(run, which, frames=frames, env=env, algorithm=algorithm)
            filmed = filmed or video
        if anew:
            until = begun + max(_LEARNING_SHARE * run_s, _LEARNING_S)
            _film_milestones(run, min(frames, SMALL_FRAMES), env, algorithm, until)
    except VideoFailed as error:
        return filmed, error
    except (RunRefused, OSError) as error:
        return filmed, VideoFailed("the policies cannot be filmed", got=" ".join(str(error).split()))
    return filmed, None


def _film_milestones(run: Path, frames: int, env: EnvSpec, algorithm: type[TD3] | None, until: float) -> None:
    """Film the policies that were kept on the way, small, as many as can be until a time on the monotonic clock.

    Raises:
        VideoFailed: one could not be drawn, or there was no time for it; no film of before is left of it.
    """
    names = [name for name in MILESTONES if run_folder.policy_path(run, name).is_file()]
    for name in names:
        if _video_path(run, name).is_file():
            disk.remove(_video_path(run, name))

    config = recorded_in(run).config
    with Signals() as signals:

        def between() -> None:
            signals.stop_here()
            if time.monotonic() > until:
                raise VideoFailed(
                    "not every film of how it learned was drawn",
                    got="they took a twentieth of the run's time, or half a minute where that is more",
                )

        for name in names:
            between()
            file = run_folder.policy_path(run, name)
            film(
                env,
                file,
                _video_path(run, name),
                seed=config.seed,
                frames=frames,
                limit=evaluation.patience(config),
                small=True,
                between=between,
                algorithm=None if load(file, algorithm).operations else algorithm,
            )


class Played(NamedTuple):
    """What a policy did."""

    seen: Evaluation
    which: str  # best or last, of a run; the name of a file
    env_steps: int  # that the policy had trained for
    notes: list[str]  # what a reader must know of how it was played, a sentence each
    moved: ActionTrace
    period_s: float | None  # of a step, where the environment says it


class _Source(NamedTuple):
    """A policy that is to be played, and how."""

    file: Path
    which: str
    policy: Policy
    spec: EnvSpec  # what to play in
    is_own: bool  # that is the environment it was trained in
    config: Config  # of its run; what holds for that environment where there is only a file
    notes: list[str]


def film_run(
    path: Path, which: Which, *, frames: int, env: EnvSpec | None = None, algorithm: type[TD3] | None = None
) -> tuple[Path, list[str]]:
    """Film the first evaluation episode of a policy.

    Args:
        path: a run folder, or a policy's file; the film of the latter stands beside it.
        which: of a run, the `best` or the `last` policy.
        frames: at most so many.
        env: the environment, which may be another of equal shapes; None takes the recorded one.
        algorithm: as for `policy.load`.

    Returns:
        The video's path, and what a viewer must know.

    Raises:
        VideoFailed: nothing on this machine can draw it.
        Stopped: a signal asked for it.
        RunRefused: there is no such run or policy, or the environment's shapes are others.
    """
    refuse_below_one("video_frames", frames)
    # Looked at here, so that what is wrong with it is not taken for a machine that cannot draw.
    source = _source(path, which, env, algorithm)
    notes = source.notes + _differences(source, spaces_in(source.spec))
    name = source.which if source.is_own else f"{source.which}-{source.spec.folder}"
    video = _video_path(path, name) if path.is_dir() else path.with_name(f"{name}.mp4")
    with Signals() as signals:
        film(
            source.spec,
            source.file,
            video,
            seed=source.config.seed,
            frames=frames,
            limit=evaluation.patience(source.config),
            between=signals.stop_here,
            algorithm=None if source.policy.operations else algorithm,
        )
    return video, notes


def _video_path(run: Path, name: str) -> Path:
    return run / "video" / f"{name}.mp4"


def evaluate_run(
    path: Path,
    which: Which,
    *,
    episodes: int | None = None,
    env: EnvSpec | None = None,
    algorithm: type[TD3] | None = None,
) -> Played:
    """Play a policy as its run's own evaluations did.

    Args:
        path: a run folder, or a policy's file: that plays the first episodes of seed 0.
        which: the `best` or the `last` policy; of a run without evaluations there is the last one alone.
        episodes: how many; None takes the run's own number.
        env: the environment, which may be another of equal shapes: its narrower action bounds cut the actions. None
            takes the recorded one, if an installed suite registers it; a file has none.
        algorithm: as for `policy.load`.

    Raises:
        RunRefused: there is no such run or policy, or the environment's shapes are others.
    """
    source = _source(path, which, env, algorithm)
    config, policy = source.config, source.policy
    episodes = config.eval_episodes if episodes is None else episodes
    refuse_below_one("episodes", episodes)
    limit = evaluation.patience(config)
    envs = evaluation.envs_for(source.spec, config.seed, config.fresh_envs, limit)
    try:
        notes = source.notes + _differences(source, envs.spaces)
    except RunRefused:
        envs.close()
        raise
    played: list[NDArray[np.float32]] = []
    remembered = evaluation.remembering(policy.act, played)
    act = evaluation.within_bounds(remembered, policy.info.spaces, envs.spaces)
    with Signals() as signals:
        seen = evaluation.play(act, envs, episodes, signals.stop_here)
    if config.max_episode_steps is None and max(seen.lengths) >= limit:
        notes.append(f"an episode did not end within {limit:,} steps and was cut there")
    moved = actions.trace(np.array(played), seen.lengths)
    return Played(seen, source.which, policy.info.env_steps, notes, moved, envs.period_s)


def _source(path: Path, which: Which, env: EnvSpec | None, algorithm: type[TD3] | None) -> _Source:
    if path.is_dir():
        record = recorded_in(path)
        which, policy, notes = policy_of_run(path, which, record, algorithm)
        spec = environment_of(record, env, may_differ=True)
        is_own = spec.identity == record.spec.identity
        file = run_folder.policy_path(path, which)
        return _Source(file, which, policy, spec, is_own, record.config, _how_played(policy) + notes)
    policy = load(path, algorithm)
    if env is None:
        raise RunRefused(
            "a policy's file does not say how its environment is made",
            got=str(path),
            expected="the environment on the command line",
            do=f"add --env: it was trained in {policy.info.env}",
        )
    notes = _how_played(policy) + (["it is untrained"] if policy.info.env_steps == 0 else [])
    # The file's text is compared, and leads nowhere.
    is_own = env.title == policy.info.env
    env = env.looked_at(policy.info.view)
    return _Source(path, path.stem, policy, env, is_own, presets.choose(env).config, notes)


def _how_played(policy: Policy) -> list[str]:
    repeat = policy.info.action_repeat
    return [] if repeat == 1 else [f"each action is played for {repeat:,} frames, as in training"]


def recorded_in(run: Path) -> RunRecord:
    """Return what a run's config.json says.

    Raises:
        RunRefused: it is not a run folder as t3d writes it.
    """
    run_folder.refuse_odd_files(run)
    return run_folder.read_config(run)


def policy_of_run(
    run: Path, which: Which, record: RunRecord, algorithm: type[TD3] | None
) -> tuple[Which, Policy, list[str]]:
    """Return which policy is taken, the policy, and a note where it is not the one that was asked for.

    Raises:
        RunRefused: there is no such policy, or it is another run's.
    """
    notes, (best, last) = [], (run_folder.policy_path(run, name) for name in ("best", "last"))
    if which == "best" and (record.config.eval_every == "never" or (last.is_file() and not best.exists())):
        which, notes = "last", ["no evaluation has chosen a best policy, so this is the last one"]
    policy = load(run_folder.policy_path(run, which), algorithm)
    if policy.info.run != record.run:
        raise RunRefused(
            "this policy is another run's",
            got=f"{run_folder.policy_path(run, which)}: run {policy.info.run}",
            expected=f"run {record.run}",
            do="copy the run again",
        )
    if last.is_file() and (at := files.read(last)[0].env_steps) < record.config.steps:
        notes.append(f"the run has not come to its end, so far to step {at:,} of {record.config.steps:,}")
    if record.config.updates_at(policy.info.env_steps) == 0:
        notes.append("it is untrained: no update had been made when it was chosen")
    return which, policy, notes


def environment_of(recorded: RunRecord, given: EnvSpec | None, *, may_differ: bool = False) -> EnvSpec:
    """Return the environment to make. What a file says of code, or to code, is compared with the given, never followed.

    Raises:
        RunRefused: another one was given, and none may be; or none was given where one must be.
    """
    spec = recorded.spec
    if given is not None and given.identity != spec.identity and not may_differ:
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
    return given.looked_at(spec.view) if given else spec


def _differences(source: _Source, spaces: Spaces) -> list[str]:
    """Return what is to be said of playing in this environment.

    Raises:
        RunRefused: its shapes are not those that the policy was trained for.
    """
    trained, own, env = source.policy.info.spaces, source.is_own, source.spec.title
    if (spaces.obs, spaces.action_shape) != (trained.obs, trained.action_shape) or (own and spaces != trained):
        raise RunRefused(
            "this environment's spaces are not those that the policy was trained for",
            got=f"{env}: {_in_words(spaces)}",
            expected=_in_words(trained),
            do="use the version of the environment that the policy was trained in" if own else "see what differs",
        )
    notes = []
    if not own:
        notes.append(f"played in {env}, another environment than that of the training, {source.policy.info.env}")
    if spaces.cuts(trained):
        bounds = f"{list(spaces.action_low)} to {list(spaces.action_high)}"
        notes.append(f"its action bounds are narrower than those of the training: actions are cut to {bounds}")
    return notes


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


def _in_words(spaces: Spaces) -> str:
    return f"observation {spaces.obs_in_words}, action from {spaces.action_low} to {spaces.action_high}"
