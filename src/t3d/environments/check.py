"""What `t3d check` finds out about an environment before anybody trains in it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d import presets
from t3d.environments.make import Env, make, spaces_of
from t3d.environments.silence import quiet_pybullet
from t3d.errors import EnvFailed
from t3d.spaces import Spaces

_SEED = 12345


class Finding(NamedTuple):
    """One thing looked at."""

    name: str
    fine: bool
    text: str


_UNKNOWN = Finding("forgets", False, "not known: fresh instances differ already")


class _Trace(NamedTuple):
    """Everything an environment said while the same actions were played from the same seeds."""

    obs: list[NDArray[np.float32]]
    reward: list[float]
    ended: list[bool]


def check(env: str, steps: int = 1_000) -> list[Finding]:
    """Look at an environment as a trainer would.

    Args:
        env: which, as for `make.make`.
        steps: random steps to take.

    Raises:
        EnvRefused: it does not exist, or its spaces are impossible.
        EnvFailed: it raised.
    """
    first = make(env)
    spaces = spaces_of(first, env)
    action_space, obs_space = first.action_space, first.observation_space
    findings = [
        Finding("observation", True, f"{spaces.obs_size} numbers, shape {obs_space.shape}, {obs_space.dtype}"),
        Finding("action", True, f"{spaces.action_size} numbers, shape {action_space.shape}, {action_space.dtype}"),
        Finding("bounds", True, _bounds(spaces)),
    ]
    actions = np.random.default_rng(_SEED).uniform(-1, 1, (steps, spaces.action_size)).astype(np.float32)
    scaled = spaces.to_env_units(actions).reshape(-1, *spaces.action_shape)
    began = time.perf_counter()
    trace = _play(first, env, scaled, _SEED)
    speed = steps / (time.perf_counter() - began)
    second = make(env)
    again = _play(second, env, scaled, _SEED)
    used = _play(first, env, scaled, _SEED)
    first.close()
    second.close()
    repeats = _repeats(trace, again)
    return [
        *findings,
        _time_limit(first, trace),
        _numbers(trace, spaces.obs_shape),
        repeats,
        _forgets(trace, used, presets.choose(env).config.fresh_envs) if repeats.fine else _UNKNOWN,
        Finding("speed", True, f"{speed:,.0f} steps/s with random actions, resets included"),
    ]


def _time_limit(env: Env, trace: _Trace) -> Finding:
    limit = env.spec.max_episode_steps if env.spec else None
    if limit:
        return Finding("time limit", True, f"{limit:,} steps an episode")
    if ended := sum(trace.ended):
        text = f"none known; {ended:,} of the episodes played here ended by themselves"
        return Finding("time limit", True, text)
    return Finding(
        "time limit",
        False,
        f"none known, and no episode ended within {len(trace.ended):,} random steps: where none ends, an evaluation "
        "never does (gymnasium.wrappers.TimeLimit adds a limit)",
    )


def _bounds(spaces: Spaces) -> str:
    low, high = spaces.action_low, spaces.action_high
    if len({*low}) == len({*high}) == 1:
        return f"{low[0]:g} to {high[0]:g}" + (" in every dimension" if len(low) > 1 else "")
    return f"low {list(low)}, high {list(high)}"


def _play(env: Env, name: str, actions: NDArray[np.float32], seed: int) -> _Trace:
    trace = _Trace([], [], [])
    ended, episode = True, 0
    for i, action in enumerate(actions):
        try:
            if ended:
                with quiet_pybullet():
                    obs, _ = env.reset(seed=seed + episode)
                episode += 1
                trace.obs.append(_obs(obs))
            obs, reward, terminated, truncated, _ = env.step(action)
        except Exception as error:
            raise EnvFailed(
                f"the environment raised {type(error).__name__}: {error}",
                got=f"{name}, step {i}, action {action.tolist()}",
            ) from error
        ended = bool(terminated or truncated)
        trace.obs.append(_obs(obs))
        trace.reward.append(float(reward))
        trace.ended.append(ended)
    return trace


def _obs(obs: Any) -> NDArray[np.float32]:
    return np.array(obs, np.float32)


def _numbers(trace: _Trace, obs_shape: tuple[int, ...]) -> Finding:
    shapes = {obs.shape for obs in trace.obs}
    if shapes != {obs_shape}:
        return Finding("numbers", False, f"observations of shapes {shapes}, the space says {obs_shape}")
    obs, reward = np.stack(trace.obs), np.array(trace.reward, np.float32)
    if not (np.isfinite(obs).all() and np.isfinite(reward).all()):
        kind, rows = ("reward", reward[:, None]) if np.isfinite(obs).all() else ("observation", obs)
        at = int(np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0])
        return Finding("numbers", False, f"{kind} {at} of {len(rows):,} is not finite: {rows[at].tolist()}")
    text = (
        f"finite over {len(reward):,} random steps; "
        f"|observation| up to {np.abs(obs).max():.3g}, reward {reward.min():.3g} to {reward.max():.3g}"
    )
    return Finding("numbers", True, text)


def _repeats(trace: _Trace, again: _Trace) -> Finding:
    where = _first_difference(trace, again)
    if where is None:
        return Finding("repeatable", True, "a fresh instance with the same seeds and actions says the same")
    return Finding(
        "repeatable",
        False,
        f"a fresh instance says otherwise at {where}: no run here can be repeated "
        "(does reset pass its seed to super().reset(seed=seed), and does all chance come from self.np_random?)",
    )


def _forgets(trace: _Trace, used: _Trace, known: bool) -> Finding:
    where = _first_difference(trace, used)
    if where is None:
        return Finding("forgets", True, "a used instance says the same after a reset")
    do = "t3d train makes it anew for every episode by itself" if known else "train with --fresh-envs"
    return Finding("forgets", False, f"a used instance says otherwise after a reset, at {where}: {do}")


def _first_difference(a: _Trace, b: _Trace) -> str | None:
    for i, (x, y) in enumerate(zip(a.reward, b.reward, strict=True)):
        if a.ended[i] != b.ended[i]:
            return f"step {i}: the episode ended in one of them"
        if not np.array_equal(x, y, equal_nan=True):
            return f"step {i}: reward {x:.9g} and {y:.9g}"
    for i, (one, other) in enumerate(zip(a.obs, b.obs, strict=True)):
        if one.shape != other.shape:
            return f"observation {i}: shape {one.shape} and {other.shape}"
        if not np.array_equal(one, other, equal_nan=True):
            return f"observation {i}, by {np.nanmax(np.abs(one - other)):.2g}"
    return None
