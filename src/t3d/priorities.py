"""Step 4 drawn by error instead of evenly: what the critics were most wrong about is seen most often. For td7."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

POWER = 0.4
# Slots looked at for each that is wanted, at first; then as many as it seems to take, and some more.
_CANDIDATES, _MORE = 4, 1.25


class Priorities:
    """How likely each slot of a replay memory is to be drawn, to a factor that is the same for all.

    A transition begins with the largest priority. Once it was drawn it has max(|error|, 1) to the power 0.4, of the
    critic that is more wrong. No weights make up for that: with Huber's loss the update's mean is that of an even draw
    of another loss.

    Args:
        slots: how many.

    Source:
        Fujimoto et al. 2020, "An Equivalence between Loss Functions and Non-Uniform Sampling", section 5 (LAP).
    """

    def __init__(self, slots: int) -> None:
        self.of = np.zeros(slots, np.float32)  # 0 where no transition begins
        self.largest = np.ones((), np.float32)  # no slot's is above it

    def draw(
        self, rng: np.random.Generator, size: int, at_random: Callable[[np.random.Generator, int], NDArray[np.intp]]
    ) -> NDArray[np.intp]:
        """Return slots (size,), drawn by their priorities, with replacement.

        Slots are drawn at random, and each is kept with the probability priority / largest: no sums to maintain.

        Args:
            rng: the stream to draw from.
            size: how many.
            at_random: from a stream and a number to so many slots, each equally likely; one must have a priority.
        """
        found: list[NDArray[np.intp]] = []
        missing, looked_at = size, 0
        while missing > 0:
            rate = (size - missing) / looked_at if missing < size else 1 / _CANDIDATES
            slots = at_random(rng, math.ceil(_MORE * missing / rate))
            found.append(slots[rng.random(len(slots)) * self.largest < self.of[slots]][:missing])
            missing, looked_at = missing - len(found[-1]), looked_at + len(slots)
        return np.concatenate(found)

    def note(self, slots: NDArray[np.intp], td_error: NDArray[np.float32]) -> None:
        """Take note of how wrong the critics were.

        Args:
            slots: (B,) that were drawn.
            td_error: (critics, B) target_q - Q(s, a), before the update.
        """
        # Training stops when its losses are next looked at and are not finite; until then draws must end.
        error = np.nan_to_num(np.abs(td_error).max(axis=0))  # (B,)
        priority = np.maximum(error, 1) ** np.float32(POWER)  # (B,)
        self.of[slots] = priority
        self.largest = np.asarray(np.maximum(self.largest, priority.max()))

    def find_largest(self) -> None:
        """Look for the largest of all: those that were larger may have been drawn since."""
        self.largest = np.asarray(self.of.max())

    def restore(self, of: NDArray[np.float32], largest: NDArray[np.float32]) -> None:
        """Be what another was, but for slots that are no longer filled.

        Args:
            of: (slots,) its priorities.
            largest: () above or equal to all of them.
        """
        self.of[:] = np.where(self.of > 0, of, 0)
        self.largest = largest.copy()
