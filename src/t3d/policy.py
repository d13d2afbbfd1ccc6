"""A trained policy on its own: what a robot needs, without the training code and without an environment."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from t3d import sealed
from t3d.encoders import mlp
from t3d.errors import RunRefused
from t3d.normalizer import normalize

FORMAT = 1
# Beside the weights, (S,) float64 each, where the actor takes normalised observations. No description mentions them:
# they stand under the weights' checksum, and who does not know them refuses the file instead of acting without them.
STATISTICS = ("obs_mean", "obs_std")
_MAX_SIZES = 100
_MAX_HEADER_BYTES = 1 << 16
_MAX_WEIGHTS = 1 << 28  # a gigabyte
_ONE, _HALF = np.float32(1), np.float32(0.5)


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


@dataclass(frozen=True, kw_only=True)
class PolicyInfo:
    """What must be known of a policy beside its weights."""

    env: str
    obs_shape: tuple[int, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_shape: tuple[int, ...]
    hidden: tuple[int, ...]
    layer_norm: bool
    env_steps: int
    return_mean: float | None
    weights_sha256: str
    format: int = FORMAT

    @property
    def obs_size(self) -> int:
        """S, the length of a flattened observation."""
        return math.prod(self.obs_shape)

    @property
    def weights(self) -> int:
        """How many numbers the actor's layers hold."""
        sizes = [self.obs_size, *self.hidden, math.prod(self.action_shape)]
        linear = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
        return linear + (2 * sum(self.hidden) if self.layer_norm else 0)

    def to_json(self, before: PolicyInfo | None = None) -> bytes:
        """Return this as sealed JSON text; with what is true of the weights until those of this one stand there."""
        return sealed.seal(asdict(self) | ({"before": asdict(before)} if before else {}))


class Policy:
    """Map observations to actions in the environment's own units.

    Args:
        body: the actor's network before its tanh, from (B, S) to (B, A).
        info: shapes, bounds and origin.
        statistics: mean and standard deviation, (S,) each, that observations are normalised by; None takes them raw.
    """

    def __init__(
        self,
        body: nn.Module,
        info: PolicyInfo,
        statistics: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> None:
        self.info = info
        self._statistics = statistics
        self._body = body
        self._low = np.asarray(info.action_low, np.float32)
        self._high = np.asarray(info.action_high, np.float32)

    @torch.no_grad()
    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions (N, A) in [-1, 1] for obs (N, S), raw as an environment gives them."""
        if self._statistics is not None:
            obs = normalize(obs, *self._statistics)
        action: NDArray[np.float32] = torch.tanh(self._body(torch.from_numpy(obs))).numpy()
        return action

    def __call__(self, obs: ArrayLike) -> NDArray[np.float32]:
        """Return the action for one observation, or the actions for a batch of them.

        Args:
            obs: in the environment's observation shape, or with one dimension more in front.

        Returns:
            In the environment's action shape and units, with that dimension in front if obs has it.

        Raises:
            ValueError: obs has another shape.
        """
        array = np.asarray(obs, np.float32)
        shape = self.info.obs_shape
        if array.shape != shape and array.shape[1:] != shape:
            raise ValueError(f"this policy takes observations of shape {shape} or (N, *{shape}), got {array.shape}")
        flat = np.ascontiguousarray(array.reshape(-1, self.info.obs_size))
        action = to_env_units(self.act(flat), self._low, self._high)
        leading = () if array.shape == shape else (len(array),)
        return action.reshape(leading + self.info.action_shape)

    def predict(
        self, obs: ArrayLike, state: None = None, episode_start: object = None, deterministic: bool = True
    ) -> tuple[NDArray[np.float32], None]:
        """Return (action, None): the convention Stable-Baselines3's helpers expect.

        Args:
            obs: as in a call.
            state: a policy without memory has none.
            episode_start: not needed without memory.
            deterministic: TD3's policy has no randomness of its own, so both values give the same action.
        """
        return self(obs), None


def load(path: str | Path) -> Policy:
    """Load a policy. No code is run from the files, and no environment is needed.

    Args:
        path: a run folder (its best policy is taken), or a policy's .safetensors file with its .json beside it.

    Raises:
        RunRefused: there is no such policy, or a file is not what it should be.
    """
    weights_path = Path(path)
    if weights_path.is_dir():
        weights_path = weights_path / "policy" / "best.safetensors"
        sealed.refuse_links(weights_path.parent, weights_path, weights_path.with_suffix(".json"))
    described = _read_infos(weights_path.with_suffix(".json"))
    while True:
        try:
            return _load(weights_path, described)
        except RunRefused:
            # Described anew since it was read: the run goes on, and has a new policy.
            if described == (described := _read_infos(weights_path.with_suffix(".json"))):
                raise


def _load(weights_path: Path, described: list[PolicyInfo]) -> Policy:
    """Load the policy that one of the descriptions is true of."""
    info = described[0]
    # Before anything is read: a small description cannot make anybody take much memory, nor a large file.
    most_bytes = max(4 * info.weights + 8 * len(STATISTICS) * info.obs_size for info in described)
    _refuse_unless_file(weights_path, most_bytes + _MAX_HEADER_BYTES)
    try:
        if (size := weights_path.stat().st_size) < 4 * min(info.weights for info in described):
            raise RuntimeError(f"{size:,} bytes, too few for {info.weights:,} weights")
        content = weights_path.read_bytes()
        found = sealed.checksum(content)
        fitting = [info for info in described if info.weights_sha256 == found]
        if not fitting:
            raise RuntimeError(f"checksum {found}, not {info.weights_sha256}")
        info = fitting[0]
        weights = safetensors.torch.load(content)
        statistics = _take_statistics(weights, info.obs_size)
        # Compared before the network is built: a description alone makes nobody allocate.
        if sum(weight.numel() for weight in weights.values()) != info.weights:
            raise RuntimeError(f"{sum(weight.numel() for weight in weights.values()):,} weights, not {info.weights:,}")
        if not all(weight.dtype == torch.float32 and torch.isfinite(weight).all() for weight in weights.values()):
            raise RuntimeError("a weight is not finite, or no float32 number")
        body = mlp(info.obs_size, info.hidden, len(info.action_low), np.random.default_rng(0), info.layer_norm)
        body.load_state_dict(weights)
    except OSError as error:
        raise RunRefused("a policy cannot be read", got=str(error), do="see to the disk, then try again") from error
    except (safetensors.SafetensorError, RuntimeError, KeyError) as error:
        raise RunRefused(
            "these weights do not fit the policy's description",
            got=f"{weights_path}: {error}",
            expected=f"an actor with {info.obs_size} inputs, hidden layers {list(info.hidden)}, "
            f"{len(info.action_low)} outputs",
            do="copy both files of the policy again; of a run folder, t3d resume RUN mends what has a copy",
        ) from error
    return Policy(body.requires_grad_(False), info, statistics)


def _take_statistics(
    tensors: dict[str, torch.Tensor], obs_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Take what observations are normalised by out of a file's tensors, and return it; None if there is nothing."""
    found = [tensors.pop(name) for name in STATISTICS if name in tensors]
    if not found:
        return None
    fit = all(t.dtype == torch.float64 and t.shape == (obs_size,) and torch.isfinite(t).all() for t in found)
    if len(found) != len(STATISTICS) or not fit or not (found[1] > 0).all():
        raise RuntimeError(
            f"{' and '.join(STATISTICS)} are not {obs_size} finite float64 numbers each, obs_std above 0"
        )
    mean, std = found
    return mean.numpy(), std.numpy()


def _refuse_unless_file(path: Path, max_bytes: int) -> None:
    if not path.is_file():
        raise RunRefused(
            "there is no policy here",
            got=str(path),
            expected="a run folder, or a policy's .safetensors file with its .json beside it",
            do="name a folder that t3d train has printed",
        )
    if path.stat().st_size > max_bytes:
        raise RunRefused(
            "this file is too large for what it should be",
            got=f"{path}: {path.stat().st_size:,} bytes",
            expected=f"at most {max_bytes:,}",
        )


def _read_infos(path: Path) -> list[PolicyInfo]:
    """Return what a policy's JSON says: of its weights, and of those before if they may still stand there."""
    _refuse_unless_file(path, sealed.MAX_BYTES)
    fields = sealed.unseal(path)
    return [_info(path, described) for described in (fields, fields.get("before")) if described is not None]


def _info(path: Path, fields: Any) -> PolicyInfo:
    try:
        info = PolicyInfo(
            env=str(fields["env"]),
            obs_shape=tuple(index(n) for n in fields["obs_shape"]),
            action_low=tuple(float(x) for x in fields["action_low"]),
            action_high=tuple(float(x) for x in fields["action_high"]),
            action_shape=tuple(index(n) for n in fields["action_shape"]),
            hidden=tuple(index(n) for n in fields["hidden"]),
            layer_norm=bool(fields["layer_norm"]),
            env_steps=index(fields["env_steps"]),
            return_mean=None if fields["return_mean"] is None else float(fields["return_mean"]),
            weights_sha256=str(fields["weights_sha256"]),
            format=index(fields["format"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise RunRefused(
            "a policy's description cannot be read", got=f"{path}: {error!r}", do="copy the policy again"
        ) from error
    sizes = [*info.obs_shape, *info.hidden, *info.action_shape]
    bounds = zip(info.action_low, info.action_high, strict=False)
    possible = (
        info.format == FORMAT
        and len(sizes) <= _MAX_SIZES
        and all(0 < n <= 1 << 20 for n in sizes)
        and info.weights <= _MAX_WEIGHTS
        and len(info.action_low) == len(info.action_high) == math.prod(info.action_shape)
        and all(math.isfinite(high - low) and low < high for low, high in bounds)
    )
    if not possible:
        raise RunRefused(
            "a policy's description is impossible",
            got=f"{path}: {str(info)[:500]}",
            expected=f"format {FORMAT}, sizes above 0 that fit together, finite bounds with low < high",
            do="use the version of t3d that wrote it",
        )
    return info
