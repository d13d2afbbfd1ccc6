"""Judge a policy: whole episodes without exploration noise, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.config import Config
from t3d.diagnosis.health import Trajectory
from t3d.env_spec import EnvSpec, spec_of
from t3d.environments.envs import Envs
from t3d.formats import Evaluation
from t3d.spaces import Spaces
from t3d.training.randomness import evaluation_seed

__all__ = ["Evaluation", "Trajectory", "evaluate"]

# Steps after which an episode is cut where nothing else ends it, if no training episode came near them.
_LEAST_PATIENCE = 10_000

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def evaluate(
    act: Act,
    env: str | Callable[..., Any] | EnvSpec,
    *,
    episodes: int,
    seed: int,
    fresh: bool,
    between: Callable[[], None] = lambda: None,
    in_worker: bool = False,
    env_timeout: float = 60.0,
    max_episode_steps: int | None = None,
    trajectories: list[Trajectory] | None = None,
) -> Evaluation:
    """Play episodes in an environment made anew; episode k has the same seed at every evaluation of a run.

    Args:
        act: from obs (1, S) to actions (1, A) in [-1, 1]: an agent's or a policy's.
        env: which environment: a name, a class, or a function that makes one, as for `train`.
        episodes: how many.
        seed: the run's seed; the evaluation's own follow from it and touch none of the training's.
        fresh: make the instance anew for every episode.
        between: called between two steps; what it raises ends the evaluation.
        in_worker: step it in a process of its own, so that an environment that hangs or crashes is named.
        env_timeout: seconds that a step or a reset may take there.
        max_episode_steps: truncates an episode after so many; None leaves that to the environment.
        trajectories: every episode is appended here, step by step; None keeps none.

    Raises:
        EnvFailed: the environment raised, or gave what it may not; or its worker died or took too long.
    """
    envs = envs_for(spec_of(env), seed, fresh, max_episode_steps, in_worker, env_timeout)
    return play(act, envs, episodes, between, trajectories)


def patience(config: Config, longest: int = 0) -> int:
    """Return the env steps after which an evaluation's episode is cut.

    Args:
        config: of the run.
        longest: steps of its longest training episode, where they are known.
    """
    return config.max_episode_steps or max(_LEAST_PATIENCE, 10 * longest)


def envs_for(
    env: EnvSpec,
    seed: int,
    fresh: bool,
    max_episode_steps: int | None,
    in_worker: bool = False,
    env_timeout: float = 60.0,
) -> Envs:
    """Return an environment made anew for an evaluation to play in. Arguments as for `evaluate`."""
    return Envs(
        env,
        1,
        partial(_seed_of, seed),
        fresh,
        "evaluation",
        workers=int(in_worker),
        timeout_s=env_timeout,
        max_episode_steps=max_episode_steps,
    )


def envs_over(training: Envs, seed: int, max_episode_steps: int | None) -> Envs:
    """Return the environment that trains for an evaluation to play in; its training episode is over with this."""
    return Envs(
        training.spec,
        1,
        partial(_seed_of, seed),
        training.fresh,
        "evaluation",
        max_episode_steps=max_episode_steps,
        over=training,
    )


def _seed_of(seed: int, _: int, episode: int) -> int:
    return evaluation_seed(seed, episode)


def within_bounds(act: Act, trained: Spaces, now: Spaces) -> Act:
    """Return what plays the same actions, in the environment's units, where its action bounds may be others.

    Args:
        act: to actions in [-1, 1], as they were scaled in training.
        trained: the spaces of training.
        now: those of the environment that is played in, which cuts what lies beyond its bounds.
    """
    if trained == now:  # to the bit what it does in its own
        return act
    return lambda obs: now.from_env_units(trained.to_env_units(act(obs)))


def remembering(act: Act, actions: list[NDArray[np.float32]]) -> Act:
    """Return what plays the same and appends each row of its actions, (A,), to a list."""

    def play_and_keep(obs: NDArray[np.float32]) -> NDArray[np.float32]:
        played = act(obs)
        actions.extend(played)
        return played

    return play_and_keep


def play(
    act: Act, envs: Envs, episodes: int, between: Callable[[], None], trajectories: list[Trajectory] | None = None
) -> Evaluation:
    """Play episodes in an environment whose first has begun, and close it. Arguments as for `evaluate`."""
    step = partial(_step_to_end, act, envs, between, trajectories)
    try:
        ended = [step(last=k == episodes - 1) for k in range(episodes)]
    finally:
        envs.close()
    return Evaluation([e[0] for e in ended], [e[1] for e in ended])


def _step_to_end(
    act: Act, envs: Envs, between: Callable[[], None], trajectories: list[Trajectory] | None, last: bool
) -> tuple[float, int]:
    steps: list[tuple[NDArray[Any], NDArray[np.float32], np.float32]] = []
    while True:
        obs, action = envs.obs, act(envs.seen)
        step = envs.step(action)
        if trajectories is not None:
            steps.append((obs[0], action[0], step.reward[0]))
        if step.episodes:
            break
        between()
    if trajectories is not None:
        obs, action, reward = (np.array(part) for part in zip(*steps, strict=True))
        trajectories.append(Trajectory(obs, action, reward, step.next_obs[0], bool(step.terminated[0])))
    if not last:
        envs.reset(np.ones(1, bool))
    return step.episodes[0].episode_return, step.episodes[0].length
