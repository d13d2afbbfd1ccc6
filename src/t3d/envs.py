"""Environments, stepped: scale actions, seed and reset episodes, refuse what may not be stored.

Inside this file actions are in the environment's own units; everywhere else they lie in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.errors import Diverged, EnvFailed
from t3d.making import make, spaces_of
from t3d.policy import to_env_units
from t3d.quiet import quiet_pybullet


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
        role: what they serve, for messages.

    Raises:
        EnvRefused: as `make` and `spaces_of`.
        EnvFailed: its first reset raised, or gave what it may not.
    """

    def __init__(
        self, env: str, n_envs: int, seed_of: Callable[[int, int], int], fresh: bool, role: str = "training"
    ) -> None:
        self.name = env
        self._role = role
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

        Raises:
            EnvFailed: an environment raised, or gave what it may not; the next call begins the same episodes.
        """
        self._episode[ended] += 1
        self._return[ended], self._length[ended] = 0.0, 0
        try:
            obs = self._reset(ended)
        except EnvFailed:
            self._episode[ended] -= 1
            raise
        self.obs = obs

    def _reset(self, ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        new_obs = self.obs.copy()
        for i in np.flatnonzero(ended).tolist():
            try:
                with quiet_pybullet():
                    if self._fresh and self._episode[i] > 0:
                        self._envs[i].close()
                        self._envs[i] = make(self.name)
                    obs, _ = self._envs[i].reset(seed=self._seed_of(i, int(self._episode[i])))
            except Exception as error:
                raise self._raised(error, i, "reset", None) from error
            new_obs[i] = self._numbers("observation", obs, self.spaces.obs_shape, i, None).reshape(-1)
        self._refuse_non_finite("observation", new_obs, None)
        return new_obs

    def step(self, action: NDArray[np.float32]) -> Step:
        """Act once in every environment.

        Args:
            action: (N, A) in [-1, 1]; scaled to the environment's own bounds and clipped to them here.

        Raises:
            EnvFailed: an environment raised, or gave a non-finite number. Nothing of that step is to be stored.
            Diverged: the action itself is not finite; no environment has been stepped.
        """
        n = len(self._envs)
        _refuse_non_finite_action(action)
        scaled = to_env_units(action, self.spaces.action_low, self.spaces.action_high)
        reward, next_obs = np.zeros(n, np.float32), np.empty_like(self.obs)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        for i, env in enumerate(self._envs):
            try:
                obs, gave, terminated[i], truncated[i], _ = env.step(scaled[i].reshape(self.spaces.action_shape))
            except Exception as error:
                raise self._raised(error, i, "step", scaled) from error
            next_obs[i] = self._numbers("observation", obs, self.spaces.obs_shape, i, scaled).reshape(-1)
            reward[i] = self._numbers("reward", gave, (), i, scaled)
        self._refuse_non_finite("observation", next_obs, scaled)
        self._refuse_non_finite("reward", reward[:, None], scaled)
        self.env_steps += n
        self._return += reward
        self._length += 1
        self.obs = next_obs
        episodes = [
            Episode(i, float(self._return[i]), int(self._length[i]), "terminated" if terminated[i] else "truncated")
            for i in range(n)
            if terminated[i] or truncated[i]
        ]
        return Step(reward, terminated, truncated, next_obs, episodes)

    def facts(self) -> dict[str, Any]:
        """Return where the episodes stand; with `obs`, the seeds and the actions played it is all there is to know."""
        return {
            "env_steps": self.env_steps,
            "episode": self._episode.tolist(),
            "return": self._return.tolist(),
            "length": self._length.tolist(),
        }

    def restore(
        self, facts: Mapping[str, Any], obs: NDArray[np.float32], played: Sequence[NDArray[Any] | None]
    ) -> list[str | None]:
        """Bring every environment to where another of the same name and seeds stood.

        It needs no help of the environment: a new instance is reset with the episode's seed and plays the episode's
        actions again, and everything it answers is compared to the bit with what was stored.

        Args:
            facts: what `facts` returned then.
            obs: (N, S) what `obs` was.
            played: of each environment the slots of its unfinished episode (fields of `replay.slot_dtype`);
                None where the episode was over.

        Returns:
            Of each environment None, or what it did not do again; its episode is not to be continued then.
        """
        self.env_steps = facts["env_steps"]
        self._episode[:], self._return[:], self._length[:] = facts["episode"], facts["return"], facts["length"]
        self.obs = obs.copy()
        differs = [None if rows is None else self._play_again(i, rows) for i, rows in enumerate(played)]
        return [
            None if what is None else f"environment {i}, episode {self._episode[i]}, {what}"
            for i, what in enumerate(differs)
        ]

    def _play_again(self, i: int, rows: NDArray[Any]) -> str | None:
        """Play an unfinished episode again. Return what was different, None if nothing was."""
        if len(rows) != self._length[i]:
            return f"its first {self._length[i] - len(rows):,} steps are not on disk"
        scaled = to_env_units(rows["action"], self.spaces.action_low, self.spaces.action_high)
        try:
            self._envs[i].close()
            with quiet_pybullet():
                self._envs[i] = make(self.name)
                obs, _ = self._envs[i].reset(seed=self._seed_of(i, int(self._episode[i])))
            for k, (row, action) in enumerate(zip(rows, scaled, strict=True)):
                if np.asarray(obs, np.float32).tobytes() != row["obs"].tobytes():
                    return f"step {k}: another observation"
                obs, reward, terminated, truncated, _ = self._envs[i].step(action.reshape(self.spaces.action_shape))
                if np.float32(reward).tobytes() != row["reward"].tobytes() or terminated or truncated:
                    return f"step {k + 1}: another reward, or an end"
            same = np.asarray(obs, np.float32).tobytes() == self.obs[i].tobytes()
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is not the same as before
            return f"{type(error).__name__}: {error}"
        return None if same else f"step {len(rows)}: another observation"

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _numbers(
        self, field: str, given: Any, shape: tuple[int, ...], i: int, scaled: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        try:
            array = np.asarray(given, np.float32)
        except (TypeError, ValueError):
            array = None
        if array is None or array.shape != shape:
            was = type(given).__name__ + ("" if array is None else f" of shape {array.shape}")
            raise EnvFailed(
                f"the environment's {field} is of the wrong kind",
                got=f"{self._where(i, scaled)}: {was}",
                expected=f"numbers of shape {shape}" if shape else "one number",
                do="mend the environment's spaces, or what its reset and step return",
            )
        return array

    def _where(self, i: int, scaled: NDArray[np.float32] | None) -> str:
        # The counters still stand before the step that failed.
        last = "" if scaled is None else f", last action {scaled[i].tolist()}"
        return (
            f"{self.name}, {self._role} environment {i}, env step {self.env_steps + 1}, "
            f"episode {self._episode[i]}, episode step {self._length[i] + (scaled is not None)}{last}"
        )

    def _raised(self, error: Exception, i: int, doing: str, scaled: NDArray[np.float32] | None) -> EnvFailed:
        return EnvFailed(
            f"the environment raised {type(error).__name__} in {doing}: {error}",
            got=self._where(i, scaled),
            do="mend the environment; its own traceback is above",
        )

    def _refuse_non_finite(self, field: str, values: NDArray[np.float32], scaled: NDArray[np.float32] | None) -> None:
        if np.isfinite(values).all():
            return
        i = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        bad = np.flatnonzero(~np.isfinite(values[i]))
        raise EnvFailed(
            f"the environment gave a non-finite {field}",
            got=f"{self._where(i, scaled)}: {field} at index {bad.tolist()} is {values[i, bad].tolist()}",
            expected="finite float32 numbers",
            do="mend the environment, or end the episode before it diverges; this step was not stored",
        )


def _refuse_non_finite_action(action: NDArray[np.float32]) -> None:
    if not np.isfinite(action).all():
        do = "lower --lr, or look at the scale of the observations and rewards with t3d check"
        raise Diverged("training has diverged: the actor's action is not finite", got=f"{action.tolist()}", do=do)
