"""What an environment sees and takes: shapes, bounds, and how actions get from [-1, 1] to its units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ONE, _HALF = np.float32(1), np.float32(0.5)


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
        return math.prod(self.obs_shape)

    @property
    def action_size(self) -> int:
        """A: the length of a flattened action."""
        return len(self.action_low)


def to_env_units(
    action: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scale actions from [-1, 1] to an environment's own bounds, each dimension by its own.

    Args:
        action: (N, A) in [-1, 1].
        low: (A,) lower bounds.
        high: (A,) upper bounds.

    Returns:
        (N, A) within the bounds: float32 scaling can leave them by one unit in the last place, so it is clipped.
    """
    scaled: NDArray[np.float32] = action + _ONE
    scaled *= _HALF * (high - low)
    scaled += low
    np.maximum(scaled, low, out=scaled)
    np.minimum(scaled, high, out=scaled)
    return scaled
