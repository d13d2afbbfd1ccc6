"""How often do the report's intervals hold the truth, and how often does its test call a difference that is none?

    python benchmarks/interval_coverage.py    some minutes; writes results/coverage.json and its copy in src/

Studies of 2 to 20 seeds are drawn from distributions whose mean and interquartile mean are known, and go through the
report's own functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from t3d.machine import describe
from t3d.reports import statistics

HERE = Path(__file__).parent
OUT = (HERE / "results" / "coverage.json", HERE.parent / "src" / "t3d" / "reports" / "coverage.json")

SEEDS = (2, 3, 5, 10, 20)
STUDIES = 4_000
RESAMPLES = 1_000
PAIRS = 4_000
TRUTH = 4_000_000

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _two_modes(share: float) -> Draw:
    """Seeds that fail, a share of all, and seeds that succeed: about fourfold apart, as TD3's are on Hopper."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        failed = rng.random(shape) < share
        return np.where(failed, rng.normal(900, 200, shape), rng.normal(3_300, 300, shape))

    return draw


DISTRIBUTIONS: dict[str, tuple[str, Draw]] = {
    "normal": ("normal", lambda rng, shape: rng.normal(2_000, 500, shape)),
    "skewed": ("lognormal, sigma 0.5", lambda rng, shape: 2_000 * rng.lognormal(0, 0.5, shape)),
    "two modes": ("4 of 10 seeds fail at 900, the others reach 3,300", _two_modes(0.4)),
    "rare failure": ("1 of 10 seeds fails at 900, the others reach 3,300", _two_modes(0.1)),
}


def intervals(draw: Draw, seeds: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the coverage of the mean's and of the interquartile mean's interval."""
    population = draw(rng, (TRUTH,))
    studies = draw(rng, (seeds, STUDIES))
    middle = statistics.interquartile_mean(studies, resamples=RESAMPLES)
    return (
        _held(statistics.mean(studies), float(population.mean())),
        _held(middle, float(stats.trim_mean(population, 0.25))),
    )


def _held(band: statistics.Band, truth: float) -> float:
    assert band.low is not None and band.high is not None
    return float(np.mean((band.low <= truth) & (truth <= band.high)))


def pairs(draw: Draw, seeds: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return how often two groups of one distribution are told apart, by Welch's p and by improvement's interval."""
    a, b = draw(rng, (seeds, PAIRS)), draw(rng, (seeds, PAIRS))
    told = stats.ttest_ind(a, b, equal_var=False).pvalue < 1 - statistics.CONFIDENCE
    chances = [statistics.improvement(one, other) for one, other in zip(a.T, b.T, strict=True)]
    beyond = [(chance.low or 0) > 0.5 or (chance.high or 0) < 0.5 for chance in chances]
    return float(np.mean(told)), float(np.mean(beyond))


def simulate() -> dict[str, object]:
    """Return the whole result."""
    rows: dict[str, object] = {}
    for seeds in SEEDS:
        rng = np.random.default_rng(seeds)
        row: dict[str, dict[str, float]] = {"mean": {}, "iqm": {}, "false_positive": {}, "improvement_beyond_half": {}}
        for name, (_, draw) in DISTRIBUTIONS.items():
            row["mean"][name], row["iqm"][name] = intervals(draw, seeds, rng)
            row["false_positive"][name], row["improvement_beyond_half"][name] = pairs(draw, seeds, rng)
        rows[str(seeds)] = row
        print(f"{seeds} seeds: {row}")
    return {
        "coverage": "share of simulated studies whose interval held the truth",
        "confidence": statistics.CONFIDENCE,
        "studies": STUDIES,
        "resamples": RESAMPLES,
        "pairs": PAIRS,
        "distributions": {name: told for name, (told, _) in DISTRIBUTIONS.items()},
        "seeds": rows,
        "machine": describe(),
    }


if __name__ == "__main__":
    text = json.dumps(simulate(), indent=2) + "\n"
    for path in OUT:
        path.write_text(text, "utf-8")
