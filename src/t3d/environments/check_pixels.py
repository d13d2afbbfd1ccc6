"""What `t3d check --pixels` finds out about an environment's picture before anybody learns from it."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments.check import Finding
from t3d.environments.make import Env, close, make
from t3d.errors import ConfigRefused, EnvFailed, T3DError, message_of

_SEED = 12345
_STEPS = 30
_TIMES = 10  # that one picture is drawn to see what that costs


class Looked(NamedTuple):
    """What was found, and what was drawn meanwhile."""

    findings: list[Finding]
    pictures: list[NDArray[np.uint8]]  # (H, W, 3) each, of some random steps


class _Seen(NamedTuple):
    """What an instance drew and answered while the same actions were played from the same seed."""

    pictures: list[NDArray[np.uint8]]
    answers: list[Any]  # reward, terminated, truncated
    finding: Finding


def look(env: EnvSpec) -> Looked:
    """Play the same in two fresh instances, and compare what they draw.

    Args:
        env: which; with pixels.

    Raises:
        EnvRefused: as `make.make`.
        EnvFailed: it raised, or drew no picture.
    """
    one, other = (_play(env) for _ in range(2))
    return Looked([one.finding, _changes(one.pictures), _repeats(one, other)], one.pictures)


def refuse_impossible_file(path: Path) -> None:
    """Refuse a file into which no picture could be written.

    Raises:
        ConfigRefused: it is no .png, or its folder is not there.
    """
    if path.suffix.lower() != ".png":
        raise ConfigRefused("a frame is written as a PNG", got=str(path), expected="a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise ConfigRefused("the folder for the frame is not there", got=str(path), do=f"mkdir {path.parent}")


def _play(env: EnvSpec) -> _Seen:
    made = make(env)
    try:
        return _played(made)
    except T3DError:
        raise
    except Exception as error:
        raise EnvFailed(
            "the environment raised while its picture was looked at",
            got=f"{env.title}: {message_of(error)}",
            do="fix the environment; its own traceback is above",
        ) from error
    finally:
        close(made, env.title)


def _played(made: Env) -> _Seen:
    picture = made.get_wrapper_attr("picture")
    made.action_space.seed(_SEED)
    made.reset(seed=_SEED)
    seen = _Seen([picture()], [], _drawn(made, picture()))
    for step in range(_STEPS):
        _, *answer, _ = made.step(made.action_space.sample())
        seen.answers.append(answer)
        seen.pictures.append(picture())
        if any(answer[1:]):
            made.reset(seed=_SEED + 1 + step)
    return seen


def _drawn(made: Env, first: NDArray[np.uint8]) -> Finding:
    picture, took = made.get_wrapper_attr("picture"), []
    for _ in range(_TIMES):
        began = time.process_time()
        picture()
        took.append(time.process_time() - began)
    height, width, _ = first.shape
    text = f"{width} x {height}, {1000 * statistics.median(took):.1f} ms of CPU each, drawn by {_by(made)}"
    problem = made.get_wrapper_attr("problem_of")(first)
    return Finding("pixels", "look" if problem else "ok", f"{text}; {problem}" if problem else text)


def _by(made: Env) -> str:
    return str(made.get_wrapper_attr("drawn_by"))


def _changes(pictures: list[NDArray[np.uint8]]) -> Finding:
    changed = sum(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))
    if changed:
        return Finding("pixels change", "ok", f"with {changed} of {_STEPS} random steps")
    return Finding("pixels change", "look", f"with none of {_STEPS} random steps: nothing can be learned from them")


def _repeats(one: _Seen, other: _Seen) -> Finding:
    name, so = "pixels repeat", "a resumed run will be not_exact, as its episode cannot be played again"
    for step, (a, b) in enumerate(zip(one.pictures, other.pictures, strict=True)):
        if not np.array_equal(a, b):
            differ = (a != b).any(axis=2).sum()
            by = np.abs(a.astype(int) - b).max()
            where = f"step {step}: {differ:,} of {a.shape[0] * a.shape[1]:,} pixels, by up to {by} of 255"
            return Finding(name, "look", f"two fresh instances draw otherwise at {where}; {so}")
        if step and one.answers[step - 1] != other.answers[step - 1]:
            return Finding(name, "look", f"two fresh instances answer otherwise at step {step}; {so}")
    return Finding(name, "ok", "two fresh instances draw the same")
