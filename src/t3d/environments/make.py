"""Make an environment from its name and look at its spaces. But for two wrappers, gymnasium is imported here alone."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import logging
import math
import numbers
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from t3d.address import FILE_AND_NAME, importable_from, module_at, object_at
from t3d.env_spec import EnvSpec, View
from t3d.environments.action_repeat import RepeatedActions
from t3d.environments.images import is_image, refuse_too_small
from t3d.environments.pixels import Pixels, without_a_screen
from t3d.environments.process_state import ProcessState
from t3d.environments.silence import any_mujoco_gl, quiet_pybullet, silenced, tame_mujoco
from t3d.errors import EnvRefused, Refused, message_of, shortened
from t3d.spaces import ObsPart, Spaces

_log = logging.getLogger("t3d")

Env = gym.Env[Any, Any]
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "pybullet": "bullet"}
# Suites that register their ids only once they are imported, by what their ids have in common.
_SUITES = {"BulletEnv-v": "pybullet_envs_gymnasium"}
# Gymnasium 1.4 films with a camera that stands still unless it is told otherwise; a model without a camera of this name
# is filmed by that one.
_VIDEO = {"width": 480, "height": 360, "camera_name": "track"}


def make(env: EnvSpec, *, render: bool = False) -> Env:
    """Make one environment.

    Args:
        env: which.
        render: draw frames as RGB arrays; a function that takes no render_mode is asked without it.

    Raises:
        EnvRefused: there is no such environment, a package it needs is missing, or its own code raised.
    """
    with _explained(env):
        if env.pixels:
            without_a_screen()
        made = _made(env, render or env.pixels)
        if env.view.action_repeat > 1:
            made = RepeatedActions(made, env.view.action_repeat, env.title)
        if env.pixels:  # one picture for all frames that an action is played for
            with quiet_pybullet():
                made = Pixels(made, env.title, env.view.frame_size)
        for wrapper in env.wrappers:
            made = _checked(_found_at(wrapper)(made), wrapper)
    return made


def is_hardware(env: EnvSpec) -> bool:
    """Return whether what makes an environment says that it is one physical device. It is not made for that.

    Raises:
        EnvRefused: as `make`, for what can be known without making it.
    """
    with ProcessState(env.title), _explained(env):
        maker = _own_maker(env)
        if maker is None:
            env_id = env.name.rpartition(":")[2]
            entry = _import_entry(env_id, render=False)
            maker = load_env_creator(entry) if entry else gym.spec(env_id).entry_point
    return bool(getattr(maker, "is_hardware", False))


@contextlib.contextmanager
def _explained(env: EnvSpec) -> Iterator[None]:
    """Say of whatever is raised what it means for the environment, and what to do."""
    try:
        yield
    except Refused:
        raise
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise EnvRefused(
            "a package that this environment needs is not installed",
            got=f"{env.title}: {error}",
            do=_install_hint(str(error) + env.name) or "install it, or put its folder on PYTHONPATH",
        ) from error
    except gym.error.Error as error:
        raise EnvRefused(
            "there is no such environment",
            got=f"{env.title} ({str(error).splitlines()[0]})",
            expected=f"a registered id, for example {_nearest(env.name)}; module:Id; or path/to/file.py:Class",
            do=_install_hint(env.name) or _unknown_hint(env.name),
        ) from error
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise EnvRefused(
            "the environment cannot be made: its own code raised",
            got=f"{env.title}: {message_of(error)}",
            do=_fix_where(error),
        ) from error


def _made(env: EnvSpec, render: bool) -> Env:
    options = dict(env.kwargs)
    if (maker := _own_maker(env)) is not None:
        tame_mujoco()
        if render and _takes_render_mode(maker):
            options["render_mode"] = "rgb_array"
        return _checked(maker(**options), env.name)
    env_id = env.name.rpartition(":")[2]
    entry = _import_entry(env_id, render and not env.pixels)
    if render:
        usual = _VIDEO if entry.startswith("gymnasium.envs.mujoco") else {}
        if options.keys() & {"camera_id", "default_camera_config"}:  # the name would be one too many, or hide it
            usual = {name: value for name, value in usual.items() if name != "camera_name"}
        options = usual | options | {"render_mode": "rgb_array"}
    with quiet_pybullet():
        return gym.make(env_id, disable_env_checker=True, **options)


def _own_maker(env: EnvSpec) -> Any:
    """Return the class or function that makes it; None for an id."""
    if env.maker is not None:
        return env.maker
    module, _, name = env.name.rpartition(":")
    if not module:
        return None
    if FILE_AND_NAME.fullmatch(env.name):
        return _found_at(env.name)
    _import_module(module)
    return None if name in gym.registry else object_at(env.name)


def _found_at(address: str) -> Callable[..., Any]:
    if ":" not in address:
        raise EnvRefused("this says not where to find it", got=address, expected="module:Name or path/to/file.py:Name")
    if not FILE_AND_NAME.fullmatch(address):
        _import_module(address.rpartition(":")[0])
    found: Callable[..., Any] | None = object_at(address)
    if callable(found):
        return found
    where, _, name = address.rpartition(":")
    inside = vars(module_at(address)).items()
    classes = [k for k, v in inside if isinstance(v, type) and issubclass(v, (gym.Env, gym.Wrapper))]
    raise EnvRefused(
        "there is no such class or function",
        got=f"{name} in {where}",
        expected=f"for example {', '.join(classes)}" if classes else "one that makes or wraps a gymnasium.Env",
        do="check the name behind the colon",
    )


def _checked(made: Any, maker: str) -> Env:
    if isinstance(made, gym.Env):
        return made
    kind = f"{type(made).__module__}.{type(made).__qualname__}"
    old = "; for one of the old gym, shimmy has compatibility classes" if hasattr(made, "reset") else ""
    raise EnvRefused(
        "what was made is no environment", got=f"{maker} gave {kind}", expected="a gymnasium.Env", do=f"return one{old}"
    )


def _takes_render_mode(maker: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


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
    return "it is called with the arguments of --env-arg alone (and render_mode for a video): see whether it can be"


def _import_module(module: str) -> None:
    # As `python -m` does: the installed command's own path lacks the folder it is called in.
    importable_from(Path.cwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise EnvRefused(
            "there is no such module",
            got=module,
            expected="a module that has or registers environments",
            do="check the name before the colon, install it, or put its folder on PYTHONPATH",
        ) from error


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


def _unknown_hint(name: str) -> str:
    suite = 'install the suite it belongs to: pip install "t3d[mujoco,box2d,bullet]"'
    module, _, env_id = name.rpartition(":")
    if module:
        return (
            f"check the spelling: {module} was imported, and registers no {env_id}; where it does so by a call, let a "
            "function of yours make it: path/to/file.py:make"
        )
    return f"check the spelling, or {suite}, or name the package that registers it too: PACKAGE:{name}"


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


def spaces_in(env: EnvSpec) -> Spaces:
    """Return the spaces of an environment that is made for this alone.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
    """
    with ProcessState(env.title):
        made = make(env)
        try:
            return spaces_of(made, env.title, env.view)
        finally:
            close(made, env.title)


def spaces_of(env: Env, name: str, view: View) -> Spaces:
    """Return an environment's spaces.

    Args:
        env: made.
        name: of it, for messages.
        view: how images among its observations are looked at.

    Raises:
        EnvRefused: TD3 cannot act in it, or t3d cannot see in it.
    """
    obs, action = env.observation_space, env.action_space
    if not isinstance(action, gym.spaces.Box) or not np.issubdtype(action.dtype, np.floating):
        raise EnvRefused(
            "TD3 needs continuous actions, in one vector",
            got=f"{name} has {action}{_package(action)}",
            expected="a Box of floats with finite bounds",
            do=_cure_of_actions(action),
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
            do="correct its action_space, or give bounds to it, of what it does: --wrapper FILE.py:bounded with "
            f"def bounded(env): return gymnasium.wrappers.TransformAction(env, lambda action: action, "
            f"gymnasium.spaces.Box(-1, 1, {action.shape}))",
        )
    if not parts or 0 in action.shape or any(0 in part.shape for part in parts):
        raise EnvRefused("a space is empty", got=f"{name}: obs {obs}, action {action.shape}")
    for part in parts:
        refuse_too_small(part, view, name)
    sees = view if any(part.dtype == "uint8" for part in parts) else None
    return Spaces(parts, action.shape, tuple(low.tolist()), tuple(high.tolist()), sees)


def period_of(env: Env, spec: EnvSpec) -> float | None:
    """Return how many seconds of its own time an env step, all its frames, takes; None where nobody knows.

    MuJoCo's environments and many others say it as `dt`. A wrapper may repeat actions, so with one it is not known.
    """
    try:
        said: Any = getattr(env.unwrapped, "dt", None)
    except Exception:  # noqa: BLE001 - a property is its author's code; what it does not say is not known
        return None
    period_s = float(said) if isinstance(said, numbers.Real) and not spec.wrappers else 0.0
    return period_s * spec.view.action_repeat if 0 < period_s < math.inf else None


_OLD_GYM = "import gymnasium in its place where the environment is written, or wrap it with a class of shimmy"


def _package(space: Any) -> str:
    """Return which package a space is of, where that is not gymnasium: its class may have the same name there."""
    package = type(space).__module__.split(".")[0]
    return "" if isinstance(space, gym.Space) else f", a space of the package {package}"


def _cure_of_actions(space: Any) -> str:
    if _package(space):
        return _OLD_GYM
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return (
            "make one vector of its parts: --wrapper FILE.py:flat with def flat(env): space = env.action_space; "
            "return gymnasium.wrappers.TransformAction(env, lambda action: gymnasium.spaces.unflatten(space, action), "
            "gymnasium.spaces.flatten_space(space))"
        )
    return "choose another environment, or an algorithm for discrete actions"


def _cure_of_observations(space: Any) -> str:
    if not space.is_np_flattenable:
        return "give this part a fixed length, by a wrapper of the package or your own: --wrapper MODULE:Name"
    return "--wrapper gymnasium.wrappers:FlattenObservation makes numbers of it"


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
            got=f"{name}: {part} is {space}{_package(space)}",
            expected="a Box of numbers, or a Dict or Tuple of such",
            do=_OLD_GYM if _package(space) else _cure_of_observations(space),
        )
    else:
        yield ObsPart(name=part, shape=space.shape, dtype="uint8" if is_image(space, f"{name}: {part}") else "float32")
