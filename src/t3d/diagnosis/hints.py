"""What is wrong with a training run, in plain words with the evidence, from the rows of its metrics.jsonl alone.

A pure function of the rows: a run that was interrupted and goes on says the same, and so does whoever reads its folder
later. `docs/health.md` lists the hints; tests/test_hints.py provokes each in a real training run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

# So many looks in a row must agree: one batch or one unlucky evaluation is no evidence.
LOOKS = 3
# Good policies push to the bound often (the healthy runs of tests/test_hints.py, five seeds each: up to 0.88 of their
# actions on Pendulum, on InvertedPendulum at single looks all). Where nearly every action is there look after look,
# tanh passes hardly a gradient on, and the actor cannot come back.
SATURATED_SHARE = 0.95
# Fresh networks have units that a batch does not wake, and may keep them (those same runs: up to 0.75 of a layer). A
# layer with hardly any left passes hardly anything on; with none the network answers the same to everything.
DEAD_SHARE = 0.9
# No value can exceed the largest reward, for ever. Twice, as the batches may have missed the largest reward.
BEYOND_BOUND = 2.0
# Critics that know nothing yet say 0, which is 1 times too much where rewards are negative, and too little where they
# are positive; twice that is beyond ignorance.
KNOWING_NOTHING = 1.0
OVER_ESTIMATED = 2 * KNOWING_NOTHING
# Of transitions that end an episode: the mean episode has 3 steps or fewer.
ENDS_SHARE = 1 / 3
# A first layer made for numbers around 1 sees nothing else beside one of this size.
LARGE_OBS = 100.0
# No hint, as nothing that was tried made critics disagree without another fault. But of 26 seeds that went well (TD3,
# whole or without one idea, on Pendulum, Walker2d and HalfCheetah) none had them more than 0.084 of their size apart
# once a third of it was over, and Q1 was the smaller in 0.14 to 0.80 of a batch's targets.
DISAGREEING = 0.1
RULING_SHARE = 0.9


class Hint(NamedTuple):
    """Something that is wrong."""

    name: str  # two or three words, for a progress line
    since: int  # env steps at the first of the looks, without a gap up to the last one, at which it was so
    evidence: str
    cure: str

    def __str__(self) -> str:
        """Return it as one line for people."""
        return f"{self.evidence}; {self.cure}"


def hints(rows: Sequence[Row]) -> list[Hint]:
    """Say what is wrong at the last of a run's rows.

    Args:
        rows: rows of metrics.jsonl in their order, of any kind; those of kind `health` are read.

    Returns:
        The hints that hold now, gravest first; none where all is well, or where too little has been seen.
    """
    health = [row for row in rows if row["kind"] == "health"]
    batches = [row for row in health if row["of"] == "batch"]
    evaluations = [row for row in health if row["of"] == "evaluation"]
    noticed = [
        _ends_at_once(batches),
        _nothing_to_learn(batches),
        _exploding(batches),
        _saturated(batches),
        _dead(batches),
        _over_estimating(evaluations),
    ]
    return [hint for hint in noticed if hint is not None]


def _lasting(rows: Sequence[Row], wrong: Callable[[Row], bool]) -> Sequence[Row]:
    """Return the rows at the end, without a gap, at which something was wrong; none if they are too few."""
    start = len(rows)
    while start and wrong(rows[start - 1]):
        start -= 1
    return rows[start:] if len(rows) - start >= LOOKS else []


def _above(row: Row, name: str, limit: float) -> bool:
    # None: there was no such number.
    return row.get(name) is not None and bool(row[name] > limit)


def _ends_at_once(batches: Sequence[Row]) -> Hint | None:
    rows = _lasting(batches, lambda row: _above(row, "terminated_share", ENDS_SHARE))
    if not rows:
        return None
    share, since = rows[-1]["terminated_share"], rows[0]["env_steps"]
    return Hint(
        "episodes end at once",
        since,
        f"{share:.0%} of all transitions end their episode since step {since:,}",
        "look at the environment's condition for an end with t3d check, unless its tasks are that short",
    )


def _nothing_to_learn(batches: Sequence[Row]) -> Hint | None:
    # Since the first look: one other reward, seen once, is something to learn from.
    if len(batches) < LOOKS or any(row["reward_std"] != 0 for row in batches):
        return None
    reward = batches[-1]["reward_mean"]
    ends = any(row["terminated_share"] > 0 for row in batches)
    if (ends and reward != 0) or any(row["reward_mean"] != reward for row in batches):
        return None  # the same reward for every step: then longer lives, or shorter ones, can be learned
    since = batches[0]["env_steps"]
    return Hint(
        "rewards all the same",
        since,
        f"every reward looked at since step {since:,} was {number(reward)}",
        "there is nothing to learn from until another is met: raise --random-steps or --exploration-noise, or give "
        "the environment rewards on the way",
    )


def _exploding(batches: Sequence[Row]) -> Hint | None:
    # Without a discount (gamma = 1) there is no bound.
    bounds = [row["value_bound"] for row in batches if row["value_bound"] is not None]
    if not bounds or max(bounds) == 0:
        return None
    bound = max(bounds)
    rows = _lasting(batches, lambda row: _above(row, "q_scale", BEYOND_BOUND * bound))
    if not rows:
        return None
    since = rows[0]["env_steps"]
    return Hint(
        "values explode",
        since,
        f"the critics' values have a size of {number(rows[-1]['q_scale'])} since step {since:,}, and the rewards seen "
        f"cannot be worth more than {number(bound)}",
        f"{_calm(rows[-1])}, lower --updates-per-step, or in td3 lower --tau or normalise the critics "
        "(--layer-norm critic)",
    )


def _saturated(batches: Sequence[Row]) -> Hint | None:
    rows = _lasting(batches, lambda row: _above(row, "saturated_share", SATURATED_SHARE))
    if not rows:
        return None
    since = rows[0]["env_steps"]
    return Hint(
        "actions at the bound",
        since,
        f"{rows[-1]['saturated_share']:.0%} of actions at the bound since step {since:,}",
        f"{_calm(rows[-1])}, or in td7 raise --pre-tanh-weight (1e-5 where it is 0), unless full force is what "
        "the task asks for",
    )


NETWORKS = ("actor", "q1", "q2", "encoder")  # whose units may be dead; the encoder is that of images


def _dead(batches: Sequence[Row]) -> Hint | None:
    rows = _lasting(batches, lambda row: any(_above(row, f"dead_{name}", DEAD_SHARE) for name in NETWORKS))
    if not rows:
        return None
    worst = max(NETWORKS, key=lambda name: rows[-1].get(f"dead_{name}") or 0.0)
    since = rows[0]["env_steps"]
    return Hint(
        "dead units",
        since,
        f"{rows[-1][f'dead_{worst}']:.0%} of a hidden layer of {worst} is 0 whatever is seen, since step {since:,}",
        f"{_calm(rows[-1])}, or in td3 normalise the hidden layers (--layer-norm both), and begin anew: dead units "
        "stay dead",
    )


def _over_estimating(evaluations: Sequence[Row]) -> Hint | None:
    rows = _lasting(evaluations, lambda row: _above(row, "min_q_bias_ratio", OVER_ESTIMATED))
    if not rows:
        return None
    since, obtained = rows[0]["env_steps"], rows[-1]["obtained"]
    promised = obtained + rows[-1]["min_q_bias"]
    return Hint(
        "over-estimation",
        since,
        f"the critics promise {number(promised)} where evaluations obtain {number(obtained)}, too much since step "
        f"{since:,}",
        "lower --updates-per-step or --lr, raise --random-steps, or in td3 lower --tau or normalise the critics "
        "(--layer-norm critic)",
    )


def _calm(row: Row) -> str:
    """Return the first cure of networks driven too far: that of the observations, where these are the reason."""
    if not _above(row, "obs_scale", LARGE_OBS):
        return "lower --lr"
    dimension, scale = int(row["obs_scale_at"]), number(row["obs_scale"])
    return f"observation {dimension} has a scale of {scale}: normalise them (--normalize-obs) or lower --lr"


def number(value: float) -> str:
    """Write a number for people: 1.2e+06, 1,234, 12.3."""
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
