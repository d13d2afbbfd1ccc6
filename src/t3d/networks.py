"""Bodies of the networks: what stands between an input and a head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


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
