"""An agent's numbers in an engine's memory: moved there, looked after, and Adam's rates for them."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from t3d.engines import layers
from t3d.engines.layout import aligned
from t3d.td3 import TD3

# Rows of the block, and so of a memory's weights: what learns, its target, Adam's moments, and the target's target.
ONLINE, TARGET, MEAN, MEAN_SQ, SECOND_TARGET = range(5)


class Kept(NamedTuple):
    """A parameter with its place: what learns, and its targets."""

    offset: int
    copies: list[Tensor]
    optimizer: torch.optim.Optimizer


def refusal_of_numbers(agent: TD3) -> str | None:
    """Return why an agent's numbers cannot be adopted, or None if they can."""
    if agent.device.type != "cpu":
        return f"the networks are on {agent.device}"
    kinds = {weight.dtype for network in agent.networks().values() for weight in network.parameters()}
    if len(kinds) > 1:
        return "the weights are of different types"
    if not kinds <= {torch.float32, torch.float64}:
        return "the weights are neither float32 nor float64"
    for optimizer in agent.optimizers().values():
        group = optimizer.param_groups[0]
        if len(optimizer.param_groups) > 1 or group["weight_decay"] or group["amsgrad"] or group["maximize"]:
            return "an optimiser is not a plain Adam"
    return None


class Adopted:
    """An agent's parameters, targets and Adam's moments in one block, each tensor on a 64-byte boundary.

    The agent's modules and optimisers point there. Whatever fills their tensors fills the block.

    Args:
        agent: whose numbers they are; see `refusal_of_numbers`.
        kept: every parameter that an optimiser moves, those of one optimiser together.
        size: numbers in a row of the block.
    """

    def __init__(self, agent: TD3, kept: list[Kept], size: int) -> None:
        self.agent = agent
        self.dtype: np.dtype[Any] = np.dtype(str(kept[0].copies[0].dtype).removeprefix("torch."))
        rows = 2 + max(len(one.copies) for one in kept)
        self.weights = aligned(rows * size, self.dtype).reshape(rows, size)
        self.steps = np.zeros(len(kept), np.float32)
        for index, one in enumerate(kept):
            self._move(one, self.steps[index : index + 1])
        self._optimizers = list(agent.optimizers().values())
        owners = [one.optimizer for one in kept]
        self._steps_of = [self.steps[owners.index(one) :][: owners.count(one)] for one in self._optimizers]
        self.rates = np.zeros((len(self._optimizers), 6), self.dtype)
        self._settings: list[object] = [None] * len(self._optimizers)  # what stands in `rates` but for what changes
        self._first = [next(network.parameters()) for network in agent.networks().values()]
        self._shown_then = self._shown()

    def _move(self, one: Kept, steps: Any) -> None:
        online = one.copies[0]
        end = one.offset + online.numel()
        views = [torch.from_numpy(row[one.offset : end]).view_as(online) for row in self.weights]
        step = torch.from_numpy(steps).view(())
        if state := one.optimizer.state[online]:
            views[MEAN].copy_(state["exp_avg"])
            views[MEAN_SQ].copy_(state["exp_avg_sq"])
            step.copy_(state["step"])
        for copy, row in zip(one.copies, (ONLINE, TARGET, SECOND_TARGET), strict=False):
            views[row].copy_(copy.data)
            copy.data = views[row]
        one.optimizer.state[online] = {"step": step, "exp_avg": views[MEAN], "exp_avg_sq": views[MEAN_SQ]}

    def _shown(self) -> tuple[list[object], list[int]]:
        """Return objects of which one is another when somebody has replaced what was adopted, and addresses."""
        objects: list[object] = [self.agent.config]
        for optimizer in self.agent.optimizers().values():
            objects += optimizer, optimizer.state, optimizer.param_groups
        return objects, [weight.data_ptr() for weight in self._first]

    def is_whole(self) -> bool:
        """Return whether the agent still points here."""
        (objects, addresses), (objects_then, addresses_then) = self._shown(), self._shown_then
        return addresses == addresses_then and all(map(operator.is_, objects, objects_then))

    def advance(self, which: int) -> None:
        """Count a step of one of the agent's optimisers, and set the rates of Adam for it.

        That is PyTorch's formula, bias correction included.
        """
        steps = self._steps_of[which]
        steps += 1
        step = float(steps[0])
        group = self._optimizers[which].param_groups[0]
        beta1, beta2 = group["betas"]
        rates = self.rates[which]
        if (settings := (beta1, beta2, group["eps"])) != self._settings[which]:
            self._settings[which] = settings
            rates[layers.GRAD_SHARE], rates[layers.KEEP_SQ], rates[layers.GRAD_SQ_SHARE] = 1 - beta1, beta2, 1 - beta2
            rates[layers.EPS] = group["eps"]
        rates[layers.STEP_SIZE] = group["lr"] / (1 - beta1**step)
        rates[layers.INVERSE_CORRECTION] = (1 - beta2**step) ** -0.5
