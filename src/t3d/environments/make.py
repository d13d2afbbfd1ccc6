"""Make an environment from its name and look at its spaces. The only file that imports gymnasium."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import logging
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from t3d.environments.process_state import ProcessState
from t3d.environments.silence import any_mujoco_gl, quiet_pybullet, silenced, tame_mujoco
from t3d.errors import EnvRefused, message_of, shortened
from t3d.spaces import ObsPart, Spaces

_log = logging.getLogger("t3d")

Env = gym.Env[Any, Any]
_FILE_AND_CLASS = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "pybullet": "bullet"}
# Suites that register their ids only once they are imported, by what their ids have in common.
_SUITES = {"BulletEnv-v": "pybullet_envs_gymnasium"}
# Gymnasium 1.4 films with a camera that stands still unless it is told otherwise; a model without a camera of this name
# is filmed by that one.
_VIDEO = {"width": 480, "height": 360, "camera_name": "track"}


def make(env: str, *, render: bool = False) -> Env:
    """Make one environment.

    Args:
        env: a registered id, `module:Id` (the module is imported and registers it), or `path/to/file.py:Class`.
        render: draw frames as RGB arrays.

    Raises:
        EnvRefused: there is no such environment, a package it needs is missing, or its own code raised.
    """
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    try:
        if match := _FILE_AND_CLASS.fullmatch(env):
            own_class = _class_in_file(match["file"], match["name"])
            tame_mujoco()
            return own_class(**options)
        module, _, env_id = env.rpartition(":")
        if module:
            _import_module(module)
        entry = _import_entry(env_id, render)
        if render and entry.startswith("gymnasium.envs.mujoco"):
            options |= _VIDEO
        with quiet_pybullet():
            return gym.make(env_id, disable_env_checker=True, **options)
    except EnvRefused:
        raise
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise EnvRefused(
            "a package that this environment needs is not installed",
            got=f"{env}: {error}",
            do=_install_hint(str(error) + env) or "install it, or put its folder on PYTHONPATH",
        ) from error
    except gym.error.Error as error:
        raise EnvRefused(
            "there is no such environment",
            got=f"{env} ({str(error).splitlines()[0]})",
            expected=f"a registered id, for example {_nearest(env)}; module:Id; or path/to/file.py:Class",
            do=_install_hint(env)
            or 'check the spelling, or install the suite it belongs to: pip install "t3d[mujoco,box2d,bullet]"',
        ) from error
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise EnvRefused(
            "the environment cannot be made: its own code raised",
            got=f"{env}: {message_of(error)}",
            do=_fix_where(error),
        ) from error


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether this is the user's Ctrl-C, which raises where our handlers are not set, not an environment's."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, KeyboardInterrupt) and usual and threading.current_thread() is threading.main_thread()


def close(env: Env, name: str) -> None:
    """Close an environment. One that raises then has done its work all the same: that is said, once."""
    try:
        env.close()
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        _warn_of_close(name, shortened(message_of(error)))


@functools.cache
def _warn_of_close(name: str, message: str) -> None:
    _log.warning("%s raised when it was closed, which is passed over: %s", name, message)


def _fix_where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"fix {error.filename}, line {error.lineno}"
    # Where the user can fix it, not where a library noticed it.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and frame.filename[0] != "<" and frame.filename != __file__:
            return f"fix {frame.filename}, line {frame.lineno}"
    return "its class is called without arguments (render_mode alone for a video): see whether it can be"


def _import_module(module: str) -> None:
    # As `python -m` does: the installed command's own path lacks the folder it is called in.
    _importable_from(Path.cwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise EnvRefused(
            "there is no such module",
            got=module,
            expected="a module that registers environments when it is imported",
            do="check the name before the colon, install it, or put its folder on PYTHONPATH",
        ) from error


def _importable_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_entry(env_id: str, render: bool) -> str:
    """Import the code behind an id, and return its entry point, or "" where it is not a string."""
    suites = [suite for part, suite in _SUITES.items() if part in env_id and importlib.util.find_spec(suite)]
    # PyBullet prints when it was built.
    with silenced(2) if suites else contextlib.nullcontext(), any_mujoco_gl(drawing=render):
        for suite in suites:
            importlib.import_module(suite)
        if isinstance(entry := gym.spec(env_id).entry_point, str):
            load_env_creator(entry)
    tame_mujoco()
    return entry if isinstance(entry, str) else ""


@functools.cache
def _class_in_file(file: str, name: str) -> Callable[..., Env]:
    path = Path(file).resolve()
    if not path.is_file():
        raise EnvRefused("there is no such file", got=str(path), do="check the path before the colon")
    spec = importlib.util.spec_from_file_location(f"t3d_env_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    _importable_from(path.parent)  # as `python file.py` does: a file may import its neighbours
    spec.loader.exec_module(module)
    loaded = getattr(module, name, None)
    if not (isinstance(loaded, type) and issubclass(loaded, gym.Env)):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, gym.Env)]
        raise EnvRefused(
            "the file has no such environment class",
            got=f"{name} in {path}",
            expected=f"a subclass of gymnasium.Env: {', '.join(classes) or 'there is none in it'}",
            do="check the name behind the colon",
        )
    return loaded


def _nearest(env: str) -> str:
    newest: dict[tuple[str | None, str], str] = {}
    for spec in sorted(gym.registry.values(), key=lambda spec: spec.version or 0):
        newest[spec.namespace, spec.name] = spec.id
    near = difflib.get_close_matches(env.split(":")[-1], list(newest.values()), n=3, cutoff=0.4)
    return ", ".join(near) or "HalfCheetah-v5"


def _install_hint(text: str) -> str:
    for word, extra in _EXTRAS.items():
        if word in text.lower() or (extra in text.lower()):
            return f'pip install "t3d[{extra}]"'
    return ""


def spaces_in(env: str) -> Spaces:
    """Return the spaces of an environment that is made for this alone.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
    """
    with ProcessState(env):
        made = make(env)
        spaces = spaces_of(made, env)
        close(made, env)
    return spaces


def spaces_of(env: Env, name: str) -> Spaces:
    """Return an environment's spaces.

    Raises:
        EnvRefused: TD3 cannot act in it, or t3d cannot yet see in it.
    """
    obs, action = env.observation_space, env.action_space
    if not isinstance(action, gym.spaces.Box) or not np.issubdtype(action.dtype, np.floating):
        raise EnvRefused(
            "TD3 needs continuous actions",
            got=f"{name} has {action}",
            expected="a Box of floats with finite bounds",
            do="choose another environment, or an algorithm for discrete actions",
        )
    parts = tuple(_obs_parts(obs, "obs", name))
    with np.errstate(over="ignore"):
        low, high = action.low.reshape(-1).astype(np.float32), action.high.reshape(-1).astype(np.float32)
        # float32 may round a float64 bound outwards: then the next number inside counts.
        low = np.where(low < action.low.reshape(-1), np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > action.high.reshape(-1), np.nextafter(high, np.float32(-np.inf)), high)
        possible = np.isfinite(low) & np.isfinite(high) & np.isfinite(high - low) & (low < high)
    if not possible.all():
        raise EnvRefused(
            "the action bounds are impossible: TD3 scales its actions to them",
            got=f"{name}: low = {low.tolist()}, high = {high.tolist()}",
            expected="finite bounds with low < high in every dimension",
            do="wrap the environment with gymnasium.wrappers.RescaleAction, or correct its action_space",
        )
    if not parts or 0 in action.shape or any(0 in part.shape for part in parts):
        raise EnvRefused("a space is empty", got=f"{name}: obs {obs}, action {action.shape}")
    return Spaces(parts, action.shape, tuple(low.tolist()), tuple(high.tolist()))


def _obs_parts(space: gym.Space[Any], part: str, name: str) -> Iterator[ObsPart]:
    """Yield the arrays that an observation is made of, those of a Dict in the order of their names.

    Raises:
        EnvRefused: a part is no array of numbers, or an image.
    """
    if isinstance(space, gym.spaces.Dict):
        for key in sorted(space.spaces, key=str):
            if not isinstance(key, str) or "/" in key:
                raise EnvRefused("a part of the observations has no plain name", got=f"{name}: {part}, key {key!r}")
            yield from _obs_parts(space.spaces[key], f"{part}/{key}", name)
    elif isinstance(space, gym.spaces.Tuple):
        for k, inside in enumerate(space.spaces):
            yield from _obs_parts(inside, f"{part}/{k}", name)
    elif not isinstance(space, gym.spaces.Box):
        raise EnvRefused(
            f"{type(space).__name__} observations are not supported",
            got=f"{name}: {part} is {space}",
            expected="a Box of numbers, or a Dict or Tuple of such",
            do="wrap the environment with gymnasium.wrappers.FlattenObservation, which makes numbers of it",
        )
    elif space.dtype == np.uint8 and len(space.shape) >= 2:
        raise EnvRefused(
            "image observations are not yet supported",
            got=f"{name}: {part} is an image of shape {space.shape}",
            expected="a vector of numbers",
            do="choose a variant of the environment that observes its state",
        )
    else:
        yield ObsPart(name=part, shape=space.shape)
