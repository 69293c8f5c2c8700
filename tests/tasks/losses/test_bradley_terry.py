"""Bradley-Terry worked by hand: values, margin, centring, slopes, shifts."""

import numpy as np
import pytest
import torch

from tasks.losses.reward.bradley_terry import bradley_terry


def _double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _loss(chosen: float, rejected: float, margin: float = 0.0, **params: float) -> float:
    return bradley_terry(_double(chosen), _double(rejected), _double(margin), **params).item()


def test_two_against_one_half_is_log_of_one_plus_e_to_minus_three_halves() -> None:
    """log(1 + e^−1.5) = 0.201413; the other way round 1.5 more."""
    assert _loss(2.0, 0.5) == pytest.approx(0.201413, abs=1e-6)
    assert _loss(0.5, 2.0) == pytest.approx(1.701413, abs=1e-6)


def test_the_margin_is_taken_off_inside_the_sigmoid() -> None:
    """A gap of 1.5 with margin 1 (scale 1) is a gap of 0.5: log(1 + e^−0.5) = 0.474077; scale ½: a gap of 1."""
    assert _loss(2.0, 0.5, 1.0, margin_scale=1.0) == pytest.approx(0.474077, abs=1e-6)
    assert _loss(2.0, 0.5, 1.0, margin_scale=0.5) == pytest.approx(0.313262, abs=1e-6)
    assert _loss(2.0, 0.5, 1.0) == _loss(2.0, 0.5, 0.0)


def test_centring_adds_the_square_of_the_sum() -> None:
    """0.201413 + 0.01 · 2.5² = 0.263913."""
    assert _loss(2.0, 0.5, centring=0.01) == pytest.approx(0.263913, abs=1e-6)
    assert _loss(0.75, -0.75, centring=0.01) == pytest.approx(0.201413, abs=1e-6)


def test_large_gaps_neither_overflow_nor_vanish() -> None:
    assert _loss(-500.0, 500.0) == pytest.approx(1000.0)
    assert _loss(500.0, -500.0) == 0.0


def test_it_agrees_with_the_paper_in_numpy() -> None:
    chosen, rejected = np.random.default_rng(0).normal(0, 3, (2, 50))
    found = bradley_terry(torch.from_numpy(chosen), torch.from_numpy(rejected), torch.zeros(50), centring=0.1)
    expected = -np.log(1 / (1 + np.exp(rejected - chosen))) + 0.1 * (chosen + rejected) ** 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
