"""One batch through steps 4 to 15, an episode under the critics' eyes, and a map: the numbers of `t3d explain`.

Everything is computed by the agent's own methods, on copies: what passes between two steps of one function is heard
by hooks on the networks, not computed a second time.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.diagnosis import health
from t3d.diagnosis.explained import Floats, Followed, Judged, Plane, Update
from t3d.diagnosis.own_steps import own_steps
from t3d.networks import Seeing
from t3d.replay import Batch
from t3d.td3 import TD3

GRID = 48  # places a side of a map
_NEAR = 1  # places around one that count as near it
_ON_CIRCLE = 1e-3

_Calls = list[tuple[Any, Any]]  # what a network is given, and what it answers

# From observations as an environment gives them, (N, S), to what the networks take.
Seen = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def through_the_steps(
    agent: TD3, batch: Batch[NDArray[np.float32]], noise: NDArray[np.float32], age: NDArray[np.intp], seen: Seen
) -> Update:
    """Take a batch through steps 4 to 15.

    Args:
        agent: TD3 itself, or one that takes its steps (`own_steps.takes_the_steps`); nothing of it changes.
        batch: B transitions, as the memory samples them.
        noise: (B, A) standard normal, as for `TD3.update`.
        age: (B,) how many env steps ago each transition was made.
        seen: brings observations to what the networks take.
    """
    arrays = batch._replace(obs=seen(batch.obs), next_obs=seen(batch.next_obs))
    given = Batch(*(torch.as_tensor(part, device=agent.device) for part in arrays))
    drawn = torch.as_tensor(noise, device=agent.device)
    moved, changed = copy.deepcopy(agent), frozenset(step for own in own_steps(type(agent)) for step in own.steps)
    through_encoder = moved.seen(given)
    # Steps 5 to 9.
    plays, judges = map(_behind_encoder, moved.target_nets())
    with _heard(plays) as played, _heard(judges) as judged:
        target_q = moved.target_q(through_encoder, drawn)
    numbers = _asked(played, judged, taken_is_smaller=8 not in changed) | {
        "target_q": target_q,
        "target_q_unsmoothed": moved.target_q(through_encoder, torch.zeros_like(drawn)),
    }
    numbers |= _lags(moved, given) | _moves(moved, given, through_encoder, target_q)
    numbers = {name: _array(value) if isinstance(value, Tensor) else value for name, value in numbers.items()}
    numbers |= {name: _array(value) for name, value in batch._asdict().items()}
    looked = health.from_batch(agent, arrays, noise, age)
    return Update(
        **numbers,
        changed=changed,
        age=age,
        number=agent.updates + 1,
        actor_moves=(agent.updates + 1) % agent.config.policy_delay == 0,
        critic_move=looked["critic_move"] or 0.0,
        actor_move=looked["actor_move"] or 0.0,
    )


def _asked(played: _Calls, judged: _Calls, taken_is_smaller: bool) -> dict[str, Any]:
    """Return what the target networks were asked on the way to a target, and said; None where it was not once each."""
    numbers: dict[str, Any] = dict.fromkeys(("next_action", "smoothed", "next_q1", "next_q2", "next_q"))
    if len(played) == 1:
        numbers["next_action"] = played[0][1]
    if len(judged) == 1:
        (_, numbers["smoothed"]), said = judged[0]
        if len(said) == 2:
            numbers["next_q1"], numbers["next_q2"] = said
            numbers["next_q"] = torch.minimum(*said) if taken_is_smaller else None
    return numbers


def _moves(moved: TD3, batch: Batch[Tensor], through_encoder: Batch[Tensor], target_q: Tensor) -> dict[str, Any]:
    """Make steps 10 to 15; return what is seen before and after each."""
    actor, critic = moved.policy_net(), moved.critic_net()
    with torch.no_grad():
        said = critic(batch.obs, batch.action)
    critic_loss, _, _ = moved.update_critic(through_encoder, target_q)
    with torch.no_grad():
        said_after = critic(batch.obs, batch.action)
        played = actor(batch.obs)
        played_q1 = critic(batch.obs, played)[0]
    actor_loss = moved.update_actor(moved.without_encoder(through_encoder))
    with torch.no_grad():
        played_after = actor(batch.obs)
        played_q1_after = critic(batch.obs, played_after)[0]
    before = _distance(moved.actor, moved.actor_target), _distance(moved.critic, moved.critic_target)
    moved.update_targets()
    after = _distance(moved.actor, moved.actor_target), _distance(moved.critic, moved.critic_target)
    return {
        "q1": said[0],
        "q2": said[1] if len(said) == 2 else None,
        "q1_after": said_after[0],
        "q2_after": said_after[1] if len(said) == 2 else None,
        "critic_loss": float(critic_loss),
        "critic_loss_after": float(sum((q - target_q).square().mean() for q in said_after)),
        "played": played,
        "played_after": played_after,
        "played_q1": played_q1,
        "played_q1_after": played_q1_after,
        "actor_loss": float(actor_loss),
        "actor_distance": (before[0], after[0]),
        "critic_distance": (before[1], after[1]),
    }


@torch.no_grad()
def _lags(agent: TD3, batch: Batch[Tensor]) -> dict[str, Tensor]:
    """Return how the targets' answers differ from those of the networks they follow."""
    plays, judges = agent.target_nets()
    said, said_by_target = (net(batch.obs, batch.action)[0] for net in (agent.critic_net(), judges))
    return {
        "actor_lag": agent.policy_net()(batch.next_obs) - plays(batch.next_obs),
        "critic_lag": said - said_by_target,
    }


def _behind_encoder(net: nn.Module) -> nn.Module:
    """Return the part of a network that an update asks itself: of images it has the features already."""
    return net.body if isinstance(net, Seeing) else net


@contextlib.contextmanager
def _heard(net: nn.Module) -> Iterator[_Calls]:
    """Keep what a network is given and what it answers, call by call."""
    calls: _Calls = []
    hook = net.register_forward_hook(lambda module, given, answer: calls.append((given, answer)))
    try:
        yield calls
    finally:
        hook.remove()


@torch.no_grad()
def _distance(online: nn.Module, target: nn.Module) -> float:
    pairs = list(zip(online.parameters(), target.parameters(), strict=True))
    apart = torch.stack([(fast - slow).double().square().sum() for fast, slow in pairs]).sum().sqrt()
    return float(apart / torch.stack([fast.double().square().sum() for fast, _ in pairs]).sum().sqrt())


def _array(values: Any) -> Floats:
    array: Floats = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.copy()


def choose(update: Update) -> list[Followed]:
    """Return three transitions that are worth following, or as many as the batch has."""
    if update.next_q1 is None or update.next_q2 is None:
        apart = np.zeros(len(update.reward))
    else:
        apart = np.abs(update.next_q1 - update.next_q2) * (1 - update.terminated)
    smoothing = np.abs(update.target_q - update.target_q_unsmoothed)
    middle = np.argsort(update.target_q, kind="stable")[(len(apart) - 1) // 2]
    ranked = [
        (np.array([middle]), "its target lies in the middle of the batch"),
        (np.argsort(-apart, kind="stable")[: np.count_nonzero(apart)], "the twins disagree most about what follows it"),
        (np.flatnonzero(update.terminated), "its episode truly ended with it"),
        (np.argsort(-smoothing, kind="stable"), "smoothing changed its target most"),
        (np.arange(len(apart)), "it is the next of the batch"),
        (np.arange(len(apart)), "it is the next of the batch"),
    ]
    chosen: list[Followed] = []
    for indices, why in ranked:
        left = [int(i) for i in indices if int(i) not in [followed.row for followed in chosen]]
        if left and len(chosen) < 3:
            chosen.append(Followed(left[0], why))
    return chosen


@torch.no_grad()
def judge(agent: TD3, episode: health.Trajectory) -> Judged:
    """Return what the critics said at every step of an episode, and what was really obtained from there on.

    Args:
        agent: whose critics.
        episode: observations as the networks take them.
    """
    gamma, steps = agent.config.gamma, len(episode.reward)
    q1, q2 = _twins(agent, _tensor(agent, episode.obs), _tensor(agent, episode.action))  # (T,), (T,)
    final_obs = _tensor(agent, episode.final_obs[None])  # (1, S)
    final_q = float(torch.minimum(*_twins(agent, final_obs, agent.policy_net()(final_obs))))
    word = np.zeros(steps) if episode.terminated else gamma ** np.arange(steps, 0, -1.0)
    obtained = health.obtained_from(episode.reward, gamma)
    return Judged(
        action=episode.action,
        reward=episode.reward,
        q1=_array(q1),
        q2=_array(q2),
        obtained=(obtained + word * final_q).astype(np.float32),
        word=word.astype(np.float32),
        terminated=episode.terminated,
    )


def _twins(agent: TD3, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the first critic says, and the last: the same where a changed algorithm has but one."""
    said = agent.critic_net()(obs, action)
    return said[0], said[-1]


def _tensor(agent: TD3, values: NDArray[np.float32]) -> Tensor:
    return torch.as_tensor(values, device=agent.device)


def plane_of(
    agent: TD3, held: NDArray[np.float32], seen: Seen, batch: NDArray[np.float32], episode: NDArray[np.float32]
) -> Plane | None:
    """Return a map of Q and of the policy where observations have a place on a plane; None where they have not.

    Args:
        agent: whose critics and actor.
        held: (N, S) every observation of the memory, or of what else is known, raw as all of these.
        seen: brings observations to what the networks take.
        batch: (B, S) those of the batch.
        episode: (T, S) those of the episode.
    """
    angle = _is_angle(held)
    if not len(held) or not (held.shape[1] == 2 or angle):
        return None
    place = _place_by_angle if angle else _place
    at = place(held)
    low, high = at.min(axis=0), at.max(axis=0)
    if angle:
        low[0], high[0] = -np.pi, np.pi
    high = np.where(high > low, high, low + 1)
    across, up = (np.linspace(low[i], high[i], GRID, dtype=np.float32) for i in range(2))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)  # (rows * columns, 2), row by row
    obs = np.column_stack([np.cos(points[:, 0]), np.sin(points[:, 0]), points[:, 1]]) if angle else points
    tensor = _tensor(agent, seen(obs.astype(np.float32)))
    with torch.no_grad():
        action = agent.policy_net()(tensor)
        q = torch.minimum(*_twins(agent, tensor, action))
    first = "angle, of observations 1 and 2" if angle else "observation 1"
    return Plane(
        names=(first, f"observation {3 if angle else 2}"),
        low=(float(low[0]), float(low[1])),
        high=(float(high[0]), float(high[1])),
        q=_array(q).reshape(GRID, GRID),
        action=_array(action).T.reshape(-1, GRID, GRID),
        seen=_near(at, low, high),
        batch=place(batch),
        episode=place(episode),
    )


def _is_angle(obs: NDArray[np.float32]) -> bool:
    """Return whether of three numbers the first two are a cosine and a sine."""
    return obs.shape[1] == 3 and bool((np.abs(np.square(obs[:, :2]).sum(axis=1) - 1) < _ON_CIRCLE).all())


def _place(obs: NDArray[np.float32]) -> Floats:
    return obs.reshape(-1, 2)


def _place_by_angle(obs: NDArray[np.float32]) -> Floats:
    return np.column_stack([np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]]).astype(np.float32)


def _near(at: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Return (GRID, GRID): whether one of the places `at` is near; rows are the second number."""
    cells = np.rint((at - low) / (high - low) * (GRID - 1)).astype(int)
    there = np.zeros((GRID + 2 * _NEAR,) * 2, bool)
    for right in range(2 * _NEAR + 1):
        for up in range(2 * _NEAR + 1):
            there[cells[:, 1] + up, cells[:, 0] + right] = True
    return there[_NEAR:-_NEAR, _NEAR:-_NEAR]
