"""The report's statistics against SciPy, hand-computed and published values, and on groups with a known difference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from t3d.reports import statistics, summary

ROOT = Path(__file__).parent.parent
FIVE = np.array([[912.0], [1500.0], [2400.0], [3100.0], [3547.0]])


def test_mean_has_students_interval():
    # By hand: mean 2, sd 1, t(2; 0.975) = 4.302653, half-width 4.302653 / sqrt(3).
    band = statistics.mean([[1.0], [2.0], [3.0]])
    assert band.value[0] == 2
    assert band.high[0] - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - band.low[0] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    scipys = stats.ttest_1samp(FIVE[:, 0], 0).confidence_interval(0.95)
    assert (statistics.mean(FIVE).low[0], statistics.mean(FIVE).high[0]) == pytest.approx(tuple(scipys))


def test_one_seed_has_a_mean_and_no_interval():
    assert statistics.mean([[3.0, 4.0]]).value.tolist() == [3, 4]
    assert statistics.mean([[3.0, 4.0]])[1:] == (None, None)


def test_equal_seeds_have_an_interval_of_no_width():
    for statistic in (statistics.mean, statistics.interquartile_mean):
        band = statistic(np.full((5, 1), 1000.0))
        assert (band.value[0], band.low[0], band.high[0]) == (1000, 1000, 1000)


@pytest.mark.parametrize(("n", "left"), [(5, 1), (7, 1), (8, 2), (10, 2), (20, 5)])
def test_interquartile_mean_leaves_a_quarter_out_at_either_end(n, left):
    values = np.random.default_rng(n).lognormal(size=n)
    expected = np.sort(values)[left : n - left].mean()
    assert statistics.interquartile_mean(values[:, None]).value[0] == pytest.approx(expected)


def test_bootstrap_interval_is_scipys():
    ours = statistics.interquartile_mean(FIVE)

    def middle(sample, axis):
        return stats.trim_mean(sample, 0.25, axis=axis)

    theirs = stats.bootstrap(
        (FIVE[:, 0],), middle, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Both are Monte Carlo; a percentile of few seeds moves in steps, of which these are small ones.
    assert (ours.low[0], ours.high[0]) == pytest.approx(tuple(theirs), rel=0.03)
    assert ours.low[0] < ours.value[0] < ours.high[0]


def test_bootstrap_repeats_itself_and_draws_whole_curves():
    values = np.random.default_rng(0).normal(size=(6, 1))
    once, again = statistics.interquartile_mean(values), statistics.interquartile_mean(np.hstack([values, values]))
    assert again.low.tolist() == [once.low[0]] * 2
    assert again.high.tolist() == [once.high[0]] * 2


def test_welch_is_scipys_and_a_textbooks():
    a, b = np.array([27.5, 21.0, 19.0, 23.6, 17.0]), np.array([27.1, 22.0, 20.8, 23.4, 23.4, 23.5])
    seen = statistics.compare(a, b)
    # By hand: t = d / sqrt(va/n + vb/m), degrees of freedom by Welch and Satterthwaite.
    va, vb = a.var(ddof=1) / 5, b.var(ddof=1) / 6
    t, freedom = (a.mean() - b.mean()) / math.sqrt(va + vb), (va + vb) ** 2 / (va**2 / 4 + vb**2 / 5)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(va + vb)
    assert seen.p_value == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert seen.mean == pytest.approx((a.mean() - b.mean(), a.mean() - b.mean() - half, a.mean() - b.mean() + half))
    assert seen.p_value == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert not seen.called
    assert "spread too widely" in seen.verdict


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_seeds_needed_are_those_of_cohens_tables(effect, seeds):
    # Two groups with standard deviation 1, power 0.8, two-sided 0.05: Cohen 1988, table 2.4.1.
    group = np.array([-1.0, 0.0, 1.0])
    assert statistics.seeds_needed(group + effect, group) == pytest.approx(seeds, abs=1)


def test_seeds_needed_has_a_least_and_a_most():
    assert statistics.seeds_needed([100.0, 101, 102], [0.0, 1, 2]) == statistics.FEWEST_SEEDS
    assert statistics.seeds_needed([0.0, 1, 2], [0.0, 1, 2]) is None


def test_power_is_what_it_is_called():
    rng = np.random.default_rng(0)
    group = np.array([-1.0, 0.0, 1.0])
    n = statistics.seeds_needed(group + 1.5, group)
    a, b = rng.normal(1.5, 1, (n, 4_000)), rng.normal(0, 1, (n, 4_000))
    called = np.mean(stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05)
    assert 0.78 < called < 0.86  # n is whole, so the power is a little above 0.8


def test_a_known_difference_is_called_and_none_is_not():
    rng = np.random.default_rng(3)
    told = [statistics.compare(rng.normal(4_000, 300, 10), rng.normal(3_000, 300, 10)) for _ in range(30)]
    assert all(seen.called and "the first is higher" in seen.verdict for seen in told)
    alike = [statistics.compare(rng.normal(0, 1, 5), rng.normal(0, 1, 5)).called for _ in range(400)]
    # 4.1 % in benchmarks/results/coverage.json, with a standard error of 1.0 here.
    assert 0.01 < np.mean(alike) < 0.07


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (2, 2), (4, 20), (20, 4)])
def test_too_few_seeds_call_no_difference_however_clear(n, m):
    seen = statistics.compare(1_000 + np.arange(float(n)), np.arange(float(m)))
    assert not seen.called
    assert "too few: 5 in each group are the least" in seen.verdict
    assert ("5 seeds in each group would show it" in seen.verdict) == (n > 1 and m > 1)


def test_how_many_seeds_would_do_is_said():
    group = np.array([-1.0, 0.0, 1.0])
    seen = statistics.compare(group + 1, group)
    assert f"{seen.seeds_needed} seeds in each group would show it in 4 of 5 studies" in seen.verdict
    assert "more than 1,000 seeds" in statistics.compare(group, group).verdict


def test_no_spread_at_all_is_no_difference():
    for other in (1_000.0, 900.0):
        seen = statistics.compare(np.full(5, 1_000.0), np.full(5, other))
        assert (seen.called, seen.p_value, seen.seeds_needed) == (False, None, None)
        assert "undefined" in seen.verdict


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    # By hand: of 2 x 3 pairs, 3 beats 1, 2 and ties 3; 2 beats 1, ties 2, loses to 3.
    seen = statistics.improvement([3.0, 2.0], [1.0, 2.0, 3.0])
    assert seen.value == pytest.approx((2.5 + 1.5) / 6)
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    assert statistics.improvement(a, b).value == pytest.approx(stats.mannwhitneyu(a, b).statistic / 81)


def test_interval_of_improvement_is_newcombes():
    # By hand for a share of 1 among 5 and 5: the p with (1 - p)^2 = z^2 V(p); at p = 0.6415 both sides are 0.1285.
    seen = statistics.improvement(np.arange(5.0) + 10, np.arange(5.0))
    p = seen.low
    variance = p * (1 - p) / 25 * (1 + 4 * ((1 - p) / (2 - p) + p / (1 + p)))
    assert (1 - p) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * variance)
    assert 0.6 < p < 0.7
    assert seen.high == 1
    turned = statistics.improvement(np.arange(5.0), np.arange(5.0) + 10)
    assert turned == pytest.approx((0, 0, 1 - p))


def test_interval_of_improvement_holds_the_truth():
    rng = np.random.default_rng(5)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    seen = [statistics.improvement(rng.normal(1, 1, 5), rng.normal(0, 1, 5)) for _ in range(1_000)]
    assert 0.92 < np.mean([one.low <= truth <= one.high for one in seen]) <= 1


def test_pooling_weighs_environments_alike_and_narrows():
    part = statistics.Interval(0.8, 0.6, 0.9)
    assert statistics.pooled_improvement([part]) == pytest.approx(part)
    assert statistics.pooled_improvement([part] * 4) == pytest.approx((0.8, 0.7, 0.85))
    assert statistics.pooled_improvement([part, statistics.Interval(0.4, 0.2, 0.5)]).value == pytest.approx(0.6)


def test_area_is_the_trapezoids_mean():
    # By hand: (0 + 10) / 2 * 100 + (10 + 30) / 2 * 300 = 6500, over 400 steps.
    assert statistics.area([100, 200, 500], [[0.0, 10.0, 30.0]]).tolist() == [16.25]
    assert statistics.area([100], [[7.0]]).tolist() == [7]


SIMULATED = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text("utf-8"))


def test_the_simulated_coverage_is_the_packages_own():
    packaged = (Path(statistics.__file__).parent / "coverage.json").read_text("utf-8")
    assert json.loads(packaged) == SIMULATED
    assert set(SIMULATED["seeds"]) >= {"3", "5", "10", "20"}


@pytest.mark.parametrize("seeds", ["3", "5", "20"])
def test_the_simulated_coverage_comes_out_again(seeds):
    rng = np.random.default_rng(11)
    studies = rng.normal(2_000, 500, (int(seeds), 600))
    for name, band in {
        "mean": statistics.mean(studies),
        "iqm": statistics.interquartile_mean(studies, resamples=400),
    }.items():
        held = np.mean((band.low <= 2_000) & (band.high >= 2_000))
        assert held == pytest.approx(SIMULATED["seeds"][seeds][name]["normal"], abs=0.06)


def test_coverage_is_stated_for_the_nearest_number_simulated():
    assert summary.coverage(1) is None
    assert [summary.coverage(n)["seeds"] for n in (2, 4, 5, 9, 10, 19, 100)] == [2, 3, 5, 5, 10, 10, 20]
    five = SIMULATED["seeds"]["5"]
    assert summary.coverage(5)["mean"] == [min(five["mean"].values()), max(five["mean"].values())]
    assert summary.coverage(5)["iqm"] == [min(five["iqm"].values()), max(five["iqm"].values())]
