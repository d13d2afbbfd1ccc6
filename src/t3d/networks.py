"""What steps 2 and 3 are built of: an actor, a critic with two opinions, both MLPs; for images an encoder before them.

Shapes: B rows in a batch, S numbers in an observation, A in an action; E in an embedding, which td7 alone has.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from t3d.config import TD3Config
from t3d.frames import FEATURES, Convolution, convolutions
from t3d.spaces import Spaces


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, but PyTorch's compiler is not imported with the first one: a second or two at every start.

    PyTorch wraps these methods for the compiler alone, which is never used here; what they wrap is called instead.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


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
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    rng: np.random.Generator,
    layer_norm: bool = False,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Make a multi-layer perceptron: an activation after each hidden layer, a linear last one.

    Args:
        inputs: size of the input.
        hidden: width of each hidden layer.
        outputs: size of the output.
        rng: the stream its weights are drawn from.
        layer_norm: normalise each hidden layer before its activation, at first with weights 1 and biases 0.
        activation: of the hidden layers.

    Returns:
        A module from (B, inputs) to (B, outputs).
    """
    layers: list[nn.Module] = []
    sizes = [inputs, *hidden]
    for width_in, width_out in itertools.pairwise(sizes):
        norm = [nn.LayerNorm(width_out)] if layer_norm else []
        layers += [linear(width_in, width_out, rng), *norm, activation()]
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


class PixelEncoder(nn.Module):
    """See: from the pixels of the last K frames to F features, with the observation's vectors behind them.

    Strided convolutions, few and thin, because a CPU pays for every one of them; the features are normalised and
    bounded, as in Yarats et al. 2021, "Improving Sample Efficiency in Model-Free Reinforcement Learning from Images".

    Args:
        spaces: how many frames, of which shape; S.
        rng: the stream its weights are drawn from.
    """

    def __init__(self, spaces: Spaces, rng: np.random.Generator) -> None:
        super().__init__()
        assert spaces.view is not None
        channels, height, width = spaces.frame_shape
        self.shape = spaces.view.frame_stack * channels, height, width
        self.pixels = spaces.pixels
        layers = convolutions(spaces)
        self.body = nn.Sequential(*itertools.chain(*((convolution(layer, rng), nn.ReLU()) for layer in layers)))
        units = layers[-1].outputs * layers[-1].size ** 2
        self.head = nn.Sequential(linear(units, FEATURES, rng), nn.LayerNorm(FEATURES))

    def forward(self, obs: Tensor) -> Tensor:
        """Return (B, F + S) for obs (B, K * C * H * W + S): pixels from 0 to 255, then the vectors."""
        frames = obs[:, : self.pixels].reshape(-1, *self.shape) / 255 - 0.5  # (B, K * C, H, W)
        units = self.body(frames.contiguous(memory_format=torch.channels_last))
        features = torch.tanh(self.head(units.flatten(1)))  # (B, F)
        return torch.cat([features, obs[:, self.pixels :]], dim=1)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, but nothing is drawn from the global generator: its numbers are set right after it is made."""

    def reset_parameters(self) -> None:
        """Leave the numbers as they are."""


def convolution(layer: Convolution, rng: np.random.Generator) -> nn.Conv2d:
    """Make a convolution with PyTorch's own default distribution, drawn from our own stream, as `linear` does."""
    made = Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride)
    bound = (layer.inputs * layer.kernel**2) ** -0.5
    with torch.no_grad():
        for weights in (made.weight, made.bias):
            assert weights is not None
            weights.copy_(torch.from_numpy(rng.uniform(-bound, bound, weights.shape)))
    made.weight = nn.Parameter(made.weight.detach().contiguous(memory_format=torch.channels_last))
    return made


def encoder_of(spaces: Spaces, rng: np.random.Generator) -> tuple[nn.Module, Spaces]:
    """Return what stands before actor and critics, and the spaces as they see them; without images it does nothing."""
    if spaces.view is None:
        return nn.Identity(), spaces
    return PixelEncoder(spaces, rng), Spaces.of_vectors(FEATURES + spaces.vector_size, spaces.action_size)


class Seeing(nn.Module):
    """What plays, or judges, from images: an encoder, and a network that takes its features.

    Args:
        encoder: from obs (B, ...) to features.
        body: an actor, or critics.
    """

    def __init__(self, encoder: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.encoder, self.body = encoder, body

    def forward(self, obs: Tensor, *action: Tensor) -> Any:
        """Return what the body says to the features of obs, and to an action where it takes one."""
        return self.body(self.encoder(obs), *action)


# Of td7: state-action learned embeddings (SALE). Fujimoto et al. 2023, "For SALE: State-Action Representation Learning
# for Deep Reinforcement Learning", section 4 and appendix B.


def avg_l1_norm(x: Tensor) -> Tensor:
    """Return rows (B, n) scaled to a mean absolute value of 1; a row of zeros stays."""
    return x / x.abs().mean(dim=-1, keepdim=True).clamp(min=1e-8)


class StateEncoder(nn.Module):
    """Embed an observation: zs (B, E) for obs (B, S), of scale 1.

    Args:
        spaces: S.
        config: its `embedding` is E, and the width of the hidden layers.
        rng: the stream its weights are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        width = config.embedding
        self.body = mlp(spaces.obs_size, (width, width), width, rng, activation=nn.ELU)

    def forward(self, obs: Tensor) -> Tensor:
        """Return zs (B, E) for obs (B, S)."""
        return avg_l1_norm(self.body(obs))  # (B, E)


class Encoder(nn.Module):
    """Embed an observation, and predict from that and an action the embedding of the next one.

    Args:
        spaces: S and A.
        config: its `embedding` is E, and the width of the hidden layers.
        rng: the stream the weights of the first and then of the second network are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        width = config.embedding
        self.zs = StateEncoder(spaces, config, rng)
        self.action_body = mlp(width + spaces.action_size, (width, width), width, rng, activation=nn.ELU)

    def zsa(self, zs: Tensor, action: Tensor) -> Tensor:
        """Return zsa (B, E), not normalised, for zs (B, E) and action (B, A)."""
        zsa: Tensor = self.action_body(torch.cat([zs, action], dim=1))  # (B, E)
        return zsa


class SaleActor(nn.Module):
    """Play with an embedding beside the observation.

    Args:
        spaces: S and A.
        config: its `hidden` gives the widths, its `embedding` E.
        rng: the stream its weights are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        first = config.hidden[0]
        self.obs_layer = linear(spaces.obs_size, first, rng)
        self.body = mlp(first + config.embedding, config.hidden, spaces.action_size, rng)

    def pre_tanh(self, obs: Tensor, zs: Tensor) -> Tensor:
        """Return the outputs before tanh, (B, A), for obs (B, S) and zs (B, E)."""
        scaled = avg_l1_norm(self.obs_layer(obs))  # (B, first width)
        numbers: Tensor = self.body(torch.cat([scaled, zs], dim=1))  # (B, A)
        return numbers

    def forward(self, obs: Tensor, zs: Tensor) -> Tensor:
        """Return the actions (B, A) for obs (B, S) and zs (B, E)."""
        return torch.tanh(self.pre_tanh(obs, zs))


class SaleCritic(nn.Module):
    """Judge with two embeddings beside the observation and the action: two independent opinions.

    Args:
        spaces: S and A.
        config: its `hidden` gives the widths, its `embedding` E.
        rng: the stream the weights of the first and then of the second network are drawn from.
    """

    def __init__(self, spaces: Spaces, config: TD3Config, rng: np.random.Generator) -> None:
        super().__init__()
        inputs, first = spaces.obs_size + spaces.action_size, config.hidden[0]
        self.q1_layer = linear(inputs, first, rng)
        self.q1_body = mlp(first + 2 * config.embedding, config.hidden, 1, rng, activation=nn.ELU)
        self.q2_layer = linear(inputs, first, rng)
        self.q2_body = mlp(first + 2 * config.embedding, config.hidden, 1, rng, activation=nn.ELU)

    def forward(self, obs: Tensor, action: Tensor, zsa: Tensor, zs: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q1 (B,) and Q2 (B,) for obs (B, S), action (B, A), and zsa and zs, both (B, E)."""
        obs_action = torch.cat([obs, action], dim=1)  # (B, S + A)
        q1 = self.q1_body(torch.cat([avg_l1_norm(self.q1_layer(obs_action)), zsa, zs], dim=1)).squeeze(1)  # (B,)
        q2 = self.q2_body(torch.cat([avg_l1_norm(self.q2_layer(obs_action)), zsa, zs], dim=1)).squeeze(1)  # (B,)
        return q1, q2


class SalePolicy(nn.Module):
    """What plays of td7: the embedding of an observation, and an actor that takes it.

    Args:
        zs: from obs (B, S) to zs (B, E).
        actor: from both to actions (B, A).
    """

    def __init__(self, zs: nn.Module, actor: nn.Module) -> None:
        super().__init__()
        self.zs, self.actor = zs, actor

    def forward(self, obs: Tensor) -> Tensor:
        """Return the actions (B, A) for obs (B, S)."""
        actions: Tensor = self.actor(obs, self.zs(obs))  # (B, A)
        return actions


class SaleJudge(nn.Module):
    """What judges in td7: both embeddings, and critics that take them.

    Args:
        encoder: the embeddings.
        critic: from obs (B, S), action (B, A) and both to Q1 and Q2.
    """

    def __init__(self, encoder: Encoder, critic: nn.Module) -> None:
        super().__init__()
        self.encoder, self.critic = encoder, critic

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q1 (B,) and Q2 (B,) for obs (B, S) and action (B, A)."""
        zs = self.encoder.zs(obs)  # (B, E)
        q1, q2 = self.critic(obs, action, self.encoder.zsa(zs, action), zs)
        return q1, q2  # (B,), (B,)
