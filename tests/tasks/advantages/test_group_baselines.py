"""Advantages against other answers to the prompt: worked numbers, groups of any size and order, a NumPy version."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.advantages.group import Scale, group_advantages, group_sizes, without_variance
from tasks.advantages.leave_one_out import leave_one_out
from tasks.losses.rl.clipped import clipped
from tasks.rollouts.normalisation import answer_weights
from tests.tasks.losses.tables import chosen

FOUR, ONE = torch.tensor([1.0, 0.0, 0.0, 1.0]).double(), torch.zeros(4, dtype=torch.long)


def _close(found: Tensor, expected: list[float], near: float = 1e-6) -> None:
    assert found.tolist() == pytest.approx(expected, abs=near)


def test_advantages_of_four_answers_of_which_two_are_right() -> None:
    """Mean ½, unbiased variance 1/3: 0.5/(0.577350 + 1e-4) = 0.865875; the biased one would give 0.9998."""
    _close(group_advantages(FOUR, ONE, scale="group"), [0.865875, -0.865875, -0.865875, 0.865875])
    _close(group_advantages(FOUR, ONE, scale="none"), [0.5, -0.5, -0.5, 0.5])
    _close(leave_one_out(FOUR, ONE), [0.666667, -0.666667, -0.666667, 0.666667])


def test_scaling_by_the_batch_divides_every_group_by_one_spread() -> None:
    """Groups (1, 3) and (10, 10): all rewards have mean 6, unbiased variance (25 + 9 + 16 + 16)/3 = 22."""
    rewards, groups = torch.tensor([1.0, 3.0, 10.0, 10.0]).double(), torch.tensor([0, 0, 1, 1])
    spread = 22**0.5 + 1e-4
    _close(group_advantages(rewards, groups, scale="batch"), [-1 / spread, 1 / spread, 0, 0], near=1e-12)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_of_any_size_in_any_order_agree_with_numpy(scale: Scale) -> None:
    """Sizes 3, 2, 5 and 1, answers mixed, group numbers with gaps."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([7, 2, 9, 4], [3, 2, 5, 1]))
    rewards = rng.normal(size=len(groups))
    expected, others = np.zeros(len(groups)), np.zeros(len(groups))
    for i, g in enumerate(groups):
        own = rewards[groups == g]
        if len(own) == 1:
            continue
        spread = {"group": own.std(ddof=1), "batch": rewards.std(ddof=1), "none": None}[scale]
        expected[i] = (rewards[i] - own.mean()) / (1 if spread is None else spread + 1e-4)
        others[i] = rewards[i] - (own.sum() - rewards[i]) / (len(own) - 1)
    given = torch.from_numpy(rewards), torch.from_numpy(groups)
    np.testing.assert_allclose(group_advantages(*given, scale=scale), expected, atol=1e-12)
    np.testing.assert_allclose(leave_one_out(*given), others, atol=1e-12)
    assert group_sizes(given[1]).tolist() == [int((groups == g).sum()) for g in groups]


def test_a_group_whose_rewards_are_equal_has_advantages_of_exactly_0() -> None:
    """0.1 has no exact mean in binary; divided by 1e-4, the difference would be visible."""
    rewards, groups = torch.tensor([0.1, 0.1, 0.1, 5.0, 1.0, 2.0]).double(), torch.tensor([0, 0, 0, 1, 2, 2])
    for advantages in (group_advantages(rewards, groups), leave_one_out(rewards, groups)):
        assert advantages[:4].tolist() == [0, 0, 0, 0]
        assert advantages[4] < 0 < advantages[5]
    assert without_variance(rewards, groups).tolist() == [True] * 4 + [False] * 2


def test_no_answers_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no answers to compare"):
        group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    for baseline in (group_advantages, leave_one_out):
        with pytest.raises(ValueError, match=r"rewards \(4,\), groups \(3,\)"):
            baseline(FOUR, ONE[:3])


def test_two_answers_with_rewards_of_1_and_minus_1_give_the_gradient_of_a_pair() -> None:
    """DPO at its reference has the slope −β/2·(∇S_w − ∇S_l) per pair; GRPO with G = 2 has A = ±1/(√2 + 1e-4) per
    answer, of which there are two per pair: the same direction, times 1/(β·(√2 + 1e-4)).
    """
    beta, pairs, width = 0.3, 5, 4
    logps = torch.randn(2 * pairs, width, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    rewards, groups = torch.tensor([1.0, -1.0]).double().repeat(pairs), torch.arange(pairs).repeat_interleave(2)
    advantages = group_advantages(rewards, groups)[:, None].expand(-1, width)
    lengths = torch.full((2 * pairs,), width)
    weights = answer_weights("sum", lengths, tokens_in_all=2 * pairs * width, minibatches=1)
    loss = (weights[:, None] * clipped(logps, logps.detach(), advantages)).sum()
    (ours,) = torch.autograd.grad(loss, logps)
    sums = logps.sum(1)
    pair = chosen("pairwise/dpo", {"beta": beta})(
        policy_chosen_logps=sums[::2], policy_rejected_logps=sums[1::2], ref_chosen_logps=sums[::2].detach(),
        ref_rejected_logps=sums[1::2].detach(), chosen_lengths=lengths[::2].double(),
        rejected_lengths=lengths[1::2].double(), p=torch.ones(pairs).double(),
    )  # fmt: skip
    (theirs,) = torch.autograd.grad(pair.mean(), logps)
    torch.testing.assert_close(ours, theirs / (beta * (2**0.5 + 1e-4)), rtol=1e-12, atol=0)
    assert theirs.abs().min() > 0
