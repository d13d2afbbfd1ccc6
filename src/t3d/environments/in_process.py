"""Environments in this process: made, reset with a seed, stepped in their own units, and looked at for kind and shape.

No PyTorch is imported here: worker processes run this same code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments import silence
from t3d.environments.make import close, is_ctrl_c, make, period_of, spaces_of
from t3d.environments.silence import quiet_pybullet
from t3d.environments.values import first_of, five_of, flag_of, numbers_of, reward_of
from t3d.errors import EnvFailed, message_of
from t3d.frames import row_of
from t3d.spaces import Spaces


class Broken(Exception):
    """Carry the index of the environment that failed to whoever can say where in the run it stood.

    Args:
        env: its index.
        failed: what is wrong, without where.
    """

    def __init__(self, env: int, failed: EnvFailed) -> None:
        super().__init__(env, failed)
        self.env = env
        self.failed = failed


def row_dtype(spaces: Spaces) -> np.dtype[np.void]:
    """Return the layout of one environment's row: the action it is given, and all that it answers."""
    return np.dtype(
        [
            ("obs", spaces.obs_dtype, (spaces.obs_size,)),
            ("action", np.float32, spaces.action_shape),
            ("reward", np.float32),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("unstable", np.int64),  # how often MuJoCo has said so of this environment
        ],
        align=True,
    )


class Rows(NamedTuple):
    """The rows of N environments, as columns: a field of a structured array takes longer to find than to read."""

    obs: NDArray[Any]  # (N, S) as observations are kept
    action: NDArray[np.float32]  # (N, *action_shape)
    reward: NDArray[np.float32]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    unstable: NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, rows: NDArray[np.void]) -> Rows:
        """Return the columns of rows laid out by `row_dtype`; not copies."""
        return cls._make(rows[name] for name in cls._fields)


class Instances:
    """Hold N environments. Whatever is begun here is over when the call returns; not so in `worker_pool.Workers`.

    Args:
        env: which.
        n_envs: N.
        render: draw frames as RGB arrays.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
    """

    def __init__(self, env: EnvSpec, n_envs: int, *, render: bool = False) -> None:
        self._spec, self._name = env, env.title
        self.envs: list[Any] = []
        try:
            for _ in range(n_envs):
                self.envs.append(make(env, render=render))
            self.spaces: Spaces = spaces_of(self.envs[0], self._name, env.view)
        except BaseException:
            self.close()
            raise
        self.gym_spaces: tuple[Any, Any] = self.envs[0].observation_space, self.envs[0].action_space
        self.period_s = period_of(self.envs[0], env)
        self.drawn_by: str = self.envs[0].get_wrapper_attr("drawn_by") if env.pixels else ""
        spec = self.envs[0].spec
        self.is_hardware = any(getattr(made.unwrapped, "is_hardware", False) for made in self.envs)
        self.time_limit = spec.max_episode_steps if spec else None  # None: no one that is known
        self.rows = Rows.of(np.zeros(n_envs, row_dtype(self.spaces)))
        self.raw_images: list[NDArray[np.uint8]] = []  # of the observation that was taken last, by any of them

    def begin_reset(self, i: int, seed: int, *, anew: bool) -> None:
        """Begin an episode; its first observation will stand in row i.

        Args:
            i: which.
            seed: of the episode.
            anew: in an instance made anew.

        Raises:
            Broken: it raised, or gave what it may not.
        """
        try:
            with quiet_pybullet():
                if anew:
                    close(self.envs[i], self._name)
                    self.envs[i] = make(self._spec)
                given = self.envs[i].reset(seed=seed)
        except BaseException as error:
            raise _raised(error, i, "reset") from error
        try:
            self.rows.obs[i] = self._obs(first_of(given))
        except EnvFailed as failed:
            raise Broken(i, failed) from None

    def begin_step(self, i: int, action: NDArray[np.float32]) -> None:
        """Step environment i; what it answers will stand in row i.

        Args:
            i: which.
            action: in its action shape and its own units.

        Raises:
            Broken: it raised, or gave what it may not.
        """
        rows, unstable = self.rows, silence.unstable_simulations
        try:
            given = self.envs[i].step(self._action(action))
        except BaseException as error:
            raise _raised(error, i, "step") from error
        if silence.unstable_simulations != unstable:
            rows.unstable[i] += silence.unstable_simulations - unstable
        try:
            obs, reward, terminated, truncated = five_of(given)
            rows.obs[i] = self._obs(obs)
            rows.reward[i] = reward_of(reward, self._name)
            rows.terminated[i] = flag_of(terminated, "terminated", self._name)
            rows.truncated[i] = flag_of(truncated, "truncated", self._name)
        except EnvFailed as failed:
            raise Broken(i, failed) from None

    def _obs(self, given: Any) -> NDArray[Any]:
        if self.spaces.view is None and self.spaces.is_array:
            return numbers_of(given, self.spaces.obs[0], self._name).ravel()
        parts = {part.name: numbers_of(given, part, self._name) for part in self.spaces.obs}
        self.raw_images = [parts[part.name] for part in self.spaces.images]
        return row_of(self.spaces, parts)

    def _action(self, action: NDArray[np.float32]) -> NDArray[Any]:
        """Return a copy of an action, as its space has it: an environment may keep it, and this memory is reused."""
        space = self.gym_spaces[1]
        given = np.array(action, space.dtype)
        if given.dtype != np.float32:  # a bound may lie between two of its numbers
            np.clip(given, space.low, space.high, out=given)
        return given

    def wait(self) -> None:
        """Return at once: what was begun is over."""

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            close(env, self._name)


def _raised(error: BaseException, i: int, doing: str) -> Broken:
    if is_ctrl_c(error):
        raise error
    if isinstance(error, EnvFailed):  # of one of our wrappers: it says itself what is wrong
        return Broken(i, error)
    name, _, message = message_of(error).partition(": ")
    do = "fix the environment; its own traceback is above"
    if isinstance(error, TypeError) and "unexpected keyword argument 'seed'" in message:
        do = "let reset take seed and options by name; reset of the old gym had none"
    what = f"the environment raised {name} in {doing}"
    return Broken(i, EnvFailed(f"{what}: {message}" if message else what, do=do))
