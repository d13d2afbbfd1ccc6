"""The replay memory: steps 1 and 4 of TD3. It stores trajectories, so every observation is kept once.

A slot holds obs, action, reward and how the step ended. The next observation of a slot IS the observation of
the slot after it, and an episode's end takes one extra slot for its final observation:

    slot     0     1     2     3           4     5
    obs      s0    s1    s2    s3 (final)  s0'   s1'
    action   a0    a1    a2    -           a0'   -
    ended    step  step  term  nothing     step  nothing   <- the open slot: its action is still to come
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from t3d.errors import ConfigRefused

# What a slot's `ended` says. NOTHING: no transition begins here (never written, final, or still open).
NOTHING, STEP, TERMINATED, TRUNCATED = range(4)


class Batch(NamedTuple):
    """B transitions: (s, s', a, r, terminated). All float32."""

    obs: Any  # (B, S)
    next_obs: Any  # (B, S)
    action: Any  # (B, A) in [-1, 1]
    reward: Any  # (B,)
    terminated: Any  # (B,) 1 where the episode truly ended, 0 elsewhere, also where a time limit cut it


def slot_dtype(obs_shape: tuple[int, ...], action_size: int, obs_dtype: DTypeLike = np.float32) -> np.dtype[Any]:
    """Return the layout of one slot. Another kind of observation (image frames, say) changes its first field only."""
    return np.dtype(
        [
            ("obs", obs_dtype, obs_shape),
            ("action", np.float32, (action_size,)),
            ("reward", np.float32),
            ("ended", np.int32),
        ]
    )


class Replay:
    """Keep the newest transitions of N env streams, each in a ring of its own.

    Args:
        capacity: slots of all streams together; each takes capacity // n_envs.
        n_envs: N, the streams written side by side.
        obs_size: S, the length of an observation.
        action_size: A, the length of an action.

    Raises:
        ConfigRefused: fewer than 3 slots for a stream (an open slot, a transition and a final observation).
    """

    def __init__(self, capacity: int, n_envs: int, obs_size: int, action_size: int) -> None:
        self._length = capacity // n_envs
        if self._length < 3:
            raise ConfigRefused(
                "the replay memory is too small",
                got=f"{capacity} slots for {n_envs} env streams",
                expected=f"{3 * n_envs} slots or more",
                do="raise --buffer-size",
            )
        # Step 1: a memory of 1e6 slots, all zero (NOTHING) at first; when full, the oldest is overwritten.
        self._slots = np.zeros((n_envs, self._length), slot_dtype((obs_size,), action_size))
        self._flat = self._slots.reshape(-1)
        self._envs = np.arange(n_envs)
        self._head = np.full(n_envs, -1)  # each stream's open slot
        self._filled = 0  # slots ever written, of the stream that has written most
        self._transitions = 0

    def __len__(self) -> int:
        """Return how many transitions can be sampled."""
        return self._transitions

    @property
    def full_bytes(self) -> int:
        """Return the bytes this memory takes once it is full; the system hands them over as slots are written."""
        return self._slots.nbytes

    def begin(self, obs: NDArray[np.float32], began: NDArray[np.bool_]) -> None:
        """Open a slot for the first observation of each stream's new episode.

        Args:
            obs: (N, S) observations of all streams.
            began: (N,) where an episode has just begun; the other rows of obs are not read.
        """
        self._open(np.flatnonzero(began), obs[began])

    def add(
        self,
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_obs: NDArray[np.float32],
    ) -> None:
        """Complete every stream's open slot and open the next with what was observed.

        Args:
            action: (N, A) in [-1, 1].
            reward: (N,).
            terminated: (N,) the episode truly ended here.
            truncated: (N,) the episode was cut here, by a time limit say.
            next_obs: (N, S) the true next observation, also at an episode's end.
        """
        env, slot = self._envs, self._head
        self._slots["action"][env, slot] = action
        self._slots["reward"][env, slot] = reward
        # A fall on the very step of the time limit is still a fall: terminated wins over truncated.
        self._slots["ended"][env, slot] = np.where(terminated, TERMINATED, np.where(truncated, TRUNCATED, STEP))
        self._transitions += len(env)
        self._open(env, next_obs)

    def _open(self, envs: NDArray[np.intp], obs: NDArray[np.float32]) -> None:
        slot = (self._head[envs] + 1) % self._length
        self._transitions -= int(np.count_nonzero(self._slots["ended"][envs, slot]))
        self._slots["obs"][envs, slot] = obs
        self._slots["ended"][envs, slot] = NOTHING
        self._head[envs] = slot
        self._filled = max(self._filled, int(slot.max(initial=-1)) + 1)

    def draw(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.intp]:
        """Draw transitions uniformly, with replacement.

        Args:
            rng: the stream to draw from.
            batch_size: B, 1 or above. The memory must hold at least one transition.

        Returns:
            (B,) slot numbers for `sample`; never a final, open or unwritten slot.
        """
        assert self._transitions > 0, "the replay memory is empty"
        # Step 4: sample a batch: slots at random, those where no transition begins drawn again.
        index = self._draw_slots(rng, batch_size)
        while (empty := np.flatnonzero(self._flat["ended"][index] == NOTHING)).size:
            index[empty] = self._draw_slots(rng, empty.size)
        return index

    def _draw_slots(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        # Streams differ in how much they have written (ended episodes take extra slots); drawing from each as
        # much as the longest, and again where nothing stands, keeps every transition equally likely.
        env, slot = np.divmod(rng.integers(len(self._envs) * self._filled, size=size), self._filled)
        return np.asarray(env * self._length + slot)

    def sample(self, index: NDArray[np.intp]) -> Batch:
        """Gather transitions.

        Args:
            index: (B,) slot numbers from `draw`.

        Returns:
            The batch, in arrays of its own.
        """
        end_of_ring = (index + 1) % self._length == 0
        next_index = np.where(end_of_ring, index + 1 - self._length, index + 1)
        return Batch(
            obs=self._flat["obs"][index],
            next_obs=self._flat["obs"][next_index],
            action=self._flat["action"][index],
            reward=self._flat["reward"][index],
            terminated=(self._flat["ended"][index] == TERMINATED).astype(np.float32),
        )
