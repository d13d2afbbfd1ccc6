"""Changed algorithms, subclasses of TD3 given to the library: what a run must be able to rely on in them.

A run keeps what `TD3.tensors` returns. Its health is looked at through `target_q`, `update_critic` and `update_actor`.
Its policy is t3d's own actor.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from t3d.errors import ConfigRefused
from t3d.networks import Actor
from t3d.td3 import TD3

_MAX_NAME = 150


def name_of(algorithm: type[TD3]) -> str:
    """Return how a run records its algorithm, a plain fact that is never looked up.

    Without the module: a class has another one in the script that is run than where that script is imported.
    """
    name = re.sub(r"[^\w.<>]", "_", algorithm.__qualname__)[:_MAX_NAME]
    return f"<own>.{name}" if name == TD3.__qualname__ and algorithm is not TD3 else name


def refuse_other_than_td3(algorithm: object) -> None:
    """Refuse what is not TD3 or a subclass of it.

    Raises:
        ConfigRefused: it is not.
    """
    if not (isinstance(algorithm, type) and issubclass(algorithm, TD3)):
        raise ConfigRefused(
            "this is not an algorithm", got=repr(algorithm)[:200], expected="t3d.TD3, or a class derived from it"
        )


def refuse_what_is_not_kept(agent: TD3) -> None:
    """Refuse an agent of which a checkpoint or a policy would leave something out.

    Raises:
        ConfigRefused: its actor is not t3d's own, or it learns what `tensors` does not return.
    """
    if type(agent.actor) is not Actor:
        raise ConfigRefused(
            "a policy is saved and loaded as an actor of t3d",
            got=f"{type(agent).__name__} with an actor of its own, {type(agent.actor).__name__}",
            expected="another update, or another critic",
            do="leave the actor as it is; or edit Actor in td3.py and policy.py together",
        )
    known = {*map(id, agent.networks().values()), id(agent.actor_optimizer), id(agent.critic_optimizer)}
    learned = nn.Module | torch.Tensor | torch.optim.Optimizer
    left_out = [name for name, part in vars(agent).items() if isinstance(part, learned) and id(part) not in known]
    if left_out and type(agent).tensors is TD3.tensors:
        raise ConfigRefused(
            "a checkpoint would leave out a part of this algorithm",
            got=f"{type(agent).__name__} has {', '.join(left_out)}",
            expected="that `tensors` returns everything it learns",
            do="override tensors in the subclass: what TD3's returns, and these tensors by name",
        )
