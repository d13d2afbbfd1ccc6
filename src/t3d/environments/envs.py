"""Environments, stepped: scale actions, seed and reset episodes, refuse what may not be stored.

Inside this file actions are in the environment's own units; everywhere else they lie in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Instances
from t3d.environments.process_state import ProcessState
from t3d.environments.worker_pool import Workers
from t3d.errors import Diverged, EnvFailed
from t3d.formats import EnvsState
from t3d.frames import Stacks, vectors_of
from t3d.replay import NOTHING


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
    next_obs: NDArray[Any]  # (N, S) as it is kept, the true one, also at an episode's end
    episodes: list[Episode]  # those that ended with this step


class Envs:
    """Step N environments side by side, each episode from a seed of its own.

    Nothing resets by itself: `step` returns the true next observation, and the owner resets what has ended
    (what Gymnasium calls AutoresetMode.DISABLED).

    Args:
        env: which.
        n_envs: N.
        seed_of: (env index, episode index) to that episode's seed.
        fresh: make the instance anew for every episode.
        role: what they serve, for messages.
        workers: processes that share them; 0 steps them in this one.
        timeout_s: what a step or a reset in a worker may take.
        max_episode_steps: truncates an episode after so many; None leaves that to the environment.
        over: step the environments of these, whose episodes are over, and leave them to these when closed.

    Raises:
        ConfigRefused: this system cannot have workers.
        EnvRefused: as `make.make` and `make.spaces_of`.
        EnvFailed: its first reset raised, or gave what it may not.
    """

    def __init__(
        self,
        env: EnvSpec,
        n_envs: int,
        seed_of: Callable[[int, int], int],
        fresh: bool,
        role: str = "training",
        *,
        workers: int = 0,
        timeout_s: float = 60.0,
        max_episode_steps: int | None = None,
        over: Envs | None = None,
    ) -> None:
        self.name = env.title
        self._role = role
        self.env_steps = 0
        self._seed_of = seed_of
        self.spec, self.fresh, self._limit, self._over = env, fresh, max_episode_steps, over
        self._process: ProcessState = ProcessState(self.name) if over is None else over._process
        with self._process:
            self._envs: Workers | Instances
            if over is not None:
                self._envs = over._envs
            else:
                self._envs = Workers(env, n_envs, workers, timeout_s) if workers else Instances(env, n_envs)
        self.spaces = self._envs.spaces
        # Where each environment stands, as it is kept.
        self.obs: NDArray[Any] = np.zeros((n_envs, self.spaces.obs_size), self.spaces.obs_dtype)
        self._stacks = Stacks(self.spaces, n_envs)
        self._episode = np.full(n_envs, -1)
        self._return = np.zeros(n_envs)
        self._length = np.zeros(n_envs, int)
        try:
            self.reset(np.ones(n_envs, bool))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return N."""
        return len(self.obs)

    @property
    def seen(self) -> NDArray[np.float32]:
        """What the networks see of where each environment stands, (N, S): with images the last frames at once."""
        return self._stacks.seen(self.obs)

    @property
    def raw_images(self) -> list[NDArray[np.uint8]]:
        """The images that the last of the environments gave last, as it gave them; none of those in other processes."""
        return self._envs.raw_images if isinstance(self._envs, Instances) else []

    @property
    def is_hardware(self) -> bool:
        """Whether they say that they are one physical device; of those in other processes nobody asks."""
        return isinstance(self._envs, Instances) and self._envs.is_hardware

    @property
    def period_s(self) -> float | None:
        """Seconds that a step takes in an environment's own time, where that is known."""
        return self._envs.period_s

    @property
    def drawn_by(self) -> str:
        """What draws what they observe, where that is their rendered picture; else empty."""
        return self._envs.drawn_by

    @property
    def unstable(self) -> int:
        """How often MuJoCo has called these simulations unstable, once an episode at most."""
        return int(self._envs.rows.unstable.sum())

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
        self._stacks.begin(obs, ended)

    def _reset(self, ended: NDArray[np.bool_]) -> NDArray[Any]:
        try:
            with self._process:
                for i in np.flatnonzero(ended).tolist():
                    episode = int(self._episode[i])
                    self._envs.begin_reset(i, self._seed_of(i, episode), anew=self.fresh and episode > 0)
                self._envs.wait()
        except Broken as broken:
            raise self._failed(broken, None) from broken.__cause__
        new_obs = np.where(ended[:, None], self._shown(), self.obs)
        self._refuse_non_finite("observation", vectors_of(self.spaces, new_obs), None)
        return new_obs

    def step(self, action: NDArray[np.float32], meanwhile: Callable[[], None] | None = None) -> Step:
        """Act once in every environment.

        Args:
            action: (N, A) in [-1, 1]; scaled to the environment's own bounds and clipped to them here.
            meanwhile: what is done while worker processes step; without them it is done once that is over.

        Raises:
            EnvFailed: an environment raised, or gave a non-finite number. Nothing of that step is to be stored.
            Diverged: the action itself is not finite; no environment has been stepped.
        """
        _refuse_non_finite_action(action)
        scaled = self.spaces.to_env_units(action)
        try:
            with self._process:
                for i in range(len(self)):
                    self._envs.begin_step(i, scaled[i].reshape(self.spaces.action_shape))
                if meanwhile is None:
                    self._envs.wait()
            if meanwhile is not None:
                meanwhile()
                self._envs.wait()
        except Broken as broken:
            raise self._failed(broken, scaled) from broken.__cause__
        next_obs, (reward, terminated, truncated) = self._shown(), self._answers()
        self._refuse_non_finite("observation", vectors_of(self.spaces, next_obs), scaled)
        self._refuse_non_finite("reward", reward[:, None], scaled)
        self.env_steps += len(self)
        self._return += reward
        self._length += 1
        if self._limit is not None:
            truncated |= self._length >= self._limit
        self.obs = next_obs
        self._stacks.push(next_obs)
        episodes = [
            Episode(i, float(self._return[i]), int(self._length[i]), "terminated" if terminated[i] else "truncated")
            for i in range(len(self))
            if terminated[i] or truncated[i]
        ]
        return Step(reward, terminated, truncated, next_obs, episodes)

    @property
    def state(self) -> EnvsState:
        """Where the episodes stand; with `obs`, the seeds and the actions played it is all there is to know."""
        return EnvsState(self.env_steps, self._episode.tolist(), self._return.tolist(), self._length.tolist())

    def restore(self, state: EnvsState, obs: NDArray[Any], played: Sequence[NDArray[Any] | None]) -> list[str | None]:
        """Bring every environment to where another of the same name and seeds stood.

        It needs no help of the environment: a new instance is reset with the episode's seed and plays the episode's
        actions again, and everything it answers is compared to the bit with what was stored.

        Args:
            state: what `state` was then.
            obs: (N, S) what `obs` was.
            played: of each environment the slots of its unfinished episode (fields of `replay.slot_dtype`);
                None where the episode was over.

        Returns:
            Of each environment None, or what it did not do again; its episode is not to be continued then.
        """
        self.env_steps = state.env_steps
        self._episode[:], self._return[:], self._length[:] = state.episode, state.episode_return, state.length
        self.obs = obs.copy()
        self._stacks.restore(self.obs, [None if rows is None else rows["obs"] for rows in played])
        differs = [None if rows is None else self._play_again(i, rows) for i, rows in enumerate(played)]
        return [
            None if what is None else f"environment {i}, episode {self._episode[i]}, {what}"
            for i, what in enumerate(differs)
        ]

    def _play_again(self, i: int, rows: NDArray[Any]) -> str | None:
        """Play an unfinished episode again. Return what was different, None if nothing was."""
        if lost := self._length[i] - np.count_nonzero(rows["ended"] != NOTHING):
            return f"{lost:,} of its {self._length[i]:,} steps are not on disk"
        scaled = self.spaces.to_env_units(rows["action"])
        answer = self._envs.rows
        try:
            with self._process:
                self._envs.begin_reset(i, self._seed_of(i, int(self._episode[i])), anew=True)
                self._envs.wait()
                for k, (row, action) in enumerate(zip(rows, scaled, strict=True)):
                    if answer.obs[i].tobytes() != row["obs"].tobytes():
                        return f"step {k}: another observation"
                    self._envs.begin_step(i, action.reshape(self.spaces.action_shape))
                    self._envs.wait()
                    ended = answer.terminated[i] or answer.truncated[i]
                    if answer.reward[i].tobytes() != row["reward"].tobytes() or ended:
                        return f"step {k + 1}: another reward, or an end"
        except Broken as broken:  # whatever is wrong, it is not the same as before
            return broken.failed.one_line()
        same = answer.obs[i].tobytes() == self.obs[i].tobytes()
        return None if same else f"step {len(rows)}: another observation"

    @property
    def notes(self) -> list[str]:
        """What these environments did to this process that a reader of the run must know, a sentence each."""
        return self._process.notes

    def close(self) -> None:
        """Close every environment that is not another's."""
        if self._over is None:
            with self._process:
                self._envs.close()

    def _shown(self) -> NDArray[Any]:
        """Return a copy of all observations, (N, S) as they are kept."""
        return self._envs.rows.obs.copy()

    def _answers(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return copies of all rewards and flags, (N,)."""
        rows = self._envs.rows
        return rows.reward.copy(), rows.terminated.copy(), rows.truncated.copy()

    def _where(self, i: int, scaled: NDArray[np.float32] | None) -> str:
        # The counters still stand before the step that failed.
        last = "" if scaled is None else f", last action {scaled[i].tolist()}"
        return (
            f"{self.name}, {self._role} environment {i}, env step {self.env_steps + 1}, "
            f"episode {self._episode[i]}, episode step {self._length[i] + (scaled is not None)}{last}"
        )

    def _failed(self, broken: Broken, scaled: NDArray[np.float32] | None) -> EnvFailed:
        rows, where = broken.failed.rows, self._where(broken.env, scaled)
        got = f"{where}: {rows['got']}" if "got" in rows else where
        return EnvFailed(broken.failed.what, **rows | {"got": got})

    def _refuse_non_finite(self, field: str, values: NDArray[np.float32], scaled: NDArray[np.float32] | None) -> None:
        if are_finite(values):
            return
        i = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        bad = np.flatnonzero(~np.isfinite(values[i]))
        raise EnvFailed(
            f"the environment gave a non-finite {field}",
            got=f"{self._where(i, scaled)}: {field} at index {bad.tolist()} is {values[i, bad].tolist()}",
            expected="finite float32 numbers",
            do="fix the environment, or end the episode before it diverges; this step was not stored",
        )


def are_finite(values: NDArray[np.float32]) -> bool:
    """Return whether all of some numbers are finite."""
    # One product finds what is not finite, in half the time; it may also overflow, so it does not judge.
    flat = values.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(flat.dot(flat)) or bool(np.isfinite(values).all())


def _refuse_non_finite_action(action: NDArray[np.float32]) -> None:
    if not are_finite(action):
        do = "lower --lr, or look at the scale of the observations and rewards with t3d check"
        raise Diverged("training has diverged: the actor's action is not finite", got=f"{action.tolist()}", do=do)
