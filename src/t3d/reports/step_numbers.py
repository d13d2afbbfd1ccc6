"""What each step did to the batch: of the transitions that are followed number by number, of all of it in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.config import Config
from t3d.diagnosis.explained import Followed, Update
from t3d.reports.wording import MINUS, percent

Row = tuple[str, list[str]]  # a name, and of each transition that is followed its number
_Said = NDArray[Any] | None  # None where a changed algorithm does not say it
_MEMORY = "Adam remembers the batches before, too, and a single step may lead away from this one's good"
_MOST = 4  # numbers of an action that are shown


def told(step: int, update: Update, followed: Sequence[Followed], config: Config) -> tuple[list[Row], list[str]]:
    """Return the rows of a step's table, and what is to be said of the whole batch: what the algorithm says of it.

    Args:
        step: 4 to 15.
        update: the batch.
        followed: which of its transitions the rows are of.
        config: the run's options.
    """
    at = [one.row for one in followed]
    return [row for row in _ROWS[step](update, at) if row[1]], _FACTS[step](update, config)


def figure(value: float) -> str:
    """Write a number with four digits: 1,234, 12.34, 0.01234, 6e−08."""
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1_000 else f"{size:.4g}" if size >= 1e-4 else f"{size:.1g}"
    return (MINUS if value < 0 and size else "") + text.replace("-", MINUS)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    text = figure(value)
    return text if text.startswith(MINUS) or text == "0" else f"+{text}"


def _of(values: _Said, at: Sequence[int], write: Callable[[float], str] = figure) -> list[str]:
    if values is None:
        return []
    if values.ndim == 1:
        return [write(float(values[i])) for i in at]
    more = ", …" if values.shape[1] > _MOST else ""
    return [", ".join(write(float(value)) for value in values[i][:_MOST]) + more for i in at]


def _minus(first: _Said, second: _Said) -> _Said:
    return None if first is None or second is None else first - second


def _squared(values: _Said) -> _Said:
    return None if values is None else np.square(values)


def _size(values: NDArray[Any]) -> str:
    return figure(float(np.abs(values).mean()))


def _share(values: NDArray[np.bool_]) -> str:
    return percent(float(values.mean()))


def _taken(update: Update, at: Sequence[int]) -> list[str]:
    if update.next_q is None or update.next_q1 is None:
        return []
    return ["Q1" if update.next_q1[i] == update.next_q[i] else "Q2" for i in at]


def _apart(update: Update) -> _Said:
    """Return how far the twins are apart over what follows."""
    apart = _minus(update.next_q1, update.next_q2)
    return None if apart is None else np.abs(apart)


def _target(update: Update, at: Sequence[int]) -> list[str]:
    if update.next_q is None:
        return []
    parts = [update.reward, update.discount, 1 - update.terminated, update.next_q]
    return [" · ".join(figure(float(part[i])) for part in parts).replace(" · ", " + ", 1) for i in at]


_ROWS: dict[int, Callable[[Update, Sequence[int]], list[Row]]] = {
    4: lambda u, at: [("reward", _of(u.reward, at)), ("terminated", _of(u.terminated, at))],
    5: lambda u, at: [("next_action", _of(u.next_action, at))],
    6: lambda u, at: [
        ("next_action before", _of(u.next_action, at)),
        ("what was added", _of(_minus(u.smoothed, u.next_action), at, signed)),
        ("next_action", _of(u.smoothed, at)),
        ("target changed by", _of(u.target_q - u.target_q_unsmoothed, at, signed)),
    ],
    7: lambda u, at: [("next_q1", _of(u.next_q1, at)), ("next_q2", _of(u.next_q2, at))],
    8: lambda u, at: [
        ("taken", _taken(u, at)),
        ("next_q", _of(u.next_q, at)),
        ("below the other by", _of(None if u.next_q is None else _apart(u), at)),
    ],
    9: lambda u, at: [("r + γ · (1 − end) · next_q", _target(u, at)), ("target_q", _of(u.target_q, at))],
    10: lambda u, at: [("q1", _of(u.q1, at)), ("q2", _of(u.q2, at)), ("target_q", _of(u.target_q, at))],
    11: lambda u, at: [
        ("(q1 − target_q)²", _of(np.square(u.q1 - u.target_q), at)),
        ("(q2 − target_q)²", _of(_squared(_minus(u.q2, u.target_q)), at)),
    ],
    12: lambda u, at: [
        ("q1 moved by", _of(u.q1_after - u.q1, at, signed)),
        ("q2 moved by", _of(_minus(u.q2_after, u.q2), at, signed)),
        ("q1 should move by", _of(u.target_q - u.q1, at, signed)),
    ],
    13: lambda u, at: [
        ("actor(s)", _of(u.played, at)),
        ("it moved by", _of(u.played_after - u.played, at, signed)),
        ("Q1 of it", _of(u.played_q1, at)),
        ("Q1 moved by", _of(u.played_q1_after - u.played_q1, at, signed)),
    ],
    14: lambda u, at: [("actor(s′) − actor target(s′)", _of(u.actor_lag, at, signed))],
    15: lambda u, at: [("Q1(s, a) − Qt1(s, a)", _of(u.critic_lag, at, signed))],
}


def _sampled(update: Update, _: Config) -> list[str]:
    ages = f"They are {int(update.age.min()):,} to {int(update.age.max()):,} env steps old"
    return [f"{ages}; {_share(update.terminated > 0)} of them truly ended their episode."]


def _played(update: Update, _: Config) -> list[str]:
    if update.next_action is None:
        return []
    return [f"{_share(np.abs(update.next_action) > 0.99)} of these actions lie at their bounds."]


def _smoothed(update: Update, config: Config) -> list[str]:
    added, change = _minus(update.smoothed, update.next_action), update.target_q - update.target_q_unsmoothed
    facts = []
    if added is not None and update.smoothed is not None:
        clamped = f"; {_share(np.abs(update.smoothed) >= 1)} of the sums were clamped to the range"
        facts.append(f"The noise moved a′ by {_size(added)} on average{'' if 6 in update.changed else clamped}.")
    return [
        *facts,
        f"That moved a target by {_size(change)} on average, at most by {figure(float(np.abs(change).max()))}, "
        f"and all of them together by {signed(float(change.mean()))}.",
        f"policy_noise is {config.td3.policy_noise:g}, noise_clip {config.td3.noise_clip:g}.",
    ]


def _valued(update: Update, _: Config) -> list[str]:
    apart = _apart(update)
    if apart is None or update.next_q1 is None or update.next_q2 is None:
        return []
    means = [figure(float(values.mean())) for values in (update.next_q1, update.next_q2)]
    return [f"On average Qt1 says {means[0]} and Qt2 {means[1]}; they differ by {_size(apart)}."]


def _kept(update: Update, _: Config) -> list[str]:
    apart = _apart(update)
    if update.next_q is None or update.next_q1 is None or apart is None:
        return []
    below = apart / 2
    return [
        f"Q1 was taken in {_share(update.next_q1 == update.next_q)} of the batch, else Q2.",
        f"The smaller lies {_size(below)} below the mean of both: so much caution goes into this batch's targets.",
    ]


def _aimed(update: Update, config: Config) -> list[str]:
    said = f"gamma is {config.td3.gamma:g}: a reward in {_horizon(config)} steps counts half."
    if update.terminated.any() and 9 not in update.changed:
        said += f" In {int(update.terminated.sum())} transitions the target is the reward alone."
    return [said]


def _horizon(config: Config) -> str:
    gamma = config.td3.gamma
    return f"{math.log(0.5) / math.log(gamma):,.0f}" if 0 < gamma < 1 else "no number of"


def _said(update: Update, _: Config) -> list[str]:
    high = update.q1 > update.target_q
    return [
        f"Q1 lies above its target in {_share(high)} of the batch, and is off by {_size(update.q1 - update.target_q)}."
    ]


def _lost(update: Update, _: Config) -> list[str]:
    what = "" if 11 in update.changed else ": the mean square of both errors, added"
    return [f"The loss is {figure(update.critic_loss)}{what}."]


def _learned(update: Update, config: Config) -> list[str]:
    nearer = np.abs(update.q1_after - update.target_q) < np.abs(update.q1 - update.target_q)
    fact = f"Q1 came nearer to {_share(nearer)} of its targets."
    if not update.changed & {10, 11}:  # another loss is not known after the move
        downhill = "" if update.critic_loss_after < update.critic_loss else f" It is not less: {_MEMORY}."
        losses = f"from {figure(update.critic_loss)} to {figure(update.critic_loss_after)}"
        fact = f"The loss on this same batch went {losses}; {fact}{downhill}"
    return [
        fact,
        f"The weights moved by {_parts(update.critic_move)} of their length; lr is {config.td3.lr:g}.",
    ]


def _climbed(update: Update, config: Config) -> list[str]:
    delay = config.td3.policy_delay
    turn = "has its turn" if update.actor_moves else "rests"
    gain = float((update.played_q1_after - update.played_q1).mean())
    pulled = ", and pre_tanh_weight pulls its own way" if config.td3.pre_tanh_weight > 0 else ""
    uphill = "" if gain > 0 else f" It is not uphill: {_MEMORY}{pulled}."
    return [
        f"This would be update {update.number:,}, and policy_delay is {delay}: the actor {turn}."
        + ("" if update.actor_moves else " Shown is what its turn would do."),
        f"On average Q1 of its actions went from {figure(float(update.played_q1.mean()))} by {signed(gain)}, "
        f"and its weights moved by {_parts(update.actor_move)} of their length.{uphill}",
    ]


def _followed(distance: tuple[float, float], config: Config, is_own: bool) -> str:
    halves = f"{math.ceil(math.log(2) / -math.log1p(-config.td3.tau)):,}" if 0 < config.td3.tau < 1 else "1"
    tau = f" With tau {config.td3.tau:g} it goes half of the way to what stands still in {halves} moves."
    moved = f"Its weights were {_parts(distance[0])} of their length behind, and then {_parts(distance[1])}."
    return moved if is_own else moved + tau


def _actor_followed(update: Update, config: Config) -> list[str]:
    return [
        _followed(update.actor_distance, config, 14 in update.changed),
        f"In s′ its actions are {_size(update.actor_lag)} behind on average.",
    ]


def _critic_followed(update: Update, config: Config) -> list[str]:
    return [
        _followed(update.critic_distance, config, 15 in update.changed),
        f"In (s, a) Qt1 is {_size(update.critic_lag)} behind on average.",
    ]


def _parts(share: float) -> str:
    """Write a small share: 4.9 %, 0.058 %."""
    return f"{figure(100 * share)}\N{NO-BREAK SPACE}%"


_FACTS: dict[int, Callable[[Update, Config], list[str]]] = {
    4: _sampled,
    5: _played,
    6: _smoothed,
    7: _valued,
    8: _kept,
    9: _aimed,
    10: _said,
    11: _lost,
    12: _learned,
    13: _climbed,
    14: _actor_followed,
    15: _critic_followed,
}
