"""A picture of what an agent sees of images: the raw ones, and beside them the frames that its networks take."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import View
from t3d.frames import channels_last, seen_in_episode, small
from t3d.spaces import ObsPart, Spaces
from t3d.storage import disk

_HEIGHT, _GAP, _GREY = 192, 12, 224  # pixels of each picture, between them, and what is around them


def png(raw: Sequence[NDArray[np.uint8]], seen: NDArray[np.float32], spaces: Spaces) -> bytes:
    """Return it as a PNG.

    Args:
        raw: the images of an observation as the environment gave them; none where they are in another process.
        seen: (P,) what the networks take with it, as `Envs.seen`.
        spaces: the environment's.
    """
    from PIL import Image

    assert spaces.view is not None
    channels, height, width = spaces.frame_shape
    stack = seen[: spaces.pixels].reshape(spaces.view.frame_stack, channels, height, width).astype(np.uint8)
    # Several images share a frame, a channel or three each; one of them is shown as it is.
    frames = list(stack) if len(spaces.images) == 1 else [channel[None] for frame in stack for channel in frame]
    pictures = [_in_color(image) for image in [*raw, *frames]]
    sheet = [np.full((_HEIGHT + 2 * _GAP, _GAP, 3), _GREY, np.uint8)]
    for picture in pictures:
        image = Image.fromarray(picture)
        large = image.resize((round(image.width * _HEIGHT / image.height), _HEIGHT), Image.Resampling.NEAREST)
        framed = np.pad(np.array(large), ((_GAP, _GAP), (0, _GAP), (0, 0)), constant_values=_GREY)
        sheet.append(framed)
    file = io.BytesIO()
    Image.fromarray(np.concatenate(sheet, axis=1)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, raw: Sequence[NDArray[np.uint8]], seen: NDArray[np.float32], spaces: Spaces) -> None:
    """Write it as `png` makes it.

    Raises:
        OSError: it cannot be written.
    """
    disk.make_folder(path.parent)
    disk.replace(path, png(raw, seen, spaces))


def write_of(path: Path, pictures: Sequence[NDArray[np.uint8]], view: View) -> None:
    """Write what is seen at the last of some pictures (H, W, 3), where nothing else is observed. Else as `write`."""
    spaces = Spaces((ObsPart(shape=pictures[0].shape, dtype="uint8"),), (1,), (-1.0,), (1.0,), view)
    frames = np.stack([small(picture, view.frame_size, view.frame_color).ravel() for picture in pictures])
    write(path, pictures[-1:], seen_in_episode(spaces, frames)[-1], spaces)


def _in_color(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3)."""
    pixels = channels_last(image)
    return np.ascontiguousarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))
