"""Which trials of a study play on: pure decisions from what was seen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from t3d.formats import Record

Curve = dict[int, float]  # mean return of each evaluation, by env steps


class Outcome(Record, frozen=True):
    """How a seed of a trial ended."""

    end: Literal["finished", "stopped", "failed"]
    curve: list[tuple[int, float]]  # env steps and mean return of each evaluation
    problem: str = ""  # of one that failed

    @property
    def score(self) -> float | None:
        """The mean return of the last fifth of its evaluations, if it finished."""
        if self.end != "finished" or not self.curve:
            return None
        last = -(-len(self.curve) // 5)
        return statistics.fmean(value for _, value in self.curve[-last:])


Outcomes = Mapping[int, Outcome]  # by seed's index


def value_of(outcomes: Outcomes, worst: float | None) -> float | None:
    """Return the mean of a trial's seeds; one that failed counts as the worst that was ever seen.

    Args:
        outcomes: of its seeds, none of them stopped.
        worst: the lowest score of any seed of the study.

    Returns:
        None where nothing can be said: nothing finished, here or elsewhere.
    """
    scores = [worst if outcome.end == "failed" else outcome.score for outcome in outcomes.values()]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known and len(known) == len(scores) else None


def worst_of(trials: Iterable[Outcomes]) -> float | None:
    """Return the lowest score of any seed."""
    return min((s for outcomes in trials for o in outcomes.values() if (s := o.score) is not None), default=None)


def falls_behind(curve: Curve, steps: int, best: Outcomes, others: Sequence[Outcome]) -> bool:
    """Return whether a seed is to be stopped at its last evaluation.

    It is after a third of its steps, when it lies below the worst seed of the best trial at the same env steps, and
    below the median of all other seeds there.

    Args:
        curve: what it has come to.
        steps: env steps that it is to be trained for.
        best: the seeds of the best trial that was played to its end.
        others: every other seed of the study, the best trial's among them.
    """
    if not curve or 3 * max(curve) < steps:
        return False
    at = max(curve)
    of_best = [dict(outcome.curve).get(at) for outcome in best.values()]
    of_all = [value for outcome in others if (value := dict(outcome.curve).get(at)) is not None]
    known = [value for value in of_best if value is not None]
    return bool(known) and curve[at] < min(known) and curve[at] < statistics.median(of_all)


def plays_on(outcomes: Outcomes, every: Iterable[Outcomes]) -> bool:
    """Return whether a trial whose first seed has ended is of the better half, and plays its other seeds.

    Args:
        outcomes: of its seeds.
        every: those of every trial of the study, this one among them.
    """
    score = outcomes[0].score
    if score is None:
        return False
    # A first seed that was stopped or failed lies below every one that was not.
    firsts = [-float("inf") if (s := trial[0].score) is None else s for trial in every if 0 in trial]
    return score >= statistics.median_high(firsts) if len(firsts) > 1 else True
