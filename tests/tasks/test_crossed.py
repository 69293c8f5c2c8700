"""Means over seeds and prompts: by hand, and how often their intervals hold the true difference."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from tasks.judging.crossed import crossed_mean

ONE = np.ones(2)


def test_the_variance_between_seeds_is_added_to_that_of_prompts() -> None:
    """By prompt .65, .85: mean .75, variance 2·2·(.5·.1)² = .01. Seeds .7, .8: variance .005/2 = .0025, and nothing is
    left beside both. Together .0125 with .0125²/(.01² + .0025²) degrees of freedom."""
    found = crossed_mean(np.array([[0.6, 0.8], [0.7, 0.9]]), ONE)
    assert found.value == pytest.approx(0.75)
    assert (found.error, found.prompt_error, found.n) == pytest.approx((sqrt(0.0125), 0.1, 2))
    assert found.freedom == pytest.approx(0.0125**2 / (0.01**2 + 0.0025**2))


def test_noise_that_prompts_contain_already_does_not_count_twice() -> None:
    """Both seeds have the mean .75: what differs between them is noise of single prompts."""
    found = crossed_mean(np.array([[0.6, 0.9], [0.7, 0.8]]), ONE)
    assert (found.error, found.freedom) == pytest.approx((0.1, 1))


def test_one_seed_on_each_side_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40))
    found = crossed_mean(a[None], np.ones(40), b[None])
    interval = stats.ttest_rel(a, b).confidence_interval()
    assert found.ends() == pytest.approx((interval.low, interval.high))


def test_the_roles_of_two_methods_can_be_exchanged() -> None:
    rng = np.random.default_rng(1)
    a, b, weights = rng.random((3, 20)), rng.random((2, 20)), rng.integers(1, 5, 20).astype(float)
    there, back = crossed_mean(a, weights, b), crossed_mean(b, weights, a)
    assert back == pytest.approx(there._replace(value=-there.value))


def test_seeds_without_any_variation_leave_the_interval_of_prompts() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 30))
    weights = np.ones(30)
    assert crossed_mean(np.stack([a] * 3), weights, b[None]) == pytest.approx(crossed_mean(a[None], weights, b[None]))
    assert crossed_mean(np.full((2, 4), 0.5), np.ones(4)).ends() == (0.5, 0.5)


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (3, 1)])
def test_intervals_over_seeds_hold_the_true_difference(seeds: tuple[int, int]) -> None:
    """Between-seed variance as large as that of prompts. (3, 1): the single seed's own is not contained, and is 0."""
    rng, prompts, held = np.random.default_rng(sum(seeds)), 64, []
    for _ in range(600):
        sides = [(n > 1) * rng.normal(0, 1 / 8, (n, 1)) + rng.normal(0, 0.7, (n, prompts)) for n in seeds]
        sides[0] = sides[0] + rng.normal(0, 0.7, prompts)
        low, high = crossed_mean(sides[0], np.ones(prompts), sides[1]).ends()
        held.append(low <= 0 <= high)
    assert 0.93 <= np.mean(held) <= 0.985
