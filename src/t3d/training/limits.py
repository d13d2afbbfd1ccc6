"""What this machine cannot do is refused before time is lost on it: too little memory, a missing device."""

from __future__ import annotations

import itertools

import torch

from t3d.config import Config
from t3d.errors import ConfigRefused
from t3d.machine import usable_memory_bytes
from t3d.spaces import Spaces

# The replay may take this share of the memory that this process may use; the rest is for everything else.
_MEMORY_SHARE = 0.8


def refuse_too_large(what: str, needed_bytes: int, do: str) -> None:
    """Refuse what will not fit into the memory that this process may use.

    Raises:
        ConfigRefused: it would not.
    """
    usable = usable_memory_bytes()
    if needed_bytes > _MEMORY_SHARE * usable:
        raise ConfigRefused(
            f"{what} would not fit",
            got=f"{needed_bytes / 1e9:.1f} GB",
            expected=f"at most {_MEMORY_SHARE:.0%} of the {usable / 1e9:.1f} GB that this process may use",
            do=do,
        )


def least_state_bytes(config: Config) -> int:
    """Return what the state of a run of t3d's own TD3 takes at least: known before a network is built.

    Weights, target and Adam's moments of the actor, as if one number were observed and one played.
    """
    weights = sum((a + 1) * b for a, b in itertools.pairwise([1, *config.td3.hidden, 1]))
    return 4 * (4 * weights + config.n_envs)


def refuse_for_images(spaces: Spaces, config: Config) -> None:
    """Refuse options that mean nothing where an observation has images, or that cannot be done with.

    Raises:
        ConfigRefused: one is given.
    """
    if spaces.view is None:
        return
    raw = config.normalize_obs and not spaces.vectors
    for option, value, is_refused, why in (
        (
            "algorithm",
            "td7",
            config.algorithm == "td7",
            "td3: td7's embeddings are of vectors, and no encoder feeds them",
        ),
        ("engine", "fused", config.engine == "fused", "eager, or auto: convolutions are PyTorch's own"),
        (
            "normalize_obs",
            "True",
            raw,
            "False: there are no vectors beside the images, and pixels are scaled as they are",
        ),
    ):
        if is_refused:
            raise ConfigRefused(
                "this cannot be done with images",
                got=f"{option} = {value}, {spaces.obs_in_words}",
                expected=why,
                do=f"leave --{option.replace('_', '-')} out",
            )


def refuse_missing_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ConfigRefused: it is missing.
    """
    if device == "cpu":
        return
    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise ConfigRefused(
            "there is no such device",
            got=f"device = {device}, and this PyTorch ({torch.__version__}) sees {count} CUDA devices",
            expected=f"cpu, or cuda:0 to cuda:{count - 1}" if count else "cpu",
            do="leave --device out",
        )
