"""Which of an environment's observations are images, told by their spaces; what only looks like one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import View
from t3d.errors import EnvRefused
from t3d.frames import channels_last
from t3d.spaces import ObsPart

_CHANNELS = (1, 3)
# Sides of a picture that floats, or a stack of pictures, may be of; anything smaller is taken for a matrix of numbers.
_LEAST_SIDE = 16
# Of a picture's pixels so many may have another colour than the commonest, and its mean may be so bright, of 255.
_FEW, _DARK = 0.005, 8.0


def is_image(space: Any, name: str) -> bool:
    """Return whether a Box is an image: uint8 with bounds 0 and 255, (H, W, C) or (C, H, W), C 1 or 3.

    Args:
        space: the Box.
        name: of environment and part, for messages.

    Raises:
        EnvRefused: it looks like an image and is none that could be taken without guessing.
    """
    shape = tuple(space.shape)
    if len(shape) < 2 or (space.dtype != np.uint8 and not _looks_like_one(shape, space.dtype)):
        return False
    if np.issubdtype(space.dtype, np.floating):
        raise _refused("floats that look like a picture", f"{name}: {space.dtype} of shape {shape}", _AS_BYTES)
    if len(shape) == 2:
        do = "let it observe (H, W, 1); where it is no picture, --wrapper gymnasium.wrappers:FlattenObservation"
        raise _refused("a picture without channels", f"{name}: shape {shape}", do)
    if len(shape) > 3:
        raise _refused("a stack of pictures", f"{name}: shape {shape}", _NO_STACK)
    if shape[0] in _CHANNELS and shape[2] in _CHANNELS:
        raise _refused("a picture whose channels may be first or last", f"{name}: shape {shape}", "make it larger")
    if shape[0] not in _CHANNELS and shape[2] not in _CHANNELS:
        few = min(shape[0], shape[2])
        what = "pictures that are stacked already, or of other channels than grey and red, green, blue"
        raise _refused(what, f"{name}: shape {shape}, {few} of them", _NO_STACK)
    if not ((space.low == 0).all() and (space.high == 255).all()):
        bounds = f"{space.low.min()} to {space.high.max()}"
        raise _refused("bytes that are no picture's", f"{name}: shape {shape}, bounds {bounds}", _AS_BYTES)
    return True


def refuse_too_small(part: ObsPart, view: View, name: str) -> None:
    """Refuse an image that is smaller than what shall be made of it.

    Raises:
        EnvRefused: it is.
    """
    if part.dtype != "uint8":
        return
    sides = part.shape[:2] if part.shape[2] in _CHANNELS else part.shape[1:]
    if min(sides) < view.frame_size:
        raise EnvRefused(
            "the picture is smaller than a frame shall be",
            got=f"{name}: {part.name} of {sides[0]}x{sides[1]} pixels, frame_size = {view.frame_size}",
            expected="a picture of that size or larger: nothing is made up between its pixels",
            do=f"lower --frame-size to {min(sides)}" if min(sides) >= 16 else "let it draw a larger picture",
        )


def problem_of(image: NDArray[np.uint8]) -> str:
    """Return what is wrong with a picture from which somebody is to learn; empty if nothing is.

    Args:
        image: (H, W, C) or (C, H, W), C 1 or 3.
    """
    pixels = channels_last(image)
    flat = pixels.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)[: pixels.shape[2]]
    colors, counts = np.unique(flat, return_counts=True)
    if len(colors) == 1:
        return "the picture is of one colour"
    if counts.max() >= (1 - _FEW) * flat.size:
        return f"the picture is of one colour but for {flat.size - counts.max()} of {flat.size:,} pixels"
    if (bright := float(pixels.mean())) < _DARK:
        return f"the picture is nearly black: {bright:.1f} of 255 on average"
    return ""


_AS_BYTES = (
    "let it observe a uint8 Box with bounds 0 and 255; where it is no picture, gymnasium.wrappers:FlattenObservation"
)
_NO_STACK = "take the wrapper off that stacks them: t3d keeps each frame once and stacks by itself (--frame-stack)"


def _looks_like_one(shape: tuple[int, ...], dtype: Any) -> bool:
    channels = shape[0] if shape[0] in _CHANNELS else shape[-1]
    sides = sorted(shape)[1:]
    return np.issubdtype(dtype, np.floating) and len(shape) == 3 and channels in _CHANNELS and min(sides) >= _LEAST_SIDE


def _refused(what: str, got: str, do: str) -> EnvRefused:
    return EnvRefused(
        f"this observation is {what}",
        got=got,
        expected="a uint8 Box with bounds 0 and 255, (H, W, C) or (C, H, W) with C 1 or 3; or numbers",
        do=do,
    )
