"""What an environment shows and takes: observations, bounds of actions, and how these get from [-1, 1] to its units."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(max_length=50)]
_ONE, _HALF = np.float32(1), np.float32(0.5)


class ObsPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an observation; t3d's own networks take all parts as one float32 vector.

    An array is one part, called obs. Those of a Dict or a Tuple are called by what leads to them, as obs/goal/0.
    """

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
    def is_array(self) -> bool:
        """Whether an observation is one array, and no Dict or Tuple of several."""
        return self.obs[0].name == "obs"

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of an observation as the environment gives it; (S,) where that is a Dict or a Tuple."""
        return self.obs[0].shape if self.is_array else (self.obs_size,)

    @property
    def obs_in_words(self) -> str:
        """The parts of an observation with their shapes, for people."""
        if self.is_array:
            return f"shape {self.obs_shape}"
        return "parts " + ", ".join(f"{part.name.removeprefix('obs/')} {part.shape}" for part in self.obs)

    @property
    def obs_dtype(self) -> np.dtype[Any]:
        """What an observation's numbers are kept as."""
        return np.dtype(self.obs[0].dtype)

    @functools.cached_property
    def obs_size(self) -> int:
        """S: the length of a flattened observation."""
        return sum(math.prod(part.shape) for part in self.obs)

    @property
    def action_size(self) -> int:
        """A: the length of a flattened action."""
        return len(self.action_low)

    @functools.cached_property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The least and the largest action, (A,) each, in the environment's units."""
        return np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)

    def to_env_units(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale actions from [-1, 1] to the environment's own bounds, each dimension by its own.

        Args:
            action: (N, A) in [-1, 1].

        Returns:
            (N, A) within the bounds: float32 scaling can leave them by one unit in the last place, so it is clipped.
        """
        low, high = self.bounds
        scaled: NDArray[np.float32] = action + _ONE
        scaled *= _HALF * (high - low)
        scaled += low
        np.maximum(scaled, low, out=scaled)
        np.minimum(scaled, high, out=scaled)
        return scaled

    def from_env_units(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale actions from the environment's own bounds to [-1, 1]; those beyond the bounds are cut to them.

        Args:
            action: (N, A) in the environment's units.

        Returns:
            (N, A) in [-1, 1].
        """
        low, high = self.bounds
        scaled: NDArray[np.float32] = 2 * (np.clip(action, low, high) - low) / (high - low) - _ONE
        return scaled

    def cuts(self, other: Spaces) -> bool:
        """Return whether an action within another environment's bounds may lie beyond these."""
        pairs = zip(self.action_low, self.action_high, other.action_low, other.action_high, strict=True)
        return any(low > its_low or high < its_high for low, high, its_low, its_high in pairs)


def part_of(obs: Any, name: str) -> Any:
    """Return the part of an observation that an `ObsPart` names.

    Raises:
        LookupError, TypeError, ValueError: it has none of this name.
    """
    for key in name.split("/")[1:]:
        obs = obs[key] if isinstance(obs, Mapping) else obs[int(key)]
    return obs
