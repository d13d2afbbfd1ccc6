"""Networks as PyTorch modules: how a policy's file names one, and one of a caller's own, brought back.

Imported where PyTorch is: a policy that plays with a network of t3d's own never comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from t3d.config import Config, TD3Config
from t3d.formats import PolicyInfo, class_name
from t3d.networks import Actor, PixelEncoder, SalePolicy, Seeing
from t3d.policy.files import Tensors
from t3d.policy.player import Floats
from t3d.spaces import Spaces

# The keys of architectures.ARCHITECTURES, and the classes of what plays: of an encoder, too, where images are seen.
_OURS: dict[str, tuple[type[nn.Module], ...]] = {
    "mlp": (Actor,),
    "cnn": (PixelEncoder, Actor),
    "sale": (SalePolicy,),
}


class Agent(Protocol):
    """An agent, as far as loading a policy needs it."""

    def policy_net(self) -> nn.Module:
        """Return what plays."""


# A subclass of TD3, which is not imported here: what plays needs nothing that learns.
Algorithm = Callable[[Spaces, TD3Config, np.random.Generator], Agent]


def architecture_of(net: nn.Module) -> str:
    """Return how a policy's file names the network that plays."""
    parts = (net.encoder, net.body) if isinstance(net, Seeing) else (net,)
    ours = (name for name, kinds in _OURS.items() if tuple(map(type, parts)) == kinds)
    return next(ours, f"<own>.{class_name(type(net))}")


def arrays_of(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Return copies of a network's tensors on the host, by name."""
    return {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in net.state_dict().items()}


def own_net(info: PolicyInfo, weights: Tensors, algorithm: Algorithm) -> Callable[[Floats], Floats]:
    """Return a caller's own network, from observations (N, S) as it takes them to actions (N, A) in [-1, 1].

    Args:
        info: what the policy says of itself.
        weights: of its network, by name.
        algorithm: the class it was trained by, which builds the network.

    Raises:
        ValueError: the class plays with another network, or the weights are not such a network's.
    """
    for name, tensor in weights.items():
        # int64: a layer of one's own may count.
        if tensor.dtype not in (np.float32, np.int64) or not np.isfinite(tensor).all():
            raise ValueError(f"{name} is not finite, or no float32 number")
    layer_norm = "both" if info.layer_norm else "none"
    config = Config().with_values({"hidden": info.hidden, "layer_norm": layer_norm, "embedding": info.embedding}).td3
    net = algorithm(info.spaces, config, np.random.default_rng(0)).policy_net()
    if (architecture := architecture_of(net)) != info.architecture:
        raise ValueError(f"the class given plays with {architecture}, the policy with {info.architecture}")
    try:
        net.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in weights.items()})
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    net.eval().requires_grad_(False)

    def play(obs: Floats) -> Floats:
        with torch.no_grad():
            action: Floats = net(torch.from_numpy(obs)).numpy()
        return action

    return play
