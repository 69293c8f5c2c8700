"""The surrogates of PPO, DAPO and CISPO: numbers worked out elsewhere, limits, and where there is no gradient."""

import math

import numpy as np
import pytest
import torch

from tasks.losses.rl.cispo import cispo
from tasks.losses.rl.clipped import clipped
from tasks.losses.rl.kl_penalty import kl_penalty

WHITENED = [-0.280245, 1.110203, -0.829957]


def _tensors(ratios: list[float], advantages: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    old = torch.tensor([-1.0, -2.0, -3.0][: len(ratios)]).double()
    return (old + torch.tensor(ratios).double().log()).requires_grad_(), old, torch.tensor(advantages).double()


def test_the_clipped_surrogate_where_no_bound_binds_and_where_one_does() -> None:
    assert clipped(*_tensors([1.3, 0.7, 1.0], WHITENED)).mean().item() == pytest.approx(0.139045, abs=1e-6)
    assert clipped(*_tensors([0.7, 1.3, 1.0], WHITENED)).mean().item() == pytest.approx(-0.092697, abs=1e-6)


def test_past_the_bound_there_is_no_gradient_on_the_side_that_the_advantage_pushes_to() -> None:
    logps, old, advantages = _tensors([1.3, 0.7, 1.3], [1.0, -1.0, -1.0])
    clipped(logps, old, advantages).sum().backward()
    assert logps.grad.tolist() == pytest.approx([0.0, 0.0, 1.3])


def test_a_higher_upper_bound_lets_a_token_rise_further_and_leaves_the_lower_one() -> None:
    """Bounds 0.8 and 1.28: at 1.25 the token still learns, at 1.3 it does not; 0.79 has fallen far enough."""
    logps, old, advantages = _tensors([1.25, 1.3, 0.79], [1.0, 1.0, -1.0])
    losses = clipped(logps, old, advantages, clip_high=0.28)
    assert losses.tolist() == pytest.approx([-1.25, -1.28, 0.8])
    losses.sum().backward()
    assert logps.grad.tolist() == pytest.approx([-1.25, 0.0, 0.0])


def test_a_capped_weight_keeps_the_gradient_of_every_token() -> None:
    """−min(ρ, 1.2)·A·log π: weights 1.2, 0.7, 1 at the log-probabilities −1 + log 1.3, −2 + log 0.7, −3."""
    logps, old, advantages = _tensors([1.3, 0.7, 1.0], [2.0, -1.0, 1.0])
    losses = cispo(logps, old, advantages, max_ratio=1.2)
    assert losses.tolist() == pytest.approx([-2.4 * (math.log(1.3) - 1), 0.7 * (math.log(0.7) - 2), 3.0])
    losses.sum().backward()
    assert logps.grad.tolist() == pytest.approx([-2.4, 0.7, -1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [clipped, kl_penalty, cispo])
def test_no_log_ratio_makes_a_value_or_a_gradient_infinite(loss, dtype) -> None:  # type: ignore[no-untyped-def]
    """Ratios of e^±10,000 with every sign of the advantage; where the clipped surrogate takes its bound, 0·∞ is NaN."""
    far = torch.tensor([1e4, -1e4, 1e4, -1e4, 1e4, -1e4], dtype=dtype)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0], dtype=dtype)
    logps = (far - 2e4).requires_grad_()
    losses = loss(logps, torch.full_like(far, -2e4), advantages)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logps.grad.isfinite().all()
    assert losses.detach().abs().max() <= 1.01 * 20 * math.exp(20) * 2e4


def test_the_penalty_pulls_back_a_token_that_became_impossible() -> None:
    """β·(ρ − 1 − log ρ) has the slope −β where ρ is 0: descent raises the token."""
    logps = torch.tensor([-1e4]).double().requires_grad_()
    kl_penalty(logps, torch.zeros(1).double(), torch.ones(1).double(), beta=0.5).backward()
    assert logps.grad.tolist() == [-0.5]


@pytest.mark.parametrize("loss", [clipped, kl_penalty, cispo])
def test_at_the_old_policy_the_gradient_is_the_advantage_and_better_tokens_get_likelier(loss) -> None:  # type: ignore[no-untyped-def]
    logps, old, advantages = _tensors([1.0, 1.0, 1.0], [2.0, -1.0, 0.0])
    loss(logps, old, advantages).sum().backward()
    assert logps.grad.tolist() == pytest.approx([-2.0, 1.0, 0.0])


def test_the_penalty_in_numpy_and_that_beta_0_leaves_the_plain_surrogate() -> None:
    rng = np.random.default_rng(0)
    logps, old, advantages = rng.normal(size=(3, 20))
    given = [torch.from_numpy(x) for x in (logps, old, advantages)]
    ratio = np.exp(logps - old)
    for beta in (0.0, 1.0, 3.0):
        expected = -advantages * ratio + beta * (ratio - 1 - np.log(ratio))
        np.testing.assert_allclose(kl_penalty(*given, beta=beta), expected, rtol=1e-9)


def test_the_penalty_is_in_the_mean_the_kl_from_the_old_policy() -> None:
    """Σ p_old·(ρ − 1 − log ρ) = KL(p_old ‖ p) = 0.5·log(0.5/0.2) + 0.3·log(0.3/0.2) + 0.2·log(0.2/0.6)."""
    old, new = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    found = (old * kl_penalty(new.log(), old.log(), torch.zeros(3).double())).sum().item()
    exact = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3)
    assert found == pytest.approx(exact)
