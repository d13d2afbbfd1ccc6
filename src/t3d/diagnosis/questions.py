"""Four questions about a training run, answered from the rows of its metrics.jsonl alone.

What is wrong is said by the hints, whose thresholds hold here, too; a question is also answered where all is well, and
where nothing can be said it says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from t3d.diagnosis.hints import DISAGREEING, KNOWING_NOTHING, LOOKS, NETWORKS, RULING_SHARE, Hint, Row, hints, number


class Answer(NamedTuple):
    """What can be said."""

    is_well: bool | None  # None: nothing can be said
    verdict: str  # a word or two
    evidence: str  # the reason, where nothing can be said
    size: float = 0.0  # of what was asked for: the larger, the worse


class Question(NamedTuple):
    """What is asked of a run, and which steps of TD3 answer for it."""

    name: str
    text: str
    steps: tuple[int, ...]
    hints: tuple[str, ...]  # those that say that it is not well


QUESTIONS = (
    Question("promises", "Do the critics promise too much?", (7, 8, 9), ("over-estimation",)),
    Question("twins", "Do the twins agree?", (3, 8, 11), ()),
    Question("bounds", "Is the actor stuck at its bounds?", (2, 13), ("actions at the bound",)),
    Question("networks", "Is anything dead, exploding or stale?", (4, 12, 13), ("values explode", "dead units")),
)


def answers(rows: Sequence[Row]) -> dict[str, Answer]:
    """Answer every question as a run now stands.

    Args:
        rows: rows of metrics.jsonl in their order, of any kind; those of kind `health` are read.

    Returns:
        The answers by their question's name.
    """
    health = [row for row in rows if row["kind"] == "health"]
    batches = [row for row in health if row["of"] == "batch"]
    evaluations = [row for row in health if row["of"] == "evaluation"]
    found = {hint.name: hint for hint in hints(health)}
    asked = {
        "promises": lambda: _promises(evaluations),
        "twins": lambda: _twins(batches),
        "bounds": lambda: _bounds(batches),
        "networks": lambda: _networks(batches),
    }
    return {each.name: _wrong([found[n] for n in each.hints if n in found]) or asked[each.name]() for each in QUESTIONS}


def _wrong(said: Sequence[Hint]) -> Answer | None:
    return Answer(False, "Yes.", "; and ".join(map(str, said)), math.inf) if said else None


def _last(rows: Sequence[Row], name: str) -> list[float] | Answer:
    """Return a number at the last looks that have it, or why that is not enough."""
    values = [float(row[name]) for row in rows if row[name] is not None]
    if len(values) >= LOOKS:
        return values[-LOOKS:]
    looks = {"batch": "looks at a batch", "evaluation": "evaluations after the first update"}
    if not rows:
        return Answer(None, "Too early to say.", "it has not looked at itself yet, which begins with the first update")
    if len(rows) < LOOKS:
        return Answer(
            None, "Too early to say.", f"a verdict takes {LOOKS} {looks[rows[0]['of']]}, here are {len(rows)}"
        )
    return Answer(None, "It cannot be said.", _WITHOUT[name])


# Why a number may not be there at any look.
_WITHOUT = {
    "min_q_bias_ratio": "nothing was obtained to compare with, or episodes are so short beside the discount's horizon "
    "that most of a promise lies behind their time limit",
    "disagreement": "there are not two critics to compare, or both say 0 of everything",
    "q1_target_share": "there are not two critics to compare",
    "saturated_share": "its actor's actions are not finite",
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _promises(evaluations: Sequence[Row]) -> Answer:
    ratios = _last(evaluations, "min_q_bias_ratio")
    if isinstance(ratios, Answer):
        return ratios
    seen = [row for row in evaluations if row["min_q_bias_ratio"] is not None][-LOOKS:]
    obtained = _mean([row["obtained"] for row in seen])
    promised = obtained + _mean([row["min_q_bias"] for row in seen])
    ratio = _mean(ratios)
    much = "much" if ratio > 0 else "little"
    evidence = (
        f"over the last {LOOKS} evaluations they promise {number(promised)} where {number(obtained)} is obtained, "
        f"{abs(ratio):,.0%} too {much}"
    )
    if ratio > KNOWING_NOTHING:
        return Answer(False, "Yes.", f"{evidence}, and critics that know nothing are not further off", ratio)
    if ratio < -KNOWING_NOTHING:
        evidence += ", and critics that know nothing are not further off: these cannot be believed"
        return Answer(False, "Far too little.", evidence, -ratio)
    return Answer(True, "No.", evidence, ratio)


def _twins(batches: Sequence[Row]) -> Answer:
    apart, share = _last(batches, "disagreement"), _last(batches, "q1_target_share")
    if isinstance(apart, Answer):
        return apart
    if isinstance(share, Answer):
        return share
    size, smaller = _mean(apart), _mean(share)
    evidence = f"Q1 and Q2 are {size:.1%} of their size apart, and Q1 is the smaller in {smaller:.0%} of the targets"
    if size > DISAGREEING:
        return Answer(
            False, "Not well.", f"{evidence}: of runs that go well none had them {DISAGREEING:.0%} apart", size
        )
    if not 1 - RULING_SHARE <= smaller <= RULING_SHARE:
        return Answer(False, "One of them rules.", f"{evidence}: the other one is hardly asked", size)
    return Answer(True, "Yes.", evidence, size)


def _bounds(batches: Sequence[Row]) -> Answer:
    shares = _last(batches, "saturated_share")
    if isinstance(shares, Answer):
        return shares
    size = _mean(shares)
    return Answer(True, "No.", f"{size:.0%} of its actions are at a bound: nearly all would be an alarm", size)


def _networks(batches: Sequence[Row]) -> Answer:
    if len(batches) < LOOKS:
        early = _last(batches, "q_scale")
        assert isinstance(early, Answer)
        return early
    last = batches[-LOOKS:]
    for name in ("critic", "actor"):
        if all(row[f"{name}_gradient"] == 0 for row in last):
            return Answer(
                False, "Yes.", f"the {name} stands still: its gradient is 0 at {LOOKS} looks in a row", math.inf
            )
    dead = max((row.get(f"dead_{name}") or 0.0 for row in last for name in NETWORKS), default=0.0)
    now = batches[-1]
    parts = [f"at most {dead:.0%} of a layer's units are dead"]
    if now["q_scale"] is not None and now["value_bound"] is not None:
        parts.append(
            f"values have a size of {number(now['q_scale'])}, where the rewards seen can be worth "
            f"{number(now['value_bound'])}"
        )
    parts.append("both networks move")
    if now["replay_age"] is not None:
        parts.append(f"a transition of the batch is {number(now['replay_age'])} env steps old on average")
    return Answer(True, "No.", ", ".join(parts), dead)
