"""The file of a policy: one .safetensors that says what it is, under one checksum; written, and read with suspicion."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from t3d.errors import RunRefused
from t3d.formats import MAX_WEIGHTS, PolicyInfo
from t3d.policy.architectures import ARCHITECTURES
from t3d.storage.checked_files import describe_policy, read_policy_header

# Beside the weights, (S,) float64 each, where the actor takes normalised observations. No description mentions them:
# they stand under the file's checksum, and who does not know them refuses the file instead of acting without them.
STATISTICS = ("obs_mean", "obs_std")

Tensors = Mapping[str, NDArray[Any]]


def encode(info: PolicyInfo, tensors: Tensors) -> bytes:
    """Return the file of a policy; equal policies have equal bytes.

    Args:
        info: what it says of itself.
        tensors: of the network that plays by name, and STATISTICS if its observations are normalised.
    """
    text = describe_policy(info, lambda description: checksum(description, tensors))
    return safetensors.numpy.save(dict(tensors), {"t3d": text})


def checksum(description: bytes, tensors: Tensors) -> str:
    """Return the SHA-256 over a policy's description and its tensors, in hexadecimal."""
    sha256 = hashlib.sha256(description)
    for name in sorted(tensors):
        array = tensors[name]
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return sha256.hexdigest()


def read(path: Path) -> tuple[PolicyInfo, dict[str, NDArray[Any]]]:
    """Return what a policy says of itself, and its tensors. No more than its network needs is read.

    Raises:
        RunRefused: it is no policy of this format, or not as it was written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = read_policy_header(path, file)
        info, ours = header.info, header.info.architecture in ARCHITECTURES
        least_bytes, most_bytes = (4 * info.weights,) * 2 if ours else (0, 4 * MAX_WEIGHTS)
        most_bytes += 8 * len(STATISTICS) * info.spaces.vector_size
        size = os.fstat(file.fileno()).st_size - len(header.content)
        try:
            if not least_bytes <= size <= most_bytes:
                raise ValueError(f"{size:,} bytes of tensors, {least_bytes:,} to {most_bytes:,} expected")
            tensors = safetensors.numpy.load(header.content + file.read(size))
            if (actual := checksum(header.description, tensors)) != header.sha256:
                raise ValueError(f"description and tensors have the checksum {actual}, not {header.sha256[:64]}")
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise RunRefused(
                "a policy is not as it was written", got=f"{path}: {str(error)[:1000]}", do="copy it again"
            ) from error
    return info, tensors


def split(info: PolicyInfo, tensors: Tensors) -> tuple[Tensors, tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
    """Return a policy's weights, and what its observations are normalised by, (S,) each; None if they are taken raw.

    Raises:
        ValueError: the statistics are not what they should be.
    """
    weights = {name: tensor for name, tensor in tensors.items() if name not in STATISTICS}
    taken = [tensors[name] for name in STATISTICS if name in tensors]
    if not taken:
        return weights, None
    size = info.spaces.vector_size
    fit = all(t.dtype == np.float64 and t.shape == (size,) and np.isfinite(t).all() for t in taken)
    if len(taken) != len(STATISTICS) or not fit or not (taken[1] > 0).all():
        raise ValueError(f"{' and '.join(STATISTICS)} are not {size} finite float64 numbers each, obs_std above 0")
    mean, std = taken
    return weights, (mean, std)
