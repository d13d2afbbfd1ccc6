"""The networks that steps 2 and 3 are built of: an actor, and a critic with two opinions; both are MLPs.

Shapes: B rows in a batch, S numbers in an observation, A in an action.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from t3d.config import TD3Config
from t3d.spaces import Spaces


class Linear(nn.Linear):
    """`nn.Linear`, but nothing is drawn from the global generator: its numbers are set right after it is made."""

    def reset_parameters(self) -> None:
        """Leave the numbers as they are."""


def linear(inputs: int, outputs: int, rng: np.random.Generator) -> nn.Linear:
    """Make a linear layer with PyTorch's own default distribution, drawn from our own stream.

    Weights and biases are uniform in ±1/sqrt(inputs), as `nn.Linear` draws them, but `nn.Linear` would take
    them from the global generator.

    Args:
        inputs: size of the input.
        outputs: size of the output.
        rng: the stream the (outputs, inputs) weights and then the (outputs,) biases are drawn from.
    """
    layer = Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, (outputs, inputs))))
        layer.bias.copy_(torch.from_numpy(rng.uniform(-bound, bound, outputs)))
    return layer


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, rng: np.random.Generator, layer_norm: bool = False
) -> nn.Sequential:
    """Make a multi-layer perceptron: ReLU after each hidden layer, a linear last one.

    Args:
        inputs: size of the input.
        hidden: width of each hidden layer.
        outputs: size of the output.
        rng: the stream its weights are drawn from.
        layer_norm: normalise each hidden layer before its ReLU, at first with weights 1 and biases 0.

    Returns:
        A module from (B, inputs) to (B, outputs).
    """
    layers: list[nn.Module] = []
    sizes = [inputs, *hidden]
    for width_in, width_out in itertools.pairwise(sizes):
        norm = [nn.LayerNorm(width_out)] if layer_norm else []
        layers += [linear(width_in, width_out, rng), *norm, nn.ReLU()]
    return nn.Sequential(*layers, linear(sizes[-1], outputs, rng))


class Actor(nn.Module):
    """Play: from observations to actions in [-1, 1].

    Args:
        spaces: S and A.
        config: its `hidden` gives the widths, its `layer_norm` says whether they are normalised.
        rng: the stream its weights are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        self.body = mlp(spaces.obs_size, config.hidden, spaces.action_size, rng, config.layer_norm == "both")

    def forward(self, obs: Tensor) -> Tensor:
        """Return the actions (B, A) for obs (B, S)."""
        return torch.tanh(self.body(obs))  # (B, A)


class Critic(nn.Module):
    """Judge: from observations and actions to two independent opinions of their value.

    Args:
        spaces: S and A.
        config: its `hidden` gives the widths, its `layer_norm` says whether they are normalised.
        rng: the stream the weights of the first and then of the second network are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        inputs, layer_norm = spaces.obs_size + spaces.action_size, config.layer_norm != "none"
        self.q1_body = mlp(inputs, config.hidden, 1, rng, layer_norm)
        self.q2_body = mlp(inputs, config.hidden, 1, rng, layer_norm)

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        """Return Q1 (B,) and Q2 (B,) for obs (B, S) and action (B, A)."""
        obs_action = torch.cat([obs, action], dim=1)  # (B, S + A)
        return self.q1_body(obs_action).squeeze(1), self.q2_body(obs_action).squeeze(1)  # (B,), (B,)

    def q1(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return Q1 (B,) alone, for obs (B, S) and action (B, A)."""
        q1: Tensor = self.q1_body(torch.cat([obs, action], dim=1)).squeeze(1)  # (B,)
        return q1
