"""The replay memory: steps 1 and 4 of TD3. It stores trajectories, so every observation is kept once.

A slot holds obs, action, reward and how the step ended. The next observation of a slot IS the observation of
the slot after it, and an episode's end takes one extra slot for its final observation:

    slot     0     1     2     3           4     5
    obs      s0    s1    s2    s3 (final)  s0'   s1'
    action   a0    a1    a2    -           a0'   -
    ended    step  step  term  nothing     step  nothing   <- the open slot: its action is still to come

An image among the observations is kept as one frame. What the networks see at once, the last K of them, is put together
when a batch is: a slot says how many of the K - 1 frames before its own stand in the slots before it (`behind`). At an
episode's beginning there are fewer, and its first frame stands for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from t3d.errors import ConfigRefused
from t3d.frames import seen, vectors_of
from t3d.priorities import Priorities
from t3d.spaces import Spaces

T = TypeVar("T")
# What a slot's `ended` says. NOTHING: no transition begins here (never written, final, or still open).
NOTHING, STEP, TERMINATED, TRUNCATED = range(4)


class Batch(NamedTuple, Generic[T]):
    """B transitions: (s, s', a, r, terminated), and what s' counts for. All float32; all arrays, or all tensors."""

    obs: T  # (B, S)
    next_obs: T  # (B, S)
    action: T  # (B, A) in [-1, 1]
    reward: T  # (B,)
    terminated: T  # (B,) 1 where the episode truly ended, 0 elsewhere, also where a time limit cut it
    discount: T  # (B,) gamma to the number of steps from s to s'


def slot_dtype(spaces: Spaces) -> np.dtype[Any]:
    """Return the layout of one slot; its first field is as the observations are."""
    fields = [
        ("obs", spaces.obs_dtype, (spaces.obs_size,)),
        ("action", np.float32, (spaces.action_size,)),
        ("reward", np.float32),
        ("ended", np.int32),
    ]
    return np.dtype(fields if spaces.view is None else [*fields, ("behind", np.int32)])


class Replay:
    """Keep the newest transitions of N env streams, each in a ring of its own.

    Args:
        capacity: slots of all streams together; each takes capacity // n_envs.
        n_envs: N, the streams written side by side.
        spaces: S and A, the lengths of an observation and of an action.
        prioritized: draw by how wrong the critics were, see `priorities.py`; else evenly.

    Raises:
        ConfigRefused: fewer than 3 slots for a stream (an open slot, a transition and a final observation), or with
            images fewer than the frames that are seen at once, and two more.
    """

    def __init__(self, capacity: int, n_envs: int, spaces: Spaces, prioritized: bool = False) -> None:
        self._length, self._spaces = capacity // n_envs, spaces
        self._stack = 1 if spaces.view is None else spaces.view.frame_stack  # K
        if self._length < self._stack + 2:
            raise ConfigRefused(
                "the replay memory is too small",
                got=f"{capacity} slots for {n_envs} env streams",
                expected=f"{(self._stack + 2) * n_envs} slots or more",
                do="raise --buffer-size",
            )
        # One slot more a ring mirrors the first one's observation, so that next_obs always stands one slot on.
        self._n_envs, self._ring, self.slot = n_envs, self._length + 1, slot_dtype(spaces)
        self._transition = np.dtype([("slot", self.slot), ("next_obs", self.slot["obs"])])
        self.priorities = Priorities(self._n_envs * self._ring) if prioritized else None
        self._forget()

    def _forget(self) -> None:
        # Step 1: a memory of 1e6 slots, all zero (NOTHING) at first; when full, the oldest is overwritten.
        self._slots = np.zeros(self._n_envs * self._ring, self.slot)
        self._obs, self._action = self._slots["obs"], self._slots["action"]
        self._reward, self._ended = self._slots["reward"], self._slots["ended"]
        self._behind = self._slots["behind"] if self._stack > 1 else self._ended[:0]
        self.written = [0] * self._n_envs  # slots that each stream has ever opened; the last of them is still open
        self._filled = 0  # slots in use, of the ring that has written most
        self._transitions = 0
        self._in_one_piece = self._slots_with_next_obs()

    def __len__(self) -> int:
        """Return how many transitions can be sampled."""
        return self._transitions

    @property
    def full_bytes(self) -> int:
        """Return the bytes this memory takes once it is full; the system hands them over as slots are written."""
        return self._slots.nbytes

    def begin(self, obs: NDArray[Any], began: NDArray[np.bool_]) -> None:
        """Open a slot for the first observation of each stream's new episode.

        Args:
            obs: (N, S) observations of all streams, as the slots keep them.
            began: (N,) where an episode has just begun; the other rows of obs are not read.
        """
        for env in np.flatnonzero(began).tolist():
            self._open(env, obs[env])

    def add(
        self,
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_obs: NDArray[Any],
    ) -> None:
        """Complete every stream's open slot and open the next with what was observed.

        Args:
            action: (N, A) in [-1, 1].
            reward: (N,).
            terminated: (N,) the episode truly ended here.
            truncated: (N,) the episode was cut here, by a time limit say.
            next_obs: (N, S) the true next observation, also at an episode's end.
        """
        for env, written in enumerate(self.written):
            slot = env * self._ring + (written - 1) % self._length
            self._action[slot] = action[env]
            self._reward[slot] = reward[env]
            # A fall on the very step of the time limit is still a fall: terminated wins over truncated.
            self._ended[slot] = TERMINATED if terminated[env] else TRUNCATED if truncated[env] else STEP
            if self.priorities is not None:
                self.priorities.of[slot] = self.priorities.largest
            self._open(env, next_obs[env])
        self._transitions += self._n_envs

    def _open(self, env: int, obs: NDArray[Any]) -> None:
        head = self.written[env] % self._length
        self.written[env] += 1
        slot = env * self._ring + head
        self._transitions -= int(self._ended[slot] != NOTHING)  # the oldest makes room
        self._obs[slot] = obs
        if self._stack > 1:
            before = env * self._ring + (head - 1) % self._length
            same_episode = self._ended[before] != NOTHING
            self._behind[slot] = min(self._behind[before] + 1, self._stack - 1) if same_episode else 0
        self._ended[slot] = NOTHING
        if self.priorities is not None:
            self.priorities.of[slot] = 0
            for back in range(1, self._stack):  # those seen together with the frame that was here
                later = env * self._ring + (head + back) % self._length
                self.priorities.of[later] *= self._behind[later] < back
        if head == 0:
            self._obs[slot + self._length] = obs
        self._filled = max(self._filled, head + 1)

    def draw(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.intp]:
        """Draw transitions, with replacement: evenly, or by their priorities.

        Args:
            rng: the stream to draw from.
            batch_size: B, 1 or above. The memory must hold at least one transition.

        Returns:
            (B,) slot numbers for `sample`; never a final, open or unwritten slot.
        """
        assert self._transitions > 0, "the replay memory is empty"
        if self.priorities is not None:
            return self.priorities.draw(rng, batch_size, self._draw_slots)
        # Step 4: sample a batch: slots at random, those where no transition begins drawn again.
        index = self._draw_slots(rng, batch_size)
        while np.count_nonzero(there := self._is_there(index)) < batch_size:  # NOTHING is 0
            empty = np.flatnonzero(there == NOTHING)
            index[empty] = self._draw_slots(rng, empty.size)
        return index

    def _is_there(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """Return how the transitions of slots ended; NOTHING where there is none, or a frame of it was overwritten."""
        ended = self._ended[index]
        if self._stack == 1:
            return ended
        env, slot = np.divmod(index, self._ring)
        written = np.array(self.written)[env]
        newer = (written - 1 - slot) % self._length
        return np.where(self._behind[index] + newer < np.minimum(written, self._length), ended, NOTHING)

    def _draw_slots(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        # Rings differ in how much they have written (ended episodes take extra slots); drawing from each as much
        # as from the fullest, and again where nothing stands, keeps every transition equally likely.
        drawn = rng.integers(self._n_envs * self._filled, size=size)
        return drawn if self._n_envs == 1 else drawn + drawn // self._filled * (self._ring - self._filled)

    def age(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return how many env steps ago transitions were stored; an episode's extra slot counts as a step here.

        Args:
            index: (B,) slot numbers from `draw`.

        Returns:
            (B,), 1 or above with one env stream; streams are written side by side, so N steps of all make one slot.
        """
        env, slot = np.divmod(index, self._ring)
        behind: NDArray[np.intp] = (np.array(self.written)[env] - 1 - slot) % self._length
        return behind * self._n_envs

    def sample(
        self, index: NDArray[np.intp], gamma: float, shifts: NDArray[np.intp] | None = None
    ) -> Batch[NDArray[np.float32]]:
        """Gather transitions.

        Args:
            index: (B,) slot numbers from `draw`.
            gamma: the discount per step.
            shifts: (2, B, 2), of images by how many pixels those of s and of s' are shifted; None leaves them.

        Returns:
            The batch: copies, each a field of gathered slots; of images what `frames.seen` makes of the last K.
        """
        slots, next_obs = self._gather(index)  # slot i, and the observation of slot i + 1
        obs = slots["obs"]
        if self._spaces.view is not None:
            frames, next_frames = self._frames(index, next_obs)
            by, next_by = (None, None) if shifts is None else shifts
            obs = seen(self._spaces, frames, vectors_of(self._spaces, obs), by)
            next_obs = seen(self._spaces, next_frames, vectors_of(self._spaces, next_obs), next_by)
        return Batch(
            obs=obs,
            next_obs=next_obs,
            action=slots["action"],
            reward=slots["reward"],
            terminated=(slots["ended"] == TERMINATED).astype(np.float32),
            discount=np.full(len(index), gamma, np.float32),
        )

    def _gather(self, index: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return slots[index] and slots["obs"][index + 1], whole transitions at a time: several times as fast."""
        gathered = self._in_one_piece[index].view(self._transition)
        return gathered["slot"], gathered["next_obs"]

    def _frames(self, index: NDArray[np.intp], next_obs: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the last K frames of s and of s', (B, K, pixels) each, the oldest first."""
        pixels, stack = self._spaces.frame_size, self._stack
        behind = self._behind[index] if stack > 1 else np.zeros_like(index)
        back = np.minimum(np.arange(stack - 1, -1, -1), behind[:, None])  # (B, K)
        env, slot = np.divmod(index, self._ring)
        frames = self._obs[(env * self._ring)[:, None] + (slot[:, None] - back) % self._length, :pixels]
        next_frames = np.concatenate([frames[:, 1:], next_obs[:, None, :pixels]], axis=1)
        return frames, next_frames

    def _slots_with_next_obs(self) -> NDArray[np.void]:
        """Return a view of every slot and the observation behind it as plain bytes: NumPy copies those in one piece."""
        as_bytes = np.dtype((np.void, self._transition.itemsize))
        return np.ndarray((len(self._slots) - 1,), as_bytes, self._slots, strides=(self.slot.itemsize,))

    def rings(self) -> tuple[NDArray[np.float32], int, int, int]:
        """Return what compiled code draws from as `draw` and `sample` do; observations must be float32.

        Returns:
            The slots (N * ring, S + A + 2), not copied: obs, action, reward and, as an int32, how the step ended; N;
            ring, the slots from one stream's first to the next one's; and how many of each ring are drawn from.
        """
        return self._slots.view(np.float32).reshape(len(self._slots), -1), self._n_envs, self._ring, self._filled

    # For whoever saves and restores it. A position counts a stream's slots from its first one.

    def oldest(self, env: int) -> int:
        """Return the position of a stream's oldest slot that is still here."""
        return max(0, self.written[env] - self._length)

    def rows(self, env: int, start: int, stop: int) -> NDArray[Any]:
        """Return a copy of a stream's slots from position start up to stop; all of them must still be here."""
        assert self.oldest(env) <= start <= stop <= self.written[env], (env, start, stop)
        return self._slots[env * self._ring + np.arange(start, stop) % self._length]

    def restore(self, written: Sequence[int], rows: Sequence[NDArray[Any]], obs: NDArray[Any]) -> None:
        """Make this memory what another was; priorities, which cannot be made again, are whoever's restores it.

        Args:
            written: what it had written.
            rows: of each stream the slots just before its open one; all the other still held, or more.
            obs: (N, S) the observations in the open slots.
        """
        self._forget()
        as_bytes = np.dtype((np.void, self.slot.itemsize))  # three times as fast as field by field
        for env, (count, all_rows) in enumerate(zip(written, rows, strict=True)):
            kept = all_rows[max(0, len(all_rows) - (self._length - 1)) :]
            ring = self._slots[env * self._ring : (env + 1) * self._ring]
            start = (count - 1 - len(kept)) % self._length
            first, rest = kept[: self._length - start].view(as_bytes), kept[self._length - start :].view(as_bytes)
            ring.view(as_bytes)[start : start + len(first)], ring.view(as_bytes)[: len(rest)] = first, rest
            ring["obs"][self._length] = ring["obs"][0]
            if self.priorities is not None:
                self.priorities.of[env * self._ring : (env + 1) * self._ring] = ring["ended"] != NOTHING
            self._transitions += int(np.count_nonzero(kept["ended"]))
            self._filled = max(self._filled, min(count, self._length))
            self.written[env] = count - 1
            self._open(env, obs[env])
