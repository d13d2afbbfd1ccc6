"""Changed algorithms, ours and a caller's: subclasses of TD3, and what a run must be able to rely on in them.

A run keeps what `TD3.tensors` returns, and its policy is what `TD3.policy_net` returns. Its health is looked at through
`target_q`, `update_critic` and `update_actor`.
"""

from __future__ import annotations

import torch
from torch import nn

from t3d.config import Config
from t3d.errors import ConfigRefused
from t3d.formats import class_name
from t3d.td3 import TD3
from t3d.variants.td7 import TD7

# What `--algorithm` names.
OURS: dict[str, type[TD3]] = {"td3": TD3, "td7": TD7}


def name_of(algorithm: type[TD3]) -> str:
    """Return how a run records its algorithm, a plain fact that is never looked up.

    Without the module: a class has another one in the script that is run than where that script is imported.
    """
    name = class_name(algorithm)
    is_ours = algorithm in OURS.values()
    return f"<own>.{name}" if not is_ours and name in map(class_name, OURS.values()) else name


def kind_of(algorithm: object) -> str:
    """Return which of ours a class is, or is derived from.

    Raises:
        ConfigRefused: none.
    """
    if isinstance(algorithm, type):
        for name, ours in reversed(OURS.items()):  # TD7 is itself derived from TD3
            if issubclass(algorithm, ours):
                return name
    raise ConfigRefused(
        "this is not an algorithm", got=repr(algorithm)[:200], expected="t3d.TD3, or a class derived from it"
    )


def algorithm_of(config: Config, own: type[TD3] | None = None) -> type[TD3]:
    """Return the class that trains.

    Args:
        config: names one of ours.
        own: a caller's, derived from that; None takes ours.

    Raises:
        ConfigRefused: it is no such class.
    """
    if own is not None and (kind := kind_of(own)) != config.algorithm:
        raise ConfigRefused(
            "the options are of another algorithm than the class",
            got=f"algorithm = {config.algorithm}, the class {own.__name__} is derived from {kind}'s",
            do=f"give --algorithm {kind}",
        )
    return own or OURS[config.algorithm]


def _has_no_weights(part: object) -> bool:
    return isinstance(part, nn.Module) and not part.state_dict()


def refuse_undeclared_parts(agent: TD3) -> None:
    """Refuse an agent of which a checkpoint or a policy would leave something out.

    Raises:
        ConfigRefused: it has a network, a tensor or an optimiser that it does not declare, or an optimiser that no
            checkpoint could bring back.
    """
    networks, optimizers = agent.networks(), agent.optimizers()
    modules = {id(module) for network in networks.values() for module in network.modules()}
    weights = {id(weight) for network in networks.values() for weight in network.parameters()}
    declared = modules | weights | {id(optimizer) for optimizer in optimizers.values()}
    learned = nn.Module | torch.Tensor | torch.optim.Optimizer
    left_out = [
        name
        for name, part in vars(agent).items()
        if isinstance(part, learned) and id(part) not in declared and not _has_no_weights(part)
    ]
    if left_out and type(agent).tensors is TD3.tensors:
        raise ConfigRefused(
            "a checkpoint would leave out a part of this algorithm",
            got=f"{type(agent).__name__} has {', '.join(left_out)}",
            expected="that networks and optimizers return all it has, or tensors everything it learns",
            do="add it to what TD3's method of that name returns; or override tensors in the subclass",
        )
    if not {id(weight) for weight in agent.policy_net().parameters()} <= weights:
        raise ConfigRefused(
            "a checkpoint would leave out a part of what plays",
            got=f"policy_net of {type(agent).__name__} has weights of its own",
            expected="that they are those of networks",
            do="add its modules to what networks returns",
        )
    for name, optimizer in optimizers.items():
        moved = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) or not moved <= weights:
            raise ConfigRefused(
                "a checkpoint cannot hold this optimiser",
                got=f"{name}: {type(optimizer).__name__}, {len(moved - weights):,} of its tensors in no network",
                expected="Adam or AdamW, over weights of what networks returns",
                do="add the network to what networks returns",
            )
