"""What an environment shows and takes: observations, bounds of actions, and how these get from [-1, 1] to its units."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(max_length=50)]
_ONE, _HALF = np.float32(1), np.float32(0.5)


class ObsPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an observation. Today there is one, and t3d's own networks take a float32 vector."""

    name: Annotated[str, Meta(max_length=5_000)] = "obs"
    shape: Shape
    dtype: Literal["float32", "uint8"] = "float32"


@dataclass(frozen=True)
class Spaces:
    """What the algorithm must know of an environment's spaces."""

    obs: tuple[ObsPart, ...]
    action_shape: tuple[int, ...]
    action_low: tuple[float, ...]  # (A,) float32 numbers
    action_high: tuple[float, ...]  # (A,)

    @classmethod
    def of_vectors(cls, obs_size: int, action_size: int) -> Self:
        """Return those of an environment that shows S numbers and takes A, each in [-1, 1]."""
        return cls((ObsPart(shape=(obs_size,)),), (action_size,), (-1.0,) * action_size, (1.0,) * action_size)

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of an observation as the environment gives it."""
        return self.obs[0].shape

    @property
    def obs_dtype(self) -> np.dtype[Any]:
        """What an observation's numbers are kept as."""
        return np.dtype(self.obs[0].dtype)

    @functools.cached_property
    def obs_size(self) -> int:
        """S: the length of a flattened observation."""
        return math.prod(self.obs_shape)

    @property
    def action_size(self) -> int:
        """A: the length of a flattened action."""
        return len(self.action_low)

    @functools.cached_property
    def _bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)

    def to_env_units(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale actions from [-1, 1] to the environment's own bounds, each dimension by its own.

        Args:
            action: (N, A) in [-1, 1].

        Returns:
            (N, A) within the bounds: float32 scaling can leave them by one unit in the last place, so it is clipped.
        """
        low, high = self._bounds
        scaled: NDArray[np.float32] = action + _ONE
        scaled *= _HALF * (high - low)
        scaled += low
        np.maximum(scaled, low, out=scaled)
        np.minimum(scaled, high, out=scaled)
        return scaled
