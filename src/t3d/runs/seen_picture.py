"""A picture of what an agent sees of images: the raw ones, and beside them the frames that its networks take."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t3d.spaces import Spaces
from t3d.storage import disk

_HEIGHT, _GAP, _GREY = 192, 12, 224  # pixels of each picture, between them, and what is around them


def write(path: Path, raw: Sequence[NDArray[np.uint8]], seen: NDArray[np.float32], spaces: Spaces) -> None:
    """Write it as a PNG.

    Args:
        path: the file.
        raw: the images of an observation as the environment gave them; none where they are in another process.
        seen: (P,) what the networks take with it, as `Envs.seen`.
        spaces: the environment's.

    Raises:
        OSError: it cannot be written.
    """
    from PIL import Image

    assert spaces.view is not None
    channels, height, width = spaces.frame_shape
    stack = seen[: spaces.pixels].reshape(spaces.view.frame_stack, channels, height, width).astype(np.uint8)
    frames = [part for frame in stack for part in (_pictures(frame) if channels not in (1, 3) else [_last(frame)])]
    pictures = [_last(image) for image in raw] + frames
    sheet = [np.full((_HEIGHT + 2 * _GAP, _GAP, 3), _GREY, np.uint8)]
    for picture in pictures:
        image = Image.fromarray(picture)
        large = image.resize((round(image.width * _HEIGHT / image.height), _HEIGHT), Image.Resampling.NEAREST)
        framed = np.pad(np.array(large), ((_GAP, _GAP), (0, _GAP), (0, 0)), constant_values=_GREY)
        sheet.append(framed)
    file = io.BytesIO()
    Image.fromarray(np.concatenate(sheet, axis=1)).save(file, "PNG")
    disk.make_folder(path.parent)
    disk.replace(path, file.getvalue())


def _last(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W, C) or (C, H, W), C 1 or 3, as (H, W, 3)."""
    pixels = image if image.shape[2] in (1, 3) else np.moveaxis(image, 0, 2)
    return np.ascontiguousarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))


def _pictures(frame: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the channels of a frame (C, H, W) that several images share, each as a picture."""
    return [_last(channel[:, :, None]) for channel in frame]
