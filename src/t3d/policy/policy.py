"""A trained policy on its own: what a robot needs, without the training code and without an environment."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from t3d.config import Config, TD3Config
from t3d.errors import RunRefused
from t3d.formats import MAX_WEIGHTS, PolicyInfo, class_name
from t3d.networks import Actor, SaleActor, SalePolicy, StateEncoder
from t3d.policy.normalizer import normalize
from t3d.spaces import ObsPart, Spaces, part_of
from t3d.storage.checked_files import PolicyHeader, describe_policy, read_policy_header, refuse_links

# Beside the weights, (S,) float64 each, where the actor takes normalised observations. No description mentions them:
# they stand under the file's checksum, and who does not know them refuses the file instead of acting without them.
_log = logging.getLogger("t3d")

STATISTICS = ("obs_mean", "obs_std")
# The networks that a file may name. Another one is the caller's, who gives its class.
ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": Actor, "sale": SalePolicy}


def _net_of(architecture: str, spaces: Spaces, config: TD3Config) -> nn.Module:
    """Build one of them; its weights come from the file."""
    rng = np.random.default_rng(0)
    if architecture == "sale":
        return SalePolicy(StateEncoder(spaces, config, rng), SaleActor(spaces, config, rng))
    return Actor(spaces, config, rng)


class Agent(Protocol):
    """An agent, as far as loading a policy needs it."""

    def policy_net(self) -> nn.Module:
        """Return what plays."""


# A subclass of TD3, which is not imported here: what plays needs nothing that learns.
Algorithm = Callable[[Spaces, TD3Config, np.random.Generator], Agent]


def architecture_of(net: nn.Module) -> str:
    """Return how a policy's file names the network that plays."""
    ours = (name for name, kind in ARCHITECTURES.items() if type(net) is kind)
    return next(ours, f"<own>.{class_name(type(net))}")


class Policy:
    """Map observations to actions in the environment's own units.

    Args:
        net: the network that plays, from (B, S) to (B, A) in [-1, 1].
        info: shapes, bounds and origin.
        statistics: mean and standard deviation, (S,) each, that observations are normalised by; None takes them raw.
    """

    def __init__(
        self,
        net: nn.Module,
        info: PolicyInfo,
        statistics: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> None:
        self.info = info
        self._statistics = statistics
        self._net = net
        self._spaces = info.spaces

    @torch.no_grad()
    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions (N, A) in [-1, 1] for obs (N, S), raw as an environment gives them."""
        if self._statistics is not None:
            obs = normalize(obs, *self._statistics)
        action: NDArray[np.float32] = self._net(torch.from_numpy(obs)).numpy()
        return action

    def __call__(self, obs: ArrayLike | Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the action for one observation, or the actions for a batch of them.

        Args:
            obs: in the environment's observation shape, or with one dimension more in front; a Dict or a Tuple where
                the environment gives such, each part with or without that dimension.

        Returns:
            In the environment's action shape and units, with that dimension in front if obs has it.

        Raises:
            ValueError: obs has another shape, or lacks a part.
        """
        arrays = [self._array_of(obs, part) for part in self._spaces.obs]
        leading = {array.shape[: array.ndim - len(p.shape)] for array, p in zip(arrays, self._spaces.obs, strict=True)}
        if len(leading) != 1:
            raise ValueError(f"the parts of these observations are of different numbers: {leading}")
        (front,) = leading
        rows = math.prod(front)
        sizes = [math.prod(part.shape) for part in self._spaces.obs]
        flat = np.concatenate([a.reshape(rows, size) for a, size in zip(arrays, sizes, strict=True)], axis=1)
        flat = np.ascontiguousarray(flat)  # another layout would give other bits
        return self._spaces.to_env_units(self.act(flat)).reshape(front + self._spaces.action_shape)

    def _array_of(self, obs: Any, part: ObsPart) -> NDArray[Any]:
        try:
            given = part_of(obs, part.name)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"this policy takes observations of {self._spaces.obs_in_words}") from error
        array = np.asarray(given, part.dtype)
        if array.shape != part.shape and array.shape[1:] != part.shape:
            of_part = "" if part.name == "obs" else f" in the part {part.name}"
            shapes = f"shape {part.shape} or (N, *{part.shape}){of_part}"
            raise ValueError(f"this policy takes observations of {shapes}, got {array.shape}")
        return array

    def predict(
        self,
        obs: ArrayLike | Mapping[str, Any],
        state: None = None,
        episode_start: object = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.float32], None]:
        """Return (action, None): the convention Stable-Baselines3's helpers expect.

        Args:
            obs: as in a call.
            state: a policy without memory has none.
            episode_start: not needed without memory.
            deterministic: TD3's policy has no randomness of its own, so both values give the same action.
        """
        return self(obs), None


def encode(info: PolicyInfo, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the file of a policy; equal policies have equal bytes.

    Args:
        info: what it says of itself.
        tensors: of the network that plays by name, and STATISTICS if its observations are normalised.
    """
    text = describe_policy(info, lambda description: _checksum(description, tensors))
    return safetensors.torch.save(dict(tensors), {"t3d": text})


def _checksum(description: bytes, tensors: Mapping[str, torch.Tensor]) -> str:
    sha256 = hashlib.sha256(description)
    for name in sorted(tensors):
        array = tensors[name].numpy()
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return sha256.hexdigest()


def load(path: str | Path, algorithm: Algorithm | None = None) -> Policy:
    """Load a policy. No code is run from the file, and no environment is needed.

    Args:
        path: a run folder (its best policy is taken; the last of a run that had no evaluation, which is said), or a
            policy's .safetensors file.
        algorithm: the class it was trained by, where that plays with a network of its own.

    Raises:
        RunRefused: there is no such policy, it is not as it was written, or its network is not one of t3d's own and the
            class is missing.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "policy"
        path, last = folder / "best.safetensors", folder / "last.safetensors"
        refuse_links(folder, path, last)
        if last.is_file() and not path.exists():
            _log.warning("%s has no best policy, so this is its last one", folder.parent)
            path = last
    if not path.is_file():
        raise RunRefused(
            "there is no policy here",
            got=str(path),
            expected="a run folder, or a policy's .safetensors file",
            do="name a folder that t3d train has printed",
        )
    try:
        header, content = _read(path)
        return _load(path, header, content, algorithm)
    except OSError as error:
        raise RunRefused("a policy cannot be read", got=str(error), do="see to the disk, then try again") from error
    except (safetensors.SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise RunRefused(
            "a policy is not as it was written", got=f"{path}: {str(error)[:1000]}", do="copy it again"
        ) from error


def _read(path: Path) -> tuple[PolicyHeader, bytes]:
    """Return what a policy says of itself, and the whole file: no more than its network needs is read."""
    with path.open("rb") as file:
        header = read_policy_header(path, file)
        ours = header.info.architecture in ARCHITECTURES
        least_bytes, most_bytes = (4 * header.info.weights,) * 2 if ours else (0, 4 * MAX_WEIGHTS)
        most_bytes += 8 * len(STATISTICS) * header.info.spaces.obs_size
        size = os.fstat(file.fileno()).st_size - len(header.content)
        if not least_bytes <= size <= most_bytes:
            raise ValueError(f"{size:,} bytes of tensors, {least_bytes:,} to {most_bytes:,} expected")
        return header, header.content + file.read(size)


def _load(path: Path, header: PolicyHeader, content: bytes, algorithm: Algorithm | None) -> Policy:
    info = header.info
    ours = info.architecture in ARCHITECTURES
    if not ours and algorithm is None:
        raise RunRefused(
            "this policy plays with a network that is not one of t3d's own",
            got=f"{path}: {info.architecture}, of the algorithm {info.algorithm}",
            expected="the algorithm's class: none is looked up by the name that a file gives it",
            do=f"in Python, t3d.load(..., algorithm={info.algorithm}) if you trust that class",
        )
    tensors = safetensors.torch.load(content)
    if (actual := _checksum(header.description, tensors)) != header.sha256:
        raise ValueError(f"description and tensors have the checksum {actual}, not {header.sha256[:64]}")
    statistics = _take_statistics(tensors, info.spaces.obs_size)
    if ours and info.spaces.obs_dtype != np.float32:
        raise ValueError(f"{info.architecture} takes float32 numbers, not {info.spaces.obs_dtype}")
    # Compared before the network is built: a description alone makes nobody allocate.
    if ours and sum(tensor.numel() for tensor in tensors.values()) != info.weights:
        raise ValueError(f"{sum(tensor.numel() for tensor in tensors.values()):,} weights, not {info.weights:,}")
    kinds = (torch.float32,) if ours else (torch.float32, torch.int64)  # a layer of one's own may count
    if not all(tensor.dtype in kinds and torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("a weight is not finite, or no float32 number")
    layer_norm = "both" if info.layer_norm else "none"
    config = Config().with_values({"hidden": info.hidden, "layer_norm": layer_norm, "embedding": info.embedding}).td3
    if ours:
        net = _net_of(info.architecture, info.spaces, config)
    else:
        assert algorithm is not None
        net = algorithm(info.spaces, config, np.random.default_rng(0)).policy_net()
        if (architecture := architecture_of(net)) != info.architecture:
            raise ValueError(f"the class given plays with {architecture}, the policy with {info.architecture}")
    net.load_state_dict(tensors)
    return Policy(net.eval().requires_grad_(False), info, statistics)


def _take_statistics(
    tensors: dict[str, torch.Tensor], obs_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Take what observations are normalised by out of a file's tensors, and return it; None if there is nothing."""
    taken = [tensors.pop(name) for name in STATISTICS if name in tensors]
    if not taken:
        return None
    fit = all(t.dtype == torch.float64 and t.shape == (obs_size,) and torch.isfinite(t).all() for t in taken)
    if len(taken) != len(STATISTICS) or not fit or not (taken[1] > 0).all():
        raise ValueError(f"{' and '.join(STATISTICS)} are not {obs_size} finite float64 numbers each, obs_std above 0")
    mean, std = taken
    return mean.numpy(), std.numpy()
