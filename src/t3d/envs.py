"""Environments: make them, look at their spaces, step them. The only file that imports gymnasium.

Inside this file actions are in the environment's own units; everywhere else they lie in [-1, 1].
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

from t3d.errors import EnvFailed, EnvRefused
from t3d.policy import to_env_units

Env = gym.Env[Any, Any]
_FILE_AND_CLASS = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "pybullet": "bullet"}
# Suites that register their ids only once they are imported, by what their ids have in common.
_SUITES = {"BulletEnv-v": "pybullet_envs_gymnasium"}
_VIDEO_SIZE = {"width": 480, "height": 360}


def make(env: str, *, render: bool = False) -> Env:
    """Make one environment.

    Args:
        env: a registered id, `module:Id` (the module is imported and registers it), or `path/to/file.py:Class`.
        render: draw frames as RGB arrays.

    Raises:
        EnvRefused: there is no such environment, or a package it needs is missing.
    """
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    if match := _FILE_AND_CLASS.fullmatch(env):
        made: Env = _class_in_file(match["file"], match["name"])(**options)
        return made
    try:
        entry = _import_entry(env)
        if render and entry.startswith("gymnasium.envs.mujoco"):
            options |= _VIDEO_SIZE
        with quiet_pybullet():
            return gym.make(env, disable_env_checker=True, **options)
    except gym.error.DependencyNotInstalled as error:
        raise EnvRefused(
            "a package that this environment needs is not installed",
            got=f"{env}: {error}",
            do=_install_hint(str(error) + env),
        ) from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise EnvRefused(
            "there is no such environment",
            got=f"{env} ({str(error).splitlines()[0]})",
            expected=f"a registered id, for example {_nearest(env)}; module:Id; or path/to/file.py:Class",
            do=_install_hint(env),
        ) from error


def _import_entry(env: str) -> str:
    """Import the code behind an id, and return its entry point, or "" where it is not a string."""
    for part, suite in _SUITES.items():
        if part in env and importlib.util.find_spec(suite):
            importlib.import_module(suite)
    entry = gym.spec(env).entry_point
    if not isinstance(entry, str):
        return ""
    load_env_creator(entry)
    if "mujoco" in sys.modules:
        _tame_mujoco()
    return entry


@functools.cache
def _class_in_file(file: str, name: str) -> Callable[..., Env]:
    path = Path(file).resolve()
    if not path.is_file():
        raise EnvRefused("there is no such file", got=str(path), do="check the path before the colon")
    spec = importlib.util.spec_from_file_location(f"t3d_env_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, gym.Env)):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, gym.Env)]
        raise EnvRefused(
            "the file has no such environment class",
            got=f"{name} in {path}",
            expected=f"a subclass of gymnasium.Env: {', '.join(classes) or 'there is none in it'}",
            do="check the name behind the colon",
        )
    return found


def _nearest(env: str) -> str:
    near = difflib.get_close_matches(env.split(":")[-1], list(gym.registry), n=3, cutoff=0.4)
    return ", ".join(near) or "HalfCheetah-v5"


def _install_hint(text: str) -> str:
    for word, extra in _EXTRAS.items():
        if word in text.lower() or (extra in text.lower()):
            return f'pip install "t3d[{extra}]"'
    return 'check the spelling, or install the suite it belongs to: pip install "t3d[mujoco,box2d,bullet]"'


@functools.cache
def _tame_mujoco() -> None:
    # Without a handler MuJoCo prints to the terminal and writes MUJOCO_LOG.TXT into the user's folder.
    import mujoco

    log = logging.getLogger("t3d.mujoco")

    def handle(message: str) -> None:
        log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message.strip())

    mujoco.set_mju_user_warning(handle)


@contextlib.contextmanager
def quiet_pybullet() -> Iterator[None]:
    """Keep PyBullet's own words (`argv[0]=`, printed by C code when it connects) from stdout."""
    if "pybullet_envs_gymnasium" not in sys.modules:
        yield
        return
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class Spaces:
    """What the algorithm must know of an environment's spaces."""

    obs_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    action_low: NDArray[np.float32]  # (A,)
    action_high: NDArray[np.float32]  # (A,)

    @property
    def obs_size(self) -> int:
        """S: the length of a flattened observation."""
        return int(np.prod(self.obs_shape))

    @property
    def action_size(self) -> int:
        """A: the length of a flattened action."""
        return len(self.action_low)


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
    if not isinstance(obs, gym.spaces.Box):
        raise EnvRefused(
            f"{type(obs).__name__} observations are not yet supported",
            got=f"{name} has {obs}",
            expected="a Box: one array of numbers",
            do="wrap the environment with gymnasium.wrappers.FlattenObservation",
        )
    if obs.dtype == np.uint8 and len(obs.shape) >= 2:
        raise EnvRefused(
            "image observations are not yet supported",
            got=f"{name} has {obs.shape} images",
            expected="a vector of numbers",
            do="choose a variant of the environment that observes its state",
        )
    low, high = np.float32(action.low).reshape(-1), np.float32(action.high).reshape(-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise EnvRefused(
            "the action bounds are impossible: TD3 scales its actions to them",
            got=f"{name}: low = {low.tolist()}, high = {high.tolist()}",
            expected="finite bounds with low < high in every dimension",
            do="wrap the environment with gymnasium.wrappers.RescaleAction, or correct its action_space",
        )
    if 0 in obs.shape or 0 in action.shape:
        raise EnvRefused("a space is empty", got=f"{name}: obs {obs.shape}, action {action.shape}")
    return Spaces(obs.shape, action.shape, low, high)


class Episode(NamedTuple):
    """A finished episode."""

    env: int  # index of the env stream
    episode_return: float  # undiscounted sum of its rewards
    length: int  # in env steps
    end: str  # terminated or truncated


class Step(NamedTuple):
    """What N environments answered."""

    reward: NDArray[np.float32]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    next_obs: NDArray[np.float32]  # (N, S), the true one, also at an episode's end
    episodes: list[Episode]  # those that ended with this step


class Envs:
    """Step N environments side by side, each episode from a seed of its own.

    Nothing resets by itself: `step` returns the true next observation, and the owner resets what has ended
    (what Gymnasium calls AutoresetMode.DISABLED).

    Args:
        env: which, as for `make`.
        n_envs: N.
        seed_of: (env index, episode index) to that episode's seed.
        fresh: make the instance anew for every episode.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
        EnvFailed: its first reset raised, or gave what it may not.
    """

    def __init__(self, env: str, n_envs: int, seed_of: Callable[[int, int], int], fresh: bool) -> None:
        self.name = env
        self.env_steps = 0
        self._seed_of = seed_of
        self._fresh = fresh
        self._envs = [make(env) for _ in range(n_envs)]
        self.spaces = spaces_of(self._envs[0], env)
        self.obs = np.zeros((n_envs, self.spaces.obs_size), np.float32)  # where each environment stands
        self._episode = np.full(n_envs, -1)
        self._return = np.zeros(n_envs)
        self._length = np.zeros(n_envs, int)
        self.reset(np.ones(n_envs, bool))

    def __len__(self) -> int:
        """Return N."""
        return len(self._envs)

    def reset(self, ended: NDArray[np.bool_]) -> None:
        """Begin a new episode in each environment whose episode has ended.

        Args:
            ended: (N,). The other environments are left as they are.
        """
        self.obs = self.obs.copy()
        for i in np.flatnonzero(ended).tolist():
            self._episode[i] += 1
            self._return[i], self._length[i] = 0.0, 0
            with self._reporting(i, "reset", None), quiet_pybullet():
                if self._fresh and self._episode[i] > 0:
                    self._envs[i].close()
                    self._envs[i] = make(self.name)
                obs, _ = self._envs[i].reset(seed=self._seed_of(i, int(self._episode[i])))
                self.obs[i] = self._flat(obs)
        self._refuse_non_finite("observation", self.obs, None)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Act once in every environment.

        Args:
            action: (N, A) in [-1, 1]; scaled to the environment's own bounds and clipped to them here.

        Raises:
            EnvFailed: an environment raised, or gave a non-finite number. Nothing of that step is to be stored.
        """
        n = len(self._envs)
        scaled = to_env_units(action, self.spaces.action_low, self.spaces.action_high)
        reward, next_obs = np.zeros(n, np.float32), np.empty_like(self.obs)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        for i, env in enumerate(self._envs):
            with self._reporting(i, "step", scaled):
                obs, reward[i], terminated[i], truncated[i], _ = env.step(scaled[i].reshape(self.spaces.action_shape))
                next_obs[i] = self._flat(obs)
        self._refuse_non_finite("observation", next_obs, scaled)
        self._refuse_non_finite("reward", reward[:, None], scaled)
        self.env_steps += n
        self._return += reward
        self._length += 1
        self.obs = next_obs
        episodes = [
            Episode(
                int(i),
                float(self._return[i]),
                int(self._length[i]),
                "terminated" if terminated[i] else "truncated",
            )
            for i in np.flatnonzero(terminated | truncated)
        ]
        return Step(reward, terminated, truncated, next_obs, episodes)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _flat(self, obs: Any) -> NDArray[Any]:
        array = np.asarray(obs)
        if array.shape != self.spaces.obs_shape:
            raise ValueError(f"observation of shape {array.shape}, the space says {self.spaces.obs_shape}")
        return array.reshape(-1)

    def _where(self, i: int, scaled: NDArray[np.float32] | None) -> str:
        # The counters still stand before the step that failed.
        last = "" if scaled is None else f", last action {scaled[i].tolist()}"
        return (
            f"{self.name}, environment {i}, env step {self.env_steps + 1}, "
            f"episode {self._episode[i]}, episode step {self._length[i] + (scaled is not None)}{last}"
        )

    @contextlib.contextmanager
    def _reporting(self, i: int, doing: str, scaled: NDArray[np.float32] | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise EnvFailed(
                f"the environment raised {type(error).__name__} in {doing}: {error}",
                got=self._where(i, scaled),
                do="its own traceback is above; what was learned so far is saved",
            ) from error

    def _refuse_non_finite(self, field: str, values: NDArray[np.float32], scaled: NDArray[np.float32] | None) -> None:
        if np.isfinite(values).all():
            return
        i = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        bad = np.flatnonzero(~np.isfinite(values[i]))
        raise EnvFailed(
            f"the environment gave a non-finite {field}",
            got=f"{self._where(i, scaled)}: {field} at index {bad.tolist()} is {values[i, bad].tolist()}",
            expected="finite float32 numbers",
            do="mend the environment, or end the episode before it diverges; "
            "the step was not stored, and what was learned so far is saved",
        )
