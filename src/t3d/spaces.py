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

from t3d.env_spec import View

Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(max_length=50)]
_ONE, _HALF = np.float32(1), np.float32(0.5)


class ObsPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an observation: numbers, which are kept as float32, or an image, (H, W, C) or (C, H, W) of uint8.

    An array is one part, called obs. Those of a Dict or a Tuple are called by what leads to them, as obs/goal/0.
    """

    name: Annotated[str, Meta(max_length=5_000)] = "obs"
    shape: Shape
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        if self.dtype == "uint8" and (len(self.shape) != 3 or not {1, 3} & {self.shape[0], self.shape[2]}):
            raise ValueError(f"an image of shape {self.shape}")

    @property
    def in_words(self) -> str:
        """What it is, for people."""
        return f"image {self.shape}" if self.dtype == "uint8" else f"{self.shape}"


@dataclass(frozen=True)
class Spaces:
    """What the algorithm must know of an environment's spaces."""

    obs: tuple[ObsPart, ...]
    action_shape: tuple[int, ...]
    action_low: tuple[float, ...]  # (A,) float32 numbers
    action_high: tuple[float, ...]  # (A,)
    view: View | None = None  # how images among the parts are looked at; None: there are none

    @classmethod
    def of_vectors(cls, obs_size: int, action_size: int) -> Self:
        """Return those of an environment that shows S numbers and takes A, each in [-1, 1]."""
        return cls((ObsPart(shape=(obs_size,)),), (action_size,), (-1.0,) * action_size, (1.0,) * action_size)

    @property
    def is_array(self) -> bool:
        """Whether an observation is one array, and no Dict or Tuple of several."""
        return self.obs[0].name == "obs"

    @property
    def images(self) -> tuple[ObsPart, ...]:
        """The parts that are images."""
        return tuple(part for part in self.obs if part.dtype == "uint8")

    @property
    def vectors(self) -> tuple[ObsPart, ...]:
        """The parts that are not."""
        return tuple(part for part in self.obs if part.dtype != "uint8")

    @functools.cached_property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is kept of an observation's images; no channel where it has none."""
        if self.view is None:
            return 0, 0, 0
        grey = [self.view.frame_color == "grey" or 1 in (part.shape[0], part.shape[2]) for part in self.images]
        return sum(1 if one else 3 for one in grey), self.view.frame_size, self.view.frame_size

    @functools.cached_property
    def frame_size(self) -> int:
        """C * H * W."""
        return math.prod(self.frame_shape)

    @functools.cached_property
    def vector_size(self) -> int:
        """S: how many numbers an observation has beside its images."""
        return sum(math.prod(part.shape) for part in self.vectors)

    @functools.cached_property
    def pixels(self) -> int:
        """How many pixels the networks see at once: those of K frames."""
        return 0 if self.view is None else self.view.frame_stack * self.frame_size

    @functools.cached_property
    def seen_size(self) -> int:
        """How many numbers the networks see at once: S, and with images the pixels before them."""
        return self.pixels + self.vector_size

    @property
    def obs_in_words(self) -> str:
        """The parts of an observation with their shapes, for people."""
        parts = [f"{part.name.removeprefix('obs/')} {part.in_words}" for part in self.obs]
        shape = "" if self.images else "shape "
        return f"{shape}{self.obs[0].in_words}" if self.is_array else "parts " + ", ".join(parts)

    @property
    def sight_in_words(self) -> str:
        """How many numbers are observed, and how images are looked at, for people."""
        numbers = f"{self.vector_size} observation{'s' * (self.vector_size != 1)}"
        if (view := self.view) is None:
            return numbers if self.is_array else f"{numbers} ({self.obs_in_words})"
        size = f"{view.frame_size}x{view.frame_size}"
        frames = f"{self.obs_in_words}, seen as {size} {view.frame_color}, {view.frame_stack} frames at once"
        return f"{frames}, and {numbers}" if self.vectors else frames

    @property
    def obs_dtype(self) -> np.dtype[Any]:
        """What an observation's numbers are kept as: float32; with images the bytes of all of it."""
        return np.dtype(np.float32 if self.view is None else np.uint8)

    @functools.cached_property
    def obs_size(self) -> int:
        """The length of an observation as it is kept: S numbers, or the bytes of its frame and of these."""
        return self.vector_size if self.view is None else self.frame_size + 4 * self.vector_size

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
