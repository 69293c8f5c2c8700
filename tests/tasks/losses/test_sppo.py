"""SPPO against the authors' loss (uclaml/SPPO 5e61c4e), a NumPy version of the paper, and its limits."""

import math

import numpy as np
import pytest
import torch

from tasks.losses.pointwise.sppo import sppo


def _double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_mean_over_best_and_worst_is_the_authors_loss() -> None:
    """a = 2 against 10·0.3, b = −1 against 10·(−0.2): 0.5·(1 + 1) = 1."""
    losses = sppo(_double(-10, -14), _double(-12, -13), _double(0.8, 0.3), torch.zeros(2, 1), eta=10.0)
    assert losses.tolist() == pytest.approx([1.0, 1.0])
    assert losses.mean().item() == pytest.approx(1.0)


def test_both_forms_agree_with_the_paper_in_numpy() -> None:
    rng = np.random.default_rng(1)
    logps, ref, eta = rng.normal(-20, 3, 8), rng.normal(-20, 3, 8), 5.0
    rates = rng.uniform(size=(8, 4))
    columns = [torch.from_numpy(x) for x in (logps, ref, rates[:, 0].copy(), rates)]
    half = (logps - ref - eta * (rates[:, 0] - 0.5)) ** 2
    np.testing.assert_allclose(sppo(*columns, eta=eta), half, rtol=1e-12)
    log_z = np.log(np.mean(np.exp(eta * rates), axis=1))
    exact = (logps - ref - (eta * rates[:, 0] - log_z)) ** 2
    np.testing.assert_allclose(sppo(*columns, eta=eta, log_z="estimated"), exact, rtol=1e-9)


def test_prompts_with_fewer_answers_are_padded_with_nan_and_not_counted() -> None:
    rates = torch.tensor([[0.2, 0.8, math.nan, math.nan]], dtype=torch.float64)
    padded = sppo(_double(-3), _double(-5), _double(0.8), rates, eta=2.0, log_z="estimated")
    short = sppo(_double(-3), _double(-5), _double(0.8), rates[:, :2], eta=2.0, log_z="estimated")
    assert padded.item() == pytest.approx(short.item())


def test_a_large_eta_does_not_overflow() -> None:
    loss = sppo(_double(-3), _double(-5), _double(0.8), _double(0.2, 0.8)[None], eta=1e4, log_z="estimated")
    assert loss.item() == pytest.approx((2 - math.log(2)) ** 2)
