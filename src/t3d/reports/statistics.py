"""What several seeds say together: means and interquartile means with intervals, and whether two groups differ.

A value here is one number of one seed. Seeds are independent of each other; the episodes of one evaluation are not
independent of their seed, so they are averaged before they come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
# Below this neither an interquartile mean is shown nor a difference called.
FEWEST_SEEDS = 5
POWER = 0.8
MOST_SEEDS = 1_000

Floats = NDArray[np.float64]


class Band(NamedTuple):
    """A statistic at each of P points, and its interval; without one, low and high are None."""

    value: Floats  # (P,)
    low: Floats | None  # (P,)
    high: Floats | None  # (P,)


class Interval(NamedTuple):
    """A number with its interval; without one, low and high are None."""

    value: float
    low: float | None
    high: float | None


def mean(values: ArrayLike) -> Band:
    """Return the mean over seeds with Student's t interval.

    Args:
        values: (n, P), one row a seed. A single seed has no interval.
    """
    v = np.asarray(values, np.float64)
    n, centre = len(v), v.mean(axis=0)
    if n < 2:
        return Band(centre, None, None)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * v.std(axis=0, ddof=1) / np.sqrt(n)
    return Band(centre, centre - half, centre + half)


def interquartile_mean(values: ArrayLike, *, resamples: int = RESAMPLES) -> Band:
    """Return the mean of the middle half of the seeds with a percentile bootstrap interval over seeds.

    The lowest and the highest quarter are left out, each rounded down to whole seeds. All points share the resampled
    seeds, since a seed is drawn with its whole curve. The draws' own seed is fixed: equal values, equal interval.

    Args:
        values: (n, P), one row a seed.
        resamples: how often n seeds are drawn.
    """
    v = np.asarray(values, np.float64)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(len(v), size=(resamples, len(v)))
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    low, high = np.empty(v.shape[1]), np.empty(v.shape[1])
    for point, column in enumerate(v.T):
        low[point], high[point] = np.percentile(stats.trim_mean(column[drawn], 0.25, axis=1), tails)
    return Band(stats.trim_mean(v, 0.25, axis=0), low, high)


class Difference(NamedTuple):
    """Two groups compared: the first less the second."""

    mean: Interval  # of the first less that of the second, Welch's interval
    p_value: float | None  # Welch's test, two-sided; None where it is undefined
    improvement: Interval  # probability that a seed of the first beats one of the second
    called: bool  # whether a difference may be claimed
    seeds_needed: int | None  # in each group, if the difference is what it seems; None: more than MOST_SEEDS
    verdict: str


def compare(first: ArrayLike, second: ArrayLike) -> Difference:
    """Compare two groups of seeds.

    Args:
        first: (n,), one number a seed.
        second: (m,), the same of the other group.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    distance = float(a.mean() - b.mean())
    apart, p_value = Interval(distance, None, None), None
    if min(len(a), len(b)) > 1 and (a.std() > 0 or b.std() > 0):
        test = stats.ttest_ind(a, b, equal_var=False)
        around = test.confidence_interval(CONFIDENCE)
        apart, p_value = Interval(distance, float(around.low), float(around.high)), float(test.pvalue)
    enough = min(len(a), len(b)) >= FEWEST_SEEDS
    called = enough and p_value is not None and p_value < 1 - CONFIDENCE
    needed = seeds_needed(a, b) if p_value is not None else None
    verdict = _verdict(len(a), len(b), p_value, called, needed, distance)
    return Difference(apart, p_value, improvement(a, b), called, needed, verdict)


def _verdict(n: int, m: int, p_value: float | None, called: bool, needed: int | None, distance: float) -> str:
    if called:
        return f"A difference: the first is {'higher' if distance > 0 else 'lower'} (p = {p_value:.2g})."
    if p_value is None and min(n, m) > 1:
        return "No difference can be called: no group shows any spread, and Welch's test is undefined."
    few = f"{n} and {m} seeds are too few: {FEWEST_SEEDS} in each group are the least."
    advice = (
        f"more than {MOST_SEEDS:,} seeds in each group would be needed"
        if needed is None
        else f"{needed:,} seeds in each group would show it in 4 of 5 studies"
    )
    would = "" if p_value is None else f" If the means truly differ as much as they seem to, {advice}."
    if min(n, m) < FEWEST_SEEDS:
        return f"No difference is called: {few}{would}"
    return f"No difference is called (p = {p_value:.2g}): the seeds spread too widely.{would}"


def seeds_needed(first: ArrayLike, second: ArrayLike) -> int | None:
    """Return how many seeds in each group let Welch's test see the seen difference in POWER of all studies.

    Spread and difference are taken as they were seen, which a few seeds tell but roughly.

    Args:
        first: (n,) with n > 1.
        second: (m,) with m > 1; not both groups without spread.

    Returns:
        At least FEWEST_SEEDS; None above MOST_SEEDS.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    var_a, var_b = a.var(ddof=1), b.var(ddof=1)
    n = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    freedom = (n - 1) * (var_a + var_b) ** 2 / (var_a**2 + var_b**2)
    shift = abs(a.mean() - b.mean()) / np.sqrt((var_a + var_b) / n)
    bound = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    # The far tail is left out: it adds nothing where the power is near POWER.
    enough = np.flatnonzero(stats.nct.sf(bound, freedom, shift) >= POWER)
    return int(n[enough[0]]) if len(enough) else None


def improvement(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the probability that a seed of the first group beats one of the second; ties count half.

    The interval is Newcombe's score interval (his method 5). A bootstrap's would shrink to a point where every seed
    of one group beats every one of the other, which three against three do by chance in one case of ten.

    Source:
        Newcombe 2006, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    share = float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
    low = _score_bound(share, len(a), len(b))
    return Interval(share, low, 1 - _score_bound(1 - share, len(a), len(b)))


def _score_bound(share: float, n: int, m: int) -> float:
    """Return the least probability that a seen share is compatible with."""
    if share == 0:
        return 0.0
    z, half = stats.norm.ppf((1 + CONFIDENCE) / 2), (n + m) / 2 - 1

    def beyond(p: float) -> float:
        variance = p * (1 - p) / (n * m) * (1 + half * ((1 - p) / (2 - p) + p / (1 + p)))
        return float(share - p - z * np.sqrt(variance))

    # At p = 1 the variance vanishes, and a share of 1 would count as its own bound.
    return float(optimize.brentq(beyond, 0.0, min(share, 1 - 1e-9)))


def pooled_improvement(parts: list[Interval]) -> Interval:
    """Average the probability of improvement over environments; each environment is a stratum of its own.

    Half-widths add as the squares of independent errors do, divided by the number of environments.

    Args:
        parts: one of `improvement`'s results per environment.
    """
    value = float(np.mean([part.value for part in parts]))
    below = np.sqrt(sum((part.value - (part.low or 0.0)) ** 2 for part in parts)) / len(parts)
    above = np.sqrt(sum(((part.high or 0.0) - part.value) ** 2 for part in parts)) / len(parts)
    return Interval(value, float(max(0, value - below)), float(min(1, value + above)))


class Optimism(NamedTuple):
    """How far the best of several groups' mean lies above its true mean, on average, for being picked as the best."""

    as_seen: float  # if the groups' true means were those that were seen
    if_equal: float  # if all true means were equal: all of the lead is luck then


def optimism(groups: Sequence[ArrayLike], *, resamples: int = RESAMPLES) -> Optimism | None:
    """Return by how much the best mean of some groups flatters, simulated from the seeds' spread within them.

    Studies of as many groups and seeds are drawn again and again: each seed is its group's true mean and a deviation
    drawn from those of all seeds from their groups' means, widened by n / (n - 1) in the variance, as deviations from
    a mean of n seeds are too small. In each study the best group is picked, and its mean held against its true one.

    Args:
        groups: (n,) each, one number a seed.
        resamples: how many studies are drawn.

    Returns:
        None for a single group, and where no group has two seeds.
    """
    values = [np.asarray(group, np.float64) for group in groups]
    spread = [(v - v.mean()) * np.sqrt(len(v) / (len(v) - 1)) for v in values if len(v) > 1]
    if len(values) < 2 or not spread:
        return None
    deviations, draw = np.concatenate(spread), np.random.default_rng(BOOTSTRAP_SEED)
    errors = np.array([deviations[draw.integers(len(deviations), size=(resamples, len(v)))].mean(1) for v in values])
    means = np.array([v.mean() for v in values])[:, None]
    picked = (means + errors).argmax(axis=0)
    return Optimism(float(errors[picked, np.arange(resamples)].mean()), float(errors.max(axis=0).mean()))


def area(env_steps: ArrayLike, returns: ArrayLike) -> Floats:
    """Return the area under each curve divided by its length in env steps: the return's mean over the training.

    Args:
        env_steps: (P,), ascending.
        returns: (n, P).

    Returns:
        (n,), in units of the return. With one point, the return there.
    """
    x, y = np.asarray(env_steps, np.float64), np.asarray(returns, np.float64)
    return y[:, 0] if len(x) == 1 else np.asarray(np.trapezoid(y, x, axis=1) / (x[-1] - x[0]), np.float64)
