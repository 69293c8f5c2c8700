"""PPO's arithmetic: numbers worked out elsewhere in float64, NumPy versions from the papers, limits and signs."""

import math

import numpy as np
import pytest
import torch

from tasks.advantages.gae import gae
from tasks.advantages.kl import k1, k2, k3, token_rewards
from tasks.rollouts.advantages import as_table, explained_variance, mask_of, value_loss, whitened

ALL = torch.ones(1, 3, dtype=torch.bool)
REWARDS, VALUES = torch.tensor([[-0.1, -0.05, 0.9]]).double(), torch.tensor([[0.3, 0.4, 0.5]]).double()


def _close(found: torch.Tensor, expected: list[float], near: float = 1e-6) -> None:
    assert found.flatten().tolist() == pytest.approx(expected, abs=near)


def test_the_three_estimators_of_kl() -> None:
    """log-ratios 0.2, −0.1, 0.5: means 0.2, 0.05, 0.043477."""
    log_ratios = torch.tensor([0.2, -0.1, 0.5]).double()
    _close(torch.stack([k(log_ratios).mean() for k in (k1, k2, k3)]), [0.2, 0.05, 0.043477])


def test_generalised_advantages_of_three_tokens() -> None:
    """γ 1, λ 0.95: δ = (0, 0.05, 0.4), A_3 = 0.4, A_2 = 0.05 + 0.38, A_1 = 0.95·0.43."""
    advantages = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=0.95)
    _close(advantages, [0.4085, 0.43, 0.4])
    _close(advantages + VALUES, [0.7085, 0.83, 0.9])


def test_advantages_agree_with_the_sum_in_numpy_and_nothing_behind_the_end_counts() -> None:
    """A_t = Σ_{l=0}^{T−t−1} (γλ)^l·δ_{t+l} within each answer; the table beyond it holds rubbish."""
    rng = np.random.default_rng(0)
    gamma, lam, lengths = 0.9, 0.8, [1, 4, 7]
    rewards, values = rng.normal(size=(2, 3, 7))
    found = gae(*(torch.from_numpy(x) for x in (rewards, values)), mask_of(torch.tensor(lengths)), gamma=gamma, lam=lam)
    expected = np.zeros((3, 7))
    for i, n in enumerate(lengths):
        after = [*values[i, 1:n], 0.0]
        delta = [rewards[i, t] + gamma * after[t] - values[i, t] for t in range(n)]
        expected[i, :n] = [sum((gamma * lam) ** m * delta[t + m] for m in range(n - t)) for t in range(n)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_whitening_uses_the_unbiased_variance() -> None:
    _close(whitened(torch.tensor([0.4085, 0.43, 0.4]).double()), [-0.280245, 1.110203, -0.829957], near=2e-6)


def test_whitening_keeps_the_epsilon_inside_the_root() -> None:
    """Two values 2e-4 apart: var 2e-8, so ±1e-4/√3e-8; outside the root it would be ±0.7071."""
    _close(whitened(torch.tensor([1e-4, -1e-4]).double()), [0.577350, -0.577350])
    with pytest.raises(ValueError, match="1 values have no variance"):
        whitened(torch.ones(1))


def test_a_reward_is_the_price_of_the_token_and_the_score_stands_at_the_last_one() -> None:
    """β 0.1; the second answer has one token."""
    log_ratios = torch.tensor([[1.0, 0.5, -1.0], [2.0, 99.0, 99.0]])
    rewards = token_rewards(log_ratios, torch.tensor([3.0, -1.0]), mask_of(torch.tensor([3, 1])), 0.1)
    _close(rewards, [-0.1, -0.05, 3.1, -1.2, 0.0, 0.0])
    with pytest.raises(ValueError, match="1 of 2 answers have no token"):
        token_rewards(log_ratios, torch.zeros(2), torch.tensor([[True, True, True], [False, False, False]]), 0.1)


def test_a_value_that_moved_too_far_towards_its_return_gets_no_gradient_and_one_that_moved_away_does() -> None:
    """V_old 0, R 1, clip 0.2. At 0.1 the error is 0.9, at 0.5 the clipped one 0.8, at −0.5 the plain one 1.5."""
    values = torch.tensor([0.1, 0.5, -0.5]).double().requires_grad_()
    losses = value_loss(values, torch.zeros(3).double(), torch.ones(3).double(), clip=0.2)
    _close(losses.detach(), [0.405, 0.32, 1.125])
    losses.sum().backward()
    _close(values.grad, [-0.9, 0.0, -1.5])


def test_explained_variance_is_1_for_the_returns_themselves_and_0_for_a_constant() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((3,), 9.0), returns) == pytest.approx(0, abs=1e-6)
    assert math.isnan(explained_variance(returns, torch.ones(3)))


def test_a_table_holds_each_answers_values_from_the_left() -> None:
    table = as_table(torch.arange(1.0, 7.0), torch.tensor([1, 3, 2]))
    assert table.tolist() == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]


def test_unequal_shapes_are_refused_with_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 2\).*\(1, 3\)"):
        gae(REWARDS, VALUES[:, :2], ALL, gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        value_loss(torch.zeros(2), torch.zeros(3), torch.zeros(3), clip=0.2)
