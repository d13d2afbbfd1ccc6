"""An agent's numbers in an engine's memory: moved there, looked after, and Adam's rates for them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.engines.layout import Kept, aligned
from t3d.td3 import TD3

_LAST_STEP = 2.0**24  # of Adam: PyTorch counts in float32, which stays there
# Rows of the block, and so of a memory's weights: what learns, its target, Adam's moments, and the target's target.
ONLINE, TARGET, MEAN, MEAN_SQ, SECOND_TARGET = range(5)


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
        self._first = [next(network.parameters()) for network in agent.networks().values()]
        self._shown_then = self._shown()

    def _move(self, one: Kept, steps: NDArray[np.float32]) -> None:
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

    def advance(self, which: int, rates: NDArray[Any]) -> None:
        """Count steps of one of the agent's optimisers, and set Adam's rates for each.

        Args:
            which: its place in `TD3.optimizers`.
            rates: (steps, 6) is set by PyTorch's formula, bias correction included; in the order of the names in
                `layers.py`.
        """
        if not len(rates):
            return
        steps = self._steps_of[which]
        before, group = float(steps[0]), self._optimizers[which].param_groups[0]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        counts = [min(before + more, _LAST_STEP) for more in range(1, len(rates) + 1)]
        steps[:] = counts[-1]
        rates[:] = [
            (1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, group["eps"])
            for step in counts
        ]
