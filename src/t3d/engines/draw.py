"""Batches that compiled code draws: step 4 as `replay.py` has it, the noise and the normalising, to the bit.

The streams are NumPy's generators and the memory is `Replay`'s own. Nothing here is compiled with the freedoms that
the networks have (`FASTMATH`), as NumPy has none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.engines.blas_and_threads import compiled_exactly, draw_integers, draw_normals
from t3d.engines.kernels import DISCOUNT, NEXT, NOISE, OBS_ACTION, REWARD, TERMINATED, A, B, Ints, S
from t3d.engines.layers import Floats
from t3d.policy.normalizer import CLIP, Normalizer
from t3d.replay import NOTHING, Replay
from t3d.replay import TERMINATED as ENDED_TRULY

HIGH, LOW = np.float64(CLIP), np.float64(-CLIP)


class Source(NamedTuple):
    """What batches are drawn from, and room for what is drawn. n_envs is 0 where the batch is given instead."""

    slots: NDArray[np.float32]  # (N * ring, S + A + 2): obs, action, reward and, as an integer, how the step ended
    ended: NDArray[np.int32]  # the same memory
    n_envs: int
    ring: int  # slots from the beginning of one ring to that of the next
    filled: int  # of these, what is drawn from
    discount: float
    mean: NDArray[np.float64]  # (S,); (0,) where observations stay raw
    std: NDArray[np.float64]
    index_stream: int  # address of the bit generator
    noise_stream: int
    picked: Ints  # (B,) the index: slots that transitions begin in
    drawn: Ints  # (B,) what a stream said
    places: Ints  # (B,) which of these are still to be drawn
    noise: NDArray[np.float32]  # (B * A,)


def given(batch: int, actions: int) -> Source:
    """Return a source from which nothing is drawn, with room for batches (B, A) of those that are."""
    nothing, slots, rooms = np.zeros(0), np.zeros((0, 1), np.float32), np.zeros((3, batch), np.int64)
    noise = np.zeros(batch * actions, np.float32)
    return Source(
        slots=slots,
        ended=slots.view(np.int32),
        n_envs=0,
        ring=0,
        filled=0,
        discount=0.0,
        mean=nothing,
        std=nothing,
        index_stream=0,
        noise_stream=0,
        picked=rooms[0],
        drawn=rooms[1],
        places=rooms[2],
        noise=noise,
    )


def source(
    room: Source,
    replay: Replay,
    normalizer: Normalizer | None,
    index: np.random.Generator,
    noise: np.random.Generator,
    gamma: float,
) -> Source:
    """Return what draws from a memory and these two streams, as both stand now; room: from `given`."""
    slots, n_envs, ring, filled = replay.rings()
    mean, std = (room.mean, room.std) if normalizer is None else (normalizer.mean, normalizer.std)
    sizes, streams = (n_envs, ring, filled, gamma), (_address(index), _address(noise))
    rooms = room.picked, room.drawn, room.places
    return Source(slots, slots.view(np.int32), *sizes, mean, std, *streams, *rooms, room.noise)


def _address(generator: np.random.Generator) -> int:
    address: int = generator.bit_generator.ctypes.bit_generator.value
    return address


@compiled_exactly
def draw_index(source: Source) -> None:
    """Step 4: slots at random, those where no transition begins drawn again."""
    picked, places, drawn, last = source.picked, source.places, source.drawn, source.ended.shape[1] - 1
    left = picked.size
    for i in range(left):
        places[i] = i
    while left > 0:
        draw_integers(source.index_stream, 0, source.n_envs * source.filled - 1, left, 0, drawn.ctypes.data)
        empty = 0
        for i in range(left):
            slot = drawn[i] + drawn[i] // source.filled * (source.ring - source.filled)
            picked[places[i]] = slot
            if source.ended[slot, last] == NOTHING:
                places[empty] = places[i]
                empty += 1
        left = empty


@compiled_exactly
def gather(source: Source, at: Ints, work: Floats) -> None:
    """Put the transitions of the index where an update reads them."""
    slots, size, actions, batch = source.slots, at[S], at[A], at[B]
    width, discount = size + actions, np.float32(source.discount)
    for i in range(batch):
        slot = source.picked[i]
        obs, next_obs = work[at[OBS_ACTION] + i * width :], work[at[NEXT] + i * width :]
        here, behind = slots[slot], slots[slot + 1]
        for j in range(width):
            obs[j] = here[j]
        for j in range(size):
            next_obs[j] = behind[j]
        work[at[REWARD] + i] = here[width]
        work[at[TERMINATED] + i] = source.ended[slot, width + 1] == ENDED_TRULY
        work[at[DISCOUNT] + i] = discount


@compiled_exactly
def normalize_rows(source: Source, start: int, stride: int, work: Floats) -> None:
    """Normalise the observations in work, as `normalizer.normalize` does."""
    mean, std = source.mean, source.std
    for i in range(source.picked.size):
        obs = work[start + i * stride : start + i * stride + mean.size]
        for j in range(mean.size):
            scaled = (np.float64(obs[j]) - mean[j]) / std[j]
            scaled = LOW if scaled < LOW else scaled
            obs[j] = np.float32(HIGH if scaled > HIGH else scaled)


@compiled_exactly
def draw(source: Source, at: Ints, work: Floats) -> None:
    """Draw a batch and its noise to where an update reads them."""
    draw_index(source)
    draw_normals(source.noise_stream, source.noise.size, source.noise.ctypes.data)
    gather(source, at, work)
    if source.mean.size > 0:
        width = at[S] + at[A]
        normalize_rows(source, at[OBS_ACTION], width, work)
        normalize_rows(source, at[NEXT], width, work)
    for i in range(source.noise.size):
        work[at[NOISE] + i] = source.noise[i]
