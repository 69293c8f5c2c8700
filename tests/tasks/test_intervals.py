"""Intervals over prompts: by hand at the ends, and how often they hold the true value."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from tasks.judging.intervals import interval

MEANS = (0.5, 0.93, 0.99)


def test_at_one_the_interval_reaches_down_as_wilsons_of_n_trials() -> None:
    """p̂ = 1 of n: from n/(n + t²); t(15, .975) = 2.131450."""
    found = interval([1.0] * 16, share=True)
    assert (found.value, found.error, found.high, found.n) == (1, 0, 1, 16)
    assert found.low == pytest.approx(16 / (16 + 2.1314495**2))
    below = interval([0.0] * 16, share=True)
    assert found.low is not None
    assert (below.low, below.high) == (0, pytest.approx(1 - found.low))


def test_won_or_lost_prompts_have_wilsons_interval() -> None:
    """14 of 16 trials."""
    found, t = interval([1.0] * 14 + [0.0] * 2, share=True), 2.1314495
    middle = (14 / 16 + t**2 / 32) / (1 + t**2 / 16)
    half = t * sqrt(14 / 16 * 2 / 16 / 16 + t**2 / 1024) / (1 + t**2 / 16)
    assert (found.low, found.high) == (pytest.approx(middle - half), pytest.approx(middle + half))


def test_weights_count_a_prompt_as_often_as_it_has_pairs() -> None:
    """A ratio of sums: (2·1 + 1·0)/3; residuals 2/3, −2/3; s = √(2·(4/9 + 4/9))/3."""
    found = interval([1.0, 0.0], [2, 1], share=False)
    assert found.value == pytest.approx(2 / 3)
    assert found.error == pytest.approx(sqrt(2 * 8 / 9) / 3)
    assert found.high == pytest.approx(2 / 3 + 12.706204736 * sqrt(16 / 9) / 3)


def test_what_never_varies_and_what_is_not_there() -> None:
    assert interval([0.5] * 8, share=True)[2:4] == (0.5, 0.5)
    assert interval([], share=True) == (None, None, None, None, 0)
    assert interval([0.3], share=True) == (0.3, None, None, None, 1)
    assert interval([-3.0, 5.0], share=False).value == 1


def test_intervals_are_those_of_scipy_and_for_many_prompts_those_of_statsmodels() -> None:
    """Wilson's here has a quantile of t and n − 1: at 20,000 prompts both are the normal's and n."""
    from statsmodels.stats.proportion import proportion_confint

    values = np.random.default_rng(0).normal(2, 3, 50)
    student = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval(values, share=False)[2:4] == pytest.approx((student.low, student.high))
    won = np.arange(20_000) < 13_000
    wilson = proportion_confint(13_000, 20_000, method="wilson")
    assert interval(won, share=True)[2:4] == pytest.approx(wilson, abs=2e-6)


@pytest.mark.parametrize("n", [16, 64, 128])
@pytest.mark.parametrize("mean", MEANS)
def test_won_or_lost_prompts_are_covered_as_exactly_as_whole_numbers_of_wins_allow(n: int, mean: float) -> None:
    """Exact, over all numbers of wins. With few of them 93–96% is not to be had: of 16 prompts with mean 0.99, all or
    all but one are won with 99%, all with 85%. Then the next larger share is right, not the next smaller."""
    wins = np.arange(n + 1)
    likely = stats.binom.pmf(wins, n, mean)
    ends = [interval([1.0] * w + [0.0] * (n - w), share=True)[2:4] for w in wins]
    holds = np.array([low <= mean <= high for low, high in ends])  # type: ignore[operator]
    coverage = float(likely[holds].sum())
    assert coverage >= 0.94
    least = float(likely[holds].min())
    assert coverage <= 0.96 or coverage - least < 0.94 or coverage - 2 * least < 0.94, coverage


@pytest.mark.parametrize("n", [16, 64, 128])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("alike", [False, True])
def test_means_of_four_answers_are_covered(n: int, mean: float, alike: bool) -> None:
    """alike: prompts differ in how often they are won, as a beta distribution of precision 3 has it."""
    rng = np.random.default_rng(n)
    prompts = rng.beta(mean * 3, (1 - mean) * 3, (2000, n)) if alike else np.full((2000, n), mean)
    rates = rng.binomial(4, prompts) / 4
    found = [interval(row, share=True) for row in rates]
    assert all(f.low is not None and 0 <= f.low <= f.high <= 1 for f in found)  # type: ignore[operator]
    coverage = np.mean([f.low <= mean <= f.high for f in found])  # type: ignore[operator]
    assert 0.93 <= coverage <= 0.98
