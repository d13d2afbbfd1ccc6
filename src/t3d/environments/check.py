"""What `t3d check` finds out about an environment before anybody trains in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Instances
from t3d.errors import EnvFailed, EnvRefused
from t3d.spaces import Spaces

_SEED = 12345
STEPS = 1_000
# fails: training would end there. look: it would go on, and not as one may think.
Verdict = Literal["ok", "look", "fails"]


class Finding(NamedTuple):
    """One thing looked at."""

    name: str
    verdict: Verdict
    text: str


_UNKNOWN = Finding("forgets", "look", "not known: fresh instances differ already")


class _Trace(NamedTuple):
    """Everything an environment answered while the same actions were played from the same seeds."""

    obs: list[NDArray[np.float32]]
    reward: list[float]
    ended: list[bool]
    failure: str  # what ended it early, as training would say; empty if nothing did


def check(env: EnvSpec, steps: int | None = None, tick: Callable[[], None] = lambda: None) -> list[Finding]:
    """Look at an environment as training would: it is made, reset and stepped by the same code.

    Args:
        env: which.
        steps: random steps to take, three times; None takes STEPS, and none of hardware. Hardware takes them once.
        tick: called after each of them.

    Raises:
        EnvRefused: it does not exist, or its spaces are impossible.
        EnvFailed: it raised.
    """
    first = Instances(env, 1)
    hardware = first.is_hardware
    steps = steps if steps is not None else 0 if hardware else STEPS
    spaces, (obs_space, action_space) = first.spaces, first.gym_spaces
    findings = [
        Finding("observation", "ok", f"{spaces.obs_size} numbers, {spaces.obs_in_words}{_dtype(obs_space)}"),
        Finding("action", "ok", f"{spaces.action_size} numbers, shape {action_space.shape}, {action_space.dtype}"),
        Finding("bounds", "ok", _bounds(spaces)),
    ]
    if hardware:
        said = "one physical device: one instance at any time, and training acts within the bounds above"
        findings.append(Finding("hardware", "look", said + ("" if steps else "; --steps N lets it move here")))
    if not steps:
        first.close()
        return findings
    actions = np.random.default_rng(_SEED).uniform(-1, 1, (steps, spaces.action_size)).astype(np.float32)
    scaled = spaces.to_env_units(actions).reshape(-1, *spaces.action_shape)

    def play(instances: Instances) -> _Trace:
        return _play(instances, env.title, scaled, tick)

    began = time.perf_counter()
    trace = play(first)
    speed = len(trace.reward) / (time.perf_counter() - began)
    again, used = trace, trace
    if not trace.failure and not hardware:
        try:
            second = Instances(env, 1)
        except EnvRefused as error:
            first.close()
            return [*findings, Finding("second instance", "fails", f"{error.one_line()}; train with --hardware")]
        again, used = play(second), play(first)
        second.close()
    first.close()
    failure = trace.failure or again.failure or used.failure
    findings += [_time_limit(first.time_limit, trace), _numbers(trace, obs_space, failure)]
    if failure or hardware:
        return findings
    repeats = _repeats(trace, again)
    fresh_envs = presets.choose(env).config.fresh_envs
    return [
        *findings,
        repeats,
        _forgets(trace, used, fresh_envs) if repeats.verdict == "ok" else _UNKNOWN,
        Finding("speed", "ok", f"{speed:,.0f} steps/s with random actions, resets included"),
    ]


def _dtype(space: Any) -> str:
    if space.dtype is None:  # a Dict's or a Tuple's parts have each their own
        return ""
    return f", {space.dtype}" + ("" if space.dtype == np.float32 else ", taken as float32")


def _time_limit(limit: int | None, trace: _Trace) -> Finding:
    if limit:
        return Finding("time limit", "ok", f"{limit:,} steps an episode")
    if ended := sum(trace.ended):
        text = f"none known; {ended:,} of the episodes played here ended by themselves"
        return Finding("time limit", "ok", text)
    return Finding(
        "time limit",
        "look",
        f"none known, and no episode ended within {len(trace.ended):,} random steps: train with --max-episode-steps, "
        "else an evaluation's episodes are cut after 10,000",
    )


def _bounds(spaces: Spaces) -> str:
    low, high = spaces.action_low, spaces.action_high
    if len({*low}) == len({*high}) == 1:
        return f"{low[0]:g} to {high[0]:g}" + (" in every dimension" if len(low) > 1 else "")
    return f"low {list(low)}, high {list(high)}"


def _play(instances: Instances, name: str, actions: NDArray[np.float32], tick: Callable[[], None]) -> _Trace:
    trace = _Trace([], [], [], "")
    rows, ended, episode = instances.rows, True, 0
    for i, action in enumerate(actions):
        try:
            if ended:
                instances.begin_reset(0, _SEED + episode, anew=False)
                episode += 1
                trace.obs.append(rows.obs[0].copy())
            instances.begin_step(0, action)
        except Broken as broken:
            where = f"{name}, step {i}, action {action.tolist()}"
            if broken.__cause__ is not None:
                raise EnvFailed(broken.failed.what, got=where) from broken.__cause__
            return trace._replace(failure=f"step {i}: {broken.failed.one_line()}")
        trace.obs.append(rows.obs[0].copy())
        trace.reward.append(float(rows.reward[0]))
        ended = bool(rows.terminated[0] or rows.truncated[0])
        trace.ended.append(ended)
        for kind, number, values in (
            ("observation", len(trace.obs), rows.obs[0]),
            ("reward", len(trace.reward), rows.reward[:1]),
        ):
            if not np.isfinite(values).all():
                return trace._replace(failure=f"{kind} {number - 1} is not finite: {values.tolist()}")
        tick()
    return trace


def _numbers(trace: _Trace, space: Any, failure: str) -> Finding:
    if failure:
        return Finding("numbers", "fails", failure)
    obs, reward = np.stack(trace.obs), np.array(trace.reward, np.float32)
    text = (
        f"finite over {len(reward):,} random steps; "
        f"|observation| up to {np.abs(obs).max():.3g}, reward {reward.min():.3g} to {reward.max():.3g}"
    )
    if space.dtype is None:
        return Finding("numbers", "ok", text)
    with np.errstate(over="ignore"):  # a bound beyond float32 is none here
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    outside = np.count_nonzero(((obs < low) | (obs > high)).reshape(len(obs), -1).any(axis=1))
    if outside:
        text += f"; {outside:,} of {len(obs):,} observations lie outside the space, which is taken as it comes"
        return Finding("numbers", "look", text)
    return Finding("numbers", "ok", text)


def _repeats(trace: _Trace, again: _Trace) -> Finding:
    where = _first_difference(trace, again)
    if where is None:
        return Finding("repeatable", "ok", "a fresh instance with the same seeds and actions says the same")
    return Finding(
        "repeatable",
        "look",
        f"a fresh instance says otherwise at {where}: no run here can be repeated "
        "(does reset pass its seed to super().reset(seed=seed), and does all chance come from self.np_random?)",
    )


def _forgets(trace: _Trace, used: _Trace, known: bool) -> Finding:
    where = _first_difference(trace, used)
    if where is None:
        return Finding("forgets", "ok", "a used instance says the same after a reset")
    do = "t3d train makes it anew for every episode by itself" if known else "train with --fresh-envs"
    return Finding("forgets", "look", f"a used instance says otherwise after a reset, at {where}: {do}")


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
