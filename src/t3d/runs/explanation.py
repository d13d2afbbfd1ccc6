"""Put together what `t3d explain` shows of a run: a checkpoint, a batch, an episode, its film. Nothing is changed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t3d.diagnosis import explain
from t3d.diagnosis.explained import Explained, Film, Followed, Plane, Update
from t3d.diagnosis.health import Trajectory, seen
from t3d.diagnosis.own_steps import builds_own_networks, own_steps, takes_the_steps
from t3d.env_spec import EnvSpec
from t3d.environments.make import close, make
from t3d.environments.process_state import ProcessState
from t3d.errors import EnvFailed, EnvRefused, RunRefused, T3DError, VideoFailed
from t3d.policy.architectures import ARCHITECTURES
from t3d.policy.files import encode
from t3d.policy.policy import Policy
from t3d.runs import run_folder
from t3d.runs.policies import environment_of
from t3d.runs.seen_picture import png
from t3d.runs.signals import Signals
from t3d.runs.snapshot import Snapshot, open_run
from t3d.runs.video import film, pace_of
from t3d.spaces import Spaces
from t3d.td3 import TD3
from t3d.training import evaluation
from t3d.training.randomness import explain_generator
from t3d.variants.td7 import COPY_EVERY, TD7


def gather(
    run: Path, at: int | None, batch: int, env: EnvSpec | None, frames: int, own: type[TD3] | None = None
) -> Explained:
    """Return everything that the page shows.

    Args:
        run: the run folder.
        at: env steps of the checkpoint; None takes the newest.
        batch: which batch: another number is another draw.
        env: the environment, where that is not an installed suite's id alone; None then goes without an episode.
        frames: of the film, at most so many.
        own: the class that trained it, where that is a caller's.

    Raises:
        RunRefused, ConfigRefused: as `snapshot.open_run`; or another environment than the run's was given.
        Stopped: a signal asked for it.
    """
    snapshot = open_run(run, at, own)
    algorithm = type(snapshot.agent)
    notes = [*snapshot.notes, *_of_algorithm(snapshot)]
    if not len(snapshot.replay):
        notes.append("Its replay memory is gone, so there is no batch to take through the steps.")
    if not snapshot.agent.updates:
        notes.append("It is untrained: no update has been made yet, and its networks know nothing.")
    update, followed = _batch(snapshot, batch)
    spec, episode, without = _episode(snapshot, env)
    notes += [without] * bool(without)
    shown = None
    if spec is not None and episode is not None:
        shown, without = _film(snapshot, spec, frames)
        notes += [without] * bool(without)
    judged = episode and explain.judge(snapshot.agent, _as_networks_see(snapshot, episode))
    return Explained(
        path=str(run),
        record=snapshot.record,
        env_steps=snapshot.env_steps,
        updates=snapshot.agent.updates,
        spaces=snapshot.info.spaces,
        held=len(snapshot.replay),
        batch=batch,
        algorithm=algorithm.__name__,
        own=own_steps(algorithm) if takes_the_steps(algorithm) else (),
        update=update,
        followed=followed,
        pictures=_pictures(snapshot.info.spaces, update, followed),
        judged=judged,
        plane=_plane(snapshot, update, episode),
        film=shown,
        notes=tuple(notes),
    )


def _of_algorithm(snapshot: Snapshot) -> list[str]:
    """Return in what its update differs from the steps of the page, a sentence each."""
    algorithm = type(snapshot.agent)
    name = algorithm.__name__
    if not takes_the_steps(algorithm):
        return [
            f"{name} does not make its update of TD3's steps and networks: the page tells TD3's, without numbers of a "
            "batch. What its critics and its actor say in an episode is its own."
        ]
    notes = []
    if snapshot.info.spaces.view is not None:
        notes.append(
            "It sees images. Between steps 4 and 5 an encoder makes features of them, which are what actor and critics "
            "take for s; step 12 moves it with the critics, and in step 15 its target follows."
        )
    if issubclass(algorithm, TD7):
        notes.append(
            f"{name} makes more of a batch than this page shows: before step 5 its embeddings learn, and the targets "
            f"follow at every {COPY_EVERY}th update only, by copies (docs/td7.md)."
        )
    elif builds_own_networks(algorithm):
        notes.append(f"{name} has networks of its own: steps 2 and 3, which stand before this page's.")
    return notes


def _batch(snapshot: Snapshot, number: int) -> tuple[Update | None, list[Followed]]:
    """Return a batch on its way, drawn by a stream of its own, and which of its transitions are followed."""
    replay, config = snapshot.replay, snapshot.record.config
    if not len(replay) or not takes_the_steps(type(snapshot.agent)):
        return None, []
    rng = explain_generator(config.seed, snapshot.env_steps, number)
    index = replay.draw(rng, config.batch_size)
    noise = rng.standard_normal((config.batch_size, snapshot.info.spaces.action_size), np.float32)
    batch = replay.sample(index, config.td3.gamma)
    update = explain.through_the_steps(snapshot.agent, batch, noise, replay.age(index), snapshot.seen)
    return update, explain.choose(update)


def _pictures(spaces: Spaces, update: Update | None, followed: list[Followed]) -> list[tuple[bytes, bytes]]:
    """Return what is seen in s and in s' of the transitions that are followed; nothing where it is vectors alone."""
    if update is None or spaces.view is None:
        return []
    return [(png([], update.obs[one.row], spaces), png([], update.next_obs[one.row], spaces)) for one in followed]


def _episode(snapshot: Snapshot, env: EnvSpec | None) -> tuple[EnvSpec | None, Trajectory | None, str]:
    """Play the first evaluation episode; return where, what happened, and why there is none."""
    config = snapshot.record.config
    if config.hardware:
        return None, None, "No episode was played: it is one physical device."
    try:
        spec = environment_of(snapshot.record, env)
    except RunRefused as error:
        if env is not None:
            raise
        return None, None, _without("No episode was played", error)
    policy, played = _policy(snapshot), list[Trajectory]()
    try:
        envs = evaluation.envs_for(spec, config.seed, config.fresh_envs, evaluation.patience(config))
        if envs.spaces != snapshot.info.spaces:
            envs.close()
            return spec, None, "No episode was played: this environment's spaces are not those of the training."
        with Signals() as signals:
            evaluation.play(policy.act, envs, 1, signals.stop_here, played)
    except (EnvRefused, EnvFailed) as error:
        return spec, None, _without("No episode was played", error)
    return spec, played[0], ""


def _policy(snapshot: Snapshot) -> Policy:
    """Return the policy that plays.

    Raises:
        RunRefused: it is of a network that neither this process nor the class given knows.
    """
    try:
        return Policy(*snapshot.policy, _own(snapshot))
    except ValueError as error:
        raise RunRefused(
            "this run's policy is of another network than the class plays with",
            got=str(error),
            do="give --algorithm FILE.py:Name, the class that trained it",
        ) from error


def _own(snapshot: Snapshot) -> type[TD3] | None:
    """Return the class that must build the network that plays; None where any process knows it."""
    return None if snapshot.info.architecture in ARCHITECTURES else type(snapshot.agent)


def _film(snapshot: Snapshot, spec: EnvSpec, frames: int) -> tuple[Film | None, str]:
    """Film that episode; return the film, or why there is none. The run folder is not written to."""
    with tempfile.TemporaryDirectory() as folder, Signals() as signals:
        policy, out = Path(folder) / "policy.safetensors", Path(folder) / "film.mp4"
        run_folder.write_policy(policy, encode(*snapshot.policy))
        try:
            seed = snapshot.record.config.seed
            film(
                spec,
                policy,
                out,
                seed=seed,
                frames=frames,
                limit=evaluation.patience(snapshot.record.config),
                between=signals.stop_here,
                algorithm=_own(snapshot),
            )
            with ProcessState(spec.title):
                made = make(spec)
                pace = pace_of(made, spec)
                close(made, spec.title)
        except (VideoFailed, EnvRefused) as error:
            return None, _without("There is no film", error)
        return Film(out.read_bytes(), pace), ""


def _without(what: str, error: T3DError) -> str:
    do = error.rows.get("do")
    return f"{what}: {error.what_and_got()}{f'; {do}' if do else ''}."


def _as_networks_see(snapshot: Snapshot, episode: Trajectory) -> Trajectory:
    return seen(episode, snapshot.info.spaces, snapshot.seen)


def _plane(snapshot: Snapshot, update: Update | None, episode: Trajectory | None) -> Plane | None:
    if snapshot.info.spaces.view is not None:  # and a memory of images is not copied to find that out
        return None
    none: NDArray[np.float32] = np.zeros((0, snapshot.info.spaces.obs_size), np.float32)
    batch = none if update is None else update.obs
    return explain.plane_of(
        snapshot.agent,
        snapshot.held if len(snapshot.replay) else none,
        snapshot.seen,
        batch,
        none if episode is None else episode.obs,
    )
