"""What TD3's own numbers say of its training: whether the critics can be believed, and what the networks do.

Everything is computed by the functions of `td3.py`, on an agent as it stands and on a copy that may move, so no
engine knows of it, no weight, moment or gradient of the agent changes, and no stream of the training is drawn from.
`docs/health.md` says of every number how it is made and what is healthy; `hints.py` puts what is wrong into words.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.frames import seen_in_episode
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3, Array, smooth

# Names to finite numbers; None where a number is not finite, or has no meaning.
Numbers = dict[str, float | None]

# An action beyond this is at its bound: where tanh(x) = 0.99, its slope, and so the actor's gradient, is 2 % of that
# at 0.
AT_THE_BOUND = 0.99
# Of what an algorithm does not have, such as a second critic.
NO_NUMBER = torch.tensor(math.nan)
# Below this share of the discount, more of a promise lies beyond the time limit than before it.
PLAYED = 0.5


class Trajectory(NamedTuple):
    """An episode, step by step: T steps."""

    obs: NDArray[Any]  # (T, S) as observations are kept, or as the networks take them: see `seen`
    action: NDArray[np.float32]  # (T, A) in [-1, 1]
    reward: NDArray[np.float32]  # (T,)
    final_obs: NDArray[Any]  # (S,) what the last step led to
    terminated: bool  # whether it truly ended there; False: a time limit cut it


def seen(played: Trajectory, spaces: Spaces, see: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Trajectory:
    """Return an episode with its observations as the networks take them.

    Args:
        played: with observations as they are kept.
        spaces: the environment's.
        see: from raw observations to normalised ones.
    """
    obs = see(seen_in_episode(spaces, np.concatenate([played.obs, played.final_obs[None]])))
    return played._replace(obs=obs[:-1], final_obs=obs[-1])


def from_batch(
    agent: TD3, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, age: NDArray[np.intp]
) -> Numbers:
    """Look at an agent through one batch, as if its next update were made from that.

    Args:
        agent: whose networks and optimisers.
        batch: B transitions, as arrays or tensors, put together as for `agent.update`.
        noise: (B, A) standard normal, as for `agent.update`.
        age: (B,) how many env steps ago each transition was made.

    Returns:
        The numbers that docs/health.md explains under "From a batch".
    """
    on_device = Batch(*(torch.as_tensor(part, device=agent.device) for part in batch))
    drawn = torch.as_tensor(noise, device=agent.device)
    looked_at = copy.deepcopy(agent)
    with torch.no_grad(), _still(*looked_at.networks().values()):
        numbers = _data(on_device, agent.config.gamma, agent.spaces.vector_size) | _networks(looked_at, on_device)
        numbers |= _targets(looked_at, on_device, drawn)
    numbers |= _moves(agent, looked_at, on_device, drawn)
    numbers["replay_age"] = torch.as_tensor(age, dtype=torch.float64).mean()
    return _finite({name: float(value) for name, value in numbers.items()})


@contextlib.contextmanager
def _still(*networks: nn.Module) -> Iterator[None]:
    """Let networks judge as a finished agent's would, whatever their layers do and count in training."""
    training = [module for network in networks for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _finite(numbers: dict[str, float]) -> Numbers:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _data(batch: Batch[Tensor], gamma: float, vector_size: int) -> dict[str, Tensor]:
    """Return what the batch itself is like: the scale of its observations, its rewards, its ends."""
    reward = batch.reward.double()  # (B,)
    reward_max = reward.abs().max()
    return _scales(batch.obs[:, batch.obs.shape[1] - vector_size :].double()) | {
        "reward_mean": reward.mean(),
        "reward_std": reward.std(correction=0),
        "reward_max": reward_max,
        # Rewards of this size for ever. Infinite, and so left out, without a discount.
        "value_bound": reward_max / (1 - gamma) if gamma < 1 else torch.tensor(math.inf),
        "terminated_share": batch.terminated.double().mean(),
    }


def _scales(obs: Tensor) -> dict[str, Tensor]:
    """Return the scale of the vectors (B, S) observed; of pixels alone there is no number."""
    if not obs.numel():
        return dict.fromkeys(("obs_scale", "obs_scale_at", "obs_mean_max", "obs_std_max", "obs_std_min"), NO_NUMBER)
    mean, std = obs.mean(0), obs.std(0, correction=0)  # (S,), (S,)
    scale = (mean.square() + std.square()).sqrt()  # (S,)
    return {
        "obs_scale": scale.max(),
        "obs_scale_at": scale.argmax(),
        "obs_mean_max": mean.abs().max(),
        "obs_std_max": std.max(),
        "obs_std_min": std.min(),
    }


def _networks(agent: TD3, batch: Batch[Tensor]) -> dict[str, Tensor]:
    """Return what the actor and the critics answer to the batch, and how many of their units never do."""
    bodies = [
        getattr(agent.actor, "body", None),
        *(getattr(agent.critic, f"{name}_body", None) for name in ("q1", "q2")),
        getattr(agent.frame_encoder, "body", None),
    ]
    with contextlib.ExitStack() as stack:
        (pre_tanh, actor), (_, q1), (_, q2), (_, encoder) = (stack.enter_context(_layers_of(body)) for body in bodies)
        action = agent.policy_net()(batch.obs)  # (B, A)
        agent.critic_net()(batch.obs, batch.action)
    return {
        "saturated_share": (action.abs() > AT_THE_BOUND).double().mean(),
        "pre_tanh": pre_tanh[-1].double().abs().mean() if pre_tanh else NO_NUMBER,
        "dead_actor": _dead(actor),
        "dead_q1": _dead(q1),
        "dead_q2": _dead(q2),
        **({"dead_encoder": _dead(encoder)} if encoder else {}),
    }


@contextlib.contextmanager
def _layers_of(body: object) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Keep what every layer of an MLP answers, and what its ReLUs do; of a network built in another way nothing."""
    answers: list[Tensor] = []
    units: list[Tensor] = []
    hooks = []
    for layer in body if isinstance(body, nn.Sequential) else ():
        hooks.append(layer.register_forward_hook(lambda module, given, answer: answers.append(answer)))
        if isinstance(layer, nn.ReLU):
            hooks.append(layer.register_forward_hook(lambda module, given, answer: units.append(answer)))
    yield answers, units
    for hook in hooks:
        hook.remove()


def _dead(units: list[Tensor]) -> Tensor:
    """Return, of the worst hidden layer, the share of units that are 0 at every row; no number if there is none.

    The units of a convolution are its filters, which are looked at over the whole picture.
    """
    # By layer: where a single one is dead all through, the network answers the same to everything.
    dead = [(layer.transpose(0, 1).flatten(1) == 0).all(1) for layer in units]
    return torch.stack([layer.double().mean() for layer in dead]).max() if units else NO_NUMBER


def _targets(agent: TD3, batch: Batch[Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Return how often steps 6 and 8 of the batch's update bite."""
    config = agent.config
    actor_target, critic_target = agent.target_nets()
    next_action = smooth(actor_target(batch.next_obs), noise, config.policy_noise, config.noise_clip)  # (B, A)
    next_q = _opinions(critic_target, batch.next_obs, next_action)
    return {
        "noise_clipped_share": ((config.policy_noise * noise).abs() > config.noise_clip).double().mean(),
        "q1_target_share": (next_q[0] < next_q[1]).double().mean() if len(next_q) == 2 else NO_NUMBER,
    }


def _opinions(critic: nn.Module, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    """Return what each of the critics says, (B,): two in TD3 itself, one or more in a changed algorithm."""
    values = critic(obs, action)
    return (values,) if isinstance(values, Tensor) else tuple(values)


def _moves(agent: TD3, moved: TD3, batch: Batch[Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Let a copy of the agent make the update; return what its critics said, and how far its weights moved."""
    with torch.no_grad():
        values = [q.double() for q in _opinions(moved.critic_net(), batch.obs, batch.action)]  # each (B,)
    seen_batch = moved.seen(batch)
    moved.update_critic(seen_batch, moved.target_q(seen_batch, noise))
    moved.update_actor(moved.without_encoder(seen_batch))
    q_scale = torch.stack(values).abs().mean()  # ()
    return {
        "q_scale": q_scale,
        # 0 / 0 where both say 0 of everything: no number.
        "disagreement": (values[0] - values[1]).abs().mean() / q_scale if len(values) == 2 else NO_NUMBER,
        **_move("critic", agent.critic, moved.critic),
        **_move("actor", agent.actor, moved.actor),
    }


def _move(name: str, before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    start = _flat([weight.detach() for weight in before.parameters()])
    end = _flat([weight.detach() for weight in after.parameters()])
    gradient = _flat([weight.grad for weight in after.parameters() if weight.grad is not None])
    return {f"{name}_gradient": gradient.norm(), f"{name}_move": (end - start).norm() / start.norm()}


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).double()


@torch.no_grad()
def from_evaluation(agent: TD3, trajectories: Iterable[Trajectory]) -> Numbers:
    """Compare what the critics promised of the states of an evaluation with what was really obtained from them.

    What counts as obtained: a state with n steps still behind it gave g = sum over k < n of gamma^k * r_k. If the
    episode terminated, that is all there is. If a time limit cut it, what would have followed is unknown, and the
    critic is held to the part that was played: it promised Q(s, a) in all and gamma^n * Q(s', actor(s')) of that for
    what follows the last observation s', so p = Q(s, a) - gamma^n * Q(s', actor(s')) for the part played. (Adding the
    tail to g and comparing with Q(s, a) gives the same difference.) In p the critic's own word takes a part of its
    error away: of an error b that it makes everywhere, (1 - gamma^n) * b is left. That share is known, so it is set
    right by dividing sums: b = sum(p - g) / sum(1 - gamma^n). Hence a critic that is right is found right, and one
    that is wrong by a constant or by a factor is found wrong by just that, whatever the time limit. An error that
    differs from state to state is not so kind, so states of whose discount less than half was played are left out:
    HalfCheetah keeps 932 of 1,000, Pendulum 132 of 200. Leaving out every tail above 1 % instead would keep 542 and
    none.

    Args:
        agent: whose critics and actor.
        trajectories: episodes that the actor has played without noise, one or more; observations as the networks
            take them.

    Returns:
        The numbers that docs/health.md explains under "From an evaluation"; all but `states` are None where there is
        no state to compare.
    """
    # Copies: looking changes nothing.
    critic, actor = copy.deepcopy(agent.critic_net()), copy.deepcopy(agent.policy_net())
    # A row a state: obtained, promised by Q1, promised by the smaller of the two, share of the discount played.
    with _still(critic, actor):
        rows = np.concatenate([_states(agent, critic, actor, played) for played in trajectories])  # (states, 4)
    rows = rows[rows[:, 3] >= PLAYED]
    obtained, q1, min_q, played = rows.sum(axis=0)
    size = np.abs(rows[:, 0]).sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # no state, or nothing obtained: no number
        numbers = {
            "states": np.float64(len(rows)),
            "obtained": obtained / played,
            "q1_bias": (q1 - obtained) / played,
            "min_q_bias": (min_q - obtained) / played,
            "q1_bias_ratio": (q1 - obtained) / size,
            "min_q_bias_ratio": (min_q - obtained) / size,
        }
    return _finite({name: float(value) for name, value in numbers.items()})


def _states(agent: TD3, critic: nn.Module, actor: nn.Module, played: Trajectory) -> NDArray[np.float64]:
    """Return (T, 4): what each state gave, what Q1 and the smallest Q promised of that, and 1 - gamma^n."""
    gamma, steps = agent.config.gamma, len(played.reward)
    q = torch.stack(_opinions(critic, _tensor(agent, played.obs), _tensor(agent, played.action)))  # (critics, T)
    final_obs = _tensor(agent, played.final_obs[None])  # (1, S)
    final_q = torch.stack(_opinions(critic, final_obs, actor(final_obs)))  # (critics, 1)
    tail = np.zeros(steps) if played.terminated else gamma ** np.arange(steps, 0, -1.0)  # (T,)
    promised_q1 = _array(q[0]) - tail * _array(final_q[0])
    promised_min_q = _array(q.amin(0)) - tail * _array(final_q.amin(0))
    return np.stack([obtained_from(played.reward, gamma), promised_q1, promised_min_q, 1 - tail], axis=1)


def obtained_from(reward: NDArray[np.float32], gamma: float) -> NDArray[np.float64]:
    """Return what was obtained from every step on, (T,): the discounted sum of its reward and all behind it."""
    obtained = np.zeros(len(reward) + 1)
    for t in reversed(range(len(reward))):
        obtained[t] = reward[t] + gamma * obtained[t + 1]
    return obtained[:-1]


def _tensor(agent: TD3, values: NDArray[np.float32]) -> Tensor:
    return torch.as_tensor(values, device=agent.device)


def _array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array
