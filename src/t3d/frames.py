"""Frames: what becomes of the images among observations, for environments in training and for cameras of a robot alike.

An image is brought to a square of few pixels, in grey or rgb. Where an observation has images it is kept as a row of
bytes: the pixels of one frame, then the bytes of its vectors' float32 numbers. The networks see the last few frames at
once, as one row of float32: pixels from 0 to 255, the oldest frame first, then the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.spaces import Spaces

# How far frames are shifted when a batch is put together, for frames of 84 pixels (Kostrikov et al. 2020, "Image
# Augmentation Is All You Need"); in proportion for others.
_SHIFT, _OF_PIXELS = 4, 84


def small(image: NDArray[np.uint8], size: int, color: str) -> NDArray[np.uint8]:
    """Return an image as the networks see it, each pixel the mean of the area that it covers.

    Args:
        image: (H, W, C) or (C, H, W), C 1 or 3.
        size: of its sides then.
        color: grey (ITU-R 601 luma) or rgb.

    Returns:
        (1, size, size) where it is grey, by wish or by itself; else (3, size, size).
    """
    from PIL import Image  # a policy of vectors does without it

    pixels = channels_last(image)
    picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    if color == "grey":
        picture = picture.convert("L")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return np.moveaxis(np.array(picture).reshape(size, size, -1), 2, 0)


def channels_last(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W, C) or (C, H, W), C 1 or 3, as (H, W, C)."""
    return image if image.shape[2] in (1, 3) else np.moveaxis(image, 0, 2)


def frames_of(spaces: Spaces, parts: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return one frame (pixels,) of an observation's images, by the names of its parts."""
    view = spaces.view
    assert view is not None
    images = [small(parts[part.name], view.frame_size, view.frame_color).ravel() for part in spaces.images]
    return np.concatenate(images)


def row_of(spaces: Spaces, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return an observation as it is kept, (P,), of its parts by name; vectors alone as they are, (S,)."""
    vectors = [parts[part.name].ravel() for part in spaces.vectors]
    if spaces.view is None:
        return np.concatenate(vectors)
    as_bytes = [np.ascontiguousarray(vector).view(np.uint8) for vector in vectors]
    return np.concatenate([frames_of(spaces, parts), *as_bytes])


def vectors_of(spaces: Spaces, rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return the vectors (N, S) of observations (N, P) as they are kept; without images that is all of them."""
    if spaces.view is None:
        return rows
    return np.ascontiguousarray(rows[:, spaces.frame_size :]).view(np.float32)


def shifts(spaces: Spaces, rng: np.random.Generator, batch_size: int) -> NDArray[np.intp]:
    """Draw by how many pixels each row's frames of s and of s' are shifted, down and to the right: (2, B, 2)."""
    most = most_shift(spaces)
    return rng.integers(-most, most + 1, (2, batch_size, 2))


def most_shift(spaces: Spaces) -> int:
    """Return by how many pixels frames are shifted at most."""
    return max(1, round(_SHIFT * spaces.frame_shape[1] / _OF_PIXELS))


def shifted(frames: NDArray[np.uint8], by: NDArray[np.intp], most: int) -> NDArray[np.uint8]:
    """Shift pictures, all channels of a row alike; the edge is repeated where nothing was.

    Args:
        frames: (B, C, H, W).
        by: (B, 2) pixels down and to the right, -most to most.
        most: pixels.

    Source:
        Kostrikov et al. 2020, section 3.1: random shifts.
    """
    height, width = frames.shape[2:]
    padded = np.pad(frames, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    picked: NDArray[np.uint8] = windows[np.arange(len(frames)), :, most - by[:, 0], most - by[:, 1]]
    return picked


def seen(
    spaces: Spaces, frames: NDArray[np.uint8], vectors: NDArray[np.float32], by: NDArray[np.intp] | None = None
) -> NDArray[np.float32]:
    """Return rows as the networks take them.

    Args:
        spaces: how many frames, of which shape.
        frames: (B, K, C, H, W), the oldest first, or with the last four axes flattened.
        vectors: (B, S).
        by: (B, 2) as for `shifted`; None leaves the frames where they are.

    Returns:
        (B, K * C * H * W + S).
    """
    batch = len(frames)
    if by is not None:
        frames = shifted(frames.reshape(batch, -1, *spaces.frame_shape[1:]), by, most_shift(spaces))
    rows = np.empty((batch, spaces.seen_size), np.float32)
    rows[:, : spaces.pixels] = frames.reshape(batch, spaces.pixels)
    rows[:, spaces.pixels :] = vectors
    return rows


class Stacks:
    """The last frames of N streams, and what the networks see of them; of vectors it keeps nothing.

    Args:
        spaces: how many frames, of which shape.
        n_envs: N.
    """

    def __init__(self, spaces: Spaces, n_envs: int) -> None:
        self._spaces = spaces
        stack = 0 if spaces.view is None else spaces.view.frame_stack
        self.frames = np.zeros((n_envs, stack, spaces.frame_size), np.uint8)
        """(N, K, C * H * W), the oldest first."""

    def begin(self, rows: NDArray[Any], began: NDArray[np.bool_]) -> None:
        """Take the first observation of each stream's new episode: it stands for those before it.

        Args:
            rows: (N, P) of all streams.
            began: (N,) where an episode has just begun; the other rows are not read.
        """
        if self._spaces.view is not None:
            self.frames[began] = rows[began, None, : self._spaces.frame_size]

    def push(self, rows: NDArray[Any]) -> None:
        """Take the next observation (P,) of every stream, (N, P)."""
        if self._spaces.view is not None:
            self.frames[:, :-1] = self.frames[:, 1:]
            self.frames[:, -1] = rows[:, : self._spaces.frame_size]

    def restore(self, rows: NDArray[Any], before: Sequence[NDArray[Any] | None]) -> None:
        """Go on where others stood.

        Args:
            rows: (N, P) the newest observations.
            before: of each stream those of its episode before it, (T, P); None where the episode is over.
        """
        self.begin(rows, np.ones(len(rows), bool))
        for i, earlier in enumerate(before):
            if earlier is not None and self._spaces.view is not None:
                together = np.concatenate([earlier, rows[i : i + 1]])[:, : self._spaces.frame_size]
                self.frames[i] = together[_back(len(together), self.frames.shape[1])[-1]]

    def seen(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the networks see, (N, K * C * H * W + S); rows (N, P) are the newest observations."""
        if self._spaces.view is None:
            return rows
        return seen(self._spaces, self.frames, vectors_of(self._spaces, rows))


def seen_in_episode(spaces: Spaces, rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return what the networks saw at each step of an episode: (T, ...) for observations (T, P) as they are kept."""
    if spaces.view is None:
        return rows
    back = _back(len(rows), spaces.view.frame_stack)
    return seen(spaces, rows[:, : spaces.frame_size][back], vectors_of(spaces, rows))


def _back(steps: int, stack: int) -> NDArray[Any]:
    """Return which frames of an episode are seen at each of its steps, (T, K); the first stands for those before it."""
    back: NDArray[Any] = np.maximum(np.arange(steps)[:, None] + np.arange(1 - stack, 1), 0)
    return back


# t3d's encoder, which networks, players and files must agree on: filters, their sides and steps. As in Mnih et al.
# 2015, at half the widths: a CPU pays for every one. Small frames have no room for the first.
FEATURES = 50
_CONVOLUTIONS = ((16, 8, 4), (32, 4, 2), (32, 3, 1))
_LEAST_FOR_FIRST = 36


class Convolution(NamedTuple):
    """A layer of the encoder."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    size: int  # of the sides of what it gives


def encoder_weights(spaces: Spaces) -> int:
    """Return how many numbers the encoder for such frames holds."""
    layers = convolutions(spaces)
    units = layers[-1].outputs * layers[-1].size ** 2
    return sum((a.inputs * a.kernel**2 + 1) * a.outputs for a in layers) + (units + 3) * FEATURES


def encoder_multiply_adds(spaces: Spaces) -> int:
    """Return how many multiply-adds one row takes through the encoder."""
    layers = convolutions(spaces)
    units = layers[-1].outputs * layers[-1].size ** 2
    return sum(a.inputs * a.kernel**2 * a.outputs * a.size**2 for a in layers) + units * FEATURES


def convolutions(spaces: Spaces) -> list[Convolution]:
    """Return the layers of the encoder for such frames."""
    assert spaces.view is not None
    channels, size, _ = spaces.frame_shape
    inputs, layers = channels * spaces.view.frame_stack, list[Convolution]()
    for outputs, kernel, stride in _CONVOLUTIONS[0 if size >= _LEAST_FOR_FIRST else 1 :]:
        size = (size - kernel) // stride + 1
        layers.append(Convolution(inputs, outputs, kernel, stride, size))
        inputs = outputs
    return layers
