"""Environments in this process: made, reset with a seed, stepped in their own units, and looked at for kind and shape.

No PyTorch is imported here: worker processes run this same code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.environments import silence
from t3d.environments.make import make, spaces_of
from t3d.environments.silence import quiet_pybullet
from t3d.errors import EnvFailed
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
            ("obs", spaces.obs_dtype, spaces.obs_shape),
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

    obs: NDArray[Any]  # (N, *obs_shape), as the space says
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
        env: which, as for `make`.
        n_envs: N.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
    """

    def __init__(self, env: str, n_envs: int) -> None:
        self._name = env
        self._envs = [make(env) for _ in range(n_envs)]
        self.spaces: Spaces = spaces_of(self._envs[0], env)
        self.rows = Rows.of(np.zeros(n_envs, row_dtype(self.spaces)))

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
                    self._envs[i].close()
                    self._envs[i] = make(self._name)
                obs, _ = self._envs[i].reset(seed=seed)
        except Exception as error:
            raise _raised(error, i, "reset") from error
        self.rows.obs[i] = _numbers(i, "observation", obs, self.spaces.obs_shape, self.spaces.obs_dtype)

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
            # A copy: an environment may keep its last action, and the memory of this one is written again.
            obs, reward, rows.terminated[i], rows.truncated[i], _ = self._envs[i].step(np.array(action))
        except Exception as error:
            raise _raised(error, i, "step") from error
        if silence.unstable_simulations != unstable:
            rows.unstable[i] += silence.unstable_simulations - unstable
        rows.obs[i] = _numbers(i, "observation", obs, self.spaces.obs_shape, self.spaces.obs_dtype)
        rows.reward[i] = _numbers(i, "reward", reward, (), np.dtype(np.float32))

    def wait(self) -> None:
        """Return at once: what was begun is over."""

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()


def _numbers(i: int, field: str, given: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array = np.asarray(given, dtype)
    except (TypeError, ValueError):
        array = None
    if array is not None and array.shape == shape:
        return array
    failed = EnvFailed(
        f"the environment's {field} is of the wrong kind",
        got=type(given).__name__ + ("" if array is None else f" of shape {array.shape}"),
        expected=f"numbers of shape {shape}" if shape else "one number",
        do="fix the environment's spaces, or what its reset and step return",
    )
    raise Broken(i, failed)


def _raised(error: Exception, i: int, doing: str) -> Broken:
    failed = EnvFailed(
        f"the environment raised {type(error).__name__} in {doing}: {error}",
        do="fix the environment; its own traceback is above",
    )
    return Broken(i, failed)
