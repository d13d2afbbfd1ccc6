"""What `t3d check` finds out about an environment before anybody trains in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.environments.images import problem_of
from t3d.environments.in_process import Broken, Instances
from t3d.errors import EnvFailed, EnvRefused
from t3d.frames import vectors_of
from t3d.spaces import Spaces

_SEED = 12345
STEPS = 1_000
_TOGETHER = 200  # steps that two instances take in turns
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
        steps: random steps to take, three times, and some in two instances in turns (`steps_taken`); None takes STEPS,
            and none of hardware. Hardware takes them once.
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
        Finding("observation", "ok", f"{_sight(spaces)}{_dtype(obs_space, spaces)}"),
        Finding("action", "ok", f"{spaces.action_size} numbers, shape {action_space.shape}, {action_space.dtype}"),
        Finding("bounds", "ok", _bounds(spaces)),
    ]
    if hardware:
        said = "one physical device: one instance at any time, and training acts within the bounds above"
        findings.append(Finding("hardware", "look", said + ("" if steps else "; --steps N lets it move here")))
    try:
        return [*findings, *(_played(env, first, steps, tick) if steps else [])]
    finally:
        first.close()


def _played(env: EnvSpec, first: Instances, steps: int, tick: Callable[[], None]) -> list[Finding]:
    """Return what playing shows, in an instance and, where it is no hardware, in another beside it."""
    actions = np.random.default_rng(_SEED).uniform(-1, 1, (steps, first.spaces.action_size)).astype(np.float32)
    scaled = first.spaces.to_env_units(actions).reshape(-1, *first.spaces.action_shape)
    began = time.perf_counter()
    trace = _play(first, env.title, scaled, tick)
    speed = len(trace.reward) / (time.perf_counter() - began)
    limit = _time_limit(first.time_limit, trace)
    if trace.failure or first.is_hardware:
        return [limit, *_seen(trace, first, trace.failure)]
    try:
        second = Instances(env, 1)
    except EnvRefused as error:
        return [limit, Finding("second instance", "fails", f"{error.one_line()}; train with --hardware")]
    again, used = _play(second, env.title, scaled, tick), _play(first, env.title, scaled, tick)
    shares: list[Finding] = []  # not known where a used instance differs anyway
    if not (again.failure or used.failure) and _first_difference(trace, used) is None:
        shares = [_shares(_in_turns(first, second, env.title, scaled[:_TOGETHER], tick), trace)]
    second.close()
    failure = again.failure or used.failure
    if failure:
        return [limit, *_seen(trace, first, failure)]
    repeats = _repeats(trace, again)
    fresh_envs = presets.choose(env).config.fresh_envs
    return [
        limit,
        *_seen(trace, first, failure),
        repeats,
        _forgets(trace, used, fresh_envs) if repeats.verdict == "ok" else _UNKNOWN,
        *shares,
        Finding("speed", "ok", f"{speed:,.0f} steps/s with random actions, resets included"),
    ]


def _dtype(space: Any, spaces: Spaces) -> str:
    if space.dtype is None:  # a Dict's or a Tuple's parts have each their own
        return ""
    taken = "" if space.dtype == np.float32 or spaces.view is not None else ", taken as float32"
    return f", {space.dtype}{taken}"


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


def steps_taken(steps: int) -> int:
    """Return how many steps a check takes in all."""
    return 3 * steps + 2 * min(steps, _TOGETHER)


def _play(instances: Instances, name: str, actions: NDArray[np.float32], tick: Callable[[], None]) -> _Trace:
    trace = _Trace([], [], [], "")
    for failure in _playing(instances, name, actions, trace):
        if failure:
            return trace._replace(failure=failure)
        tick()
    return trace


def _in_turns(
    one: Instances, other: Instances, name: str, actions: NDArray[np.float32], tick: Callable[[], None]
) -> tuple[_Trace, _Trace]:
    """Play the same in two instances, a step in one, then a step in the other."""
    traces = _Trace([], [], [], ""), _Trace([], [], [], "")
    playing = [_playing(made, name, actions, trace) for made, trace in zip((one, other), traces, strict=True)]
    try:
        for failures in zip(*playing, strict=True):
            if any(failures):
                return traces[0]._replace(failure=max(failures)), traces[1]
            tick()
            tick()
    except EnvFailed as error:
        return traces[0]._replace(failure=error.one_line()), traces[1]
    return traces


def _playing(instances: Instances, name: str, actions: NDArray[np.float32], trace: _Trace) -> Iterator[str]:
    """Play, and yield after each step what training would end with; nothing if it would go on."""
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
            yield f"step {i}: {broken.failed.one_line()}"
            return
        trace.obs.append(rows.obs[0].copy())
        trace.reward.append(float(rows.reward[0]))
        ended = bool(rows.terminated[0] or rows.truncated[0])
        trace.ended.append(ended)
        for kind, number, values in (
            ("observation", len(trace.obs), vectors_of(instances.spaces, rows.obs[:1])[0]),
            ("reward", len(trace.reward), rows.reward[:1]),
        ):
            if not np.isfinite(values).all():
                yield f"{kind} {number - 1} is not finite: {values.tolist()}"
                return
        yield ""


def _sight(spaces: Spaces) -> str:
    if spaces.view is None:
        return f"{spaces.obs_size} numbers, {spaces.obs_in_words}"
    return spaces.sight_in_words


def _seen(trace: _Trace, instances: Instances, failure: str) -> list[Finding]:
    """Say what was observed: numbers, and of images whether anything can be seen in the last ones."""
    findings = [_numbers(trace, instances.gym_spaces[0], failure, instances.spaces)]
    for part, image in zip(instances.spaces.images, instances.raw_images, strict=False):
        problem = problem_of(image)
        findings.append(Finding(part.name, "look" if problem else "ok", problem or "the picture shows something"))
    return findings


def _numbers(trace: _Trace, space: Any, failure: str, spaces: Spaces) -> Finding:
    if failure:
        return Finding("numbers", "fails", failure)
    obs, reward = vectors_of(spaces, np.stack(trace.obs)), np.array(trace.reward, np.float32)
    numbers = f"|observation| up to {np.abs(obs).max():.3g}, " if obs.size else ""
    text = f"finite over {len(reward):,} random steps; {numbers}reward {reward.min():.3g} to {reward.max():.3g}"
    if space.dtype is None or spaces.view is not None:
        return Finding("numbers", "ok", text)
    with np.errstate(over="ignore"):  # a bound beyond float32 is none here
        low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    outside = np.count_nonzero(((obs < low) | (obs > high)).any(axis=1))
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


def _shares(traces: tuple[_Trace, _Trace], alone: _Trace) -> Finding:
    steps = len(traces[0].reward)
    begun = alone._replace(obs=alone.obs[: len(traces[0].obs)], reward=alone.reward[:steps], ended=alone.ended[:steps])
    where = traces[0].failure or next(filter(None, (_first_difference(trace, begun) for trace in traces)), None)
    if where is None:
        return Finding("shares", "ok", "two instances in one process do not disturb each other")
    return Finding(
        "shares",
        "look",
        f"two instances in one process disturb each other ({where}): evaluations would disturb training; train with "
        "--env-workers 1, and as many workers as --n-envs",
    )


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
            return f"observation {i}, by {np.nanmax(np.abs(one.astype(float) - other)):.2g}"
    return None
