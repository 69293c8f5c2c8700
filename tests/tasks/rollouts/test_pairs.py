"""Pairs of sampled answers: which are compared, who wins, and what a loss of pairs makes of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.advantages.payoffs import mean_payoffs, payoffs
from tasks.contract import Chosen, SpecError
from tasks.rollouts.answers import ComparedPairs
from tasks.rollouts.pair_loss import PairLoss, chosen_pair_loss, pair_loss
from tasks.rollouts.pairs import best_against_worst, pairs_against, pairs_of_groups, wins_of

GROUPS = np.array([0, 0, 0, 1, 1])
A, B = np.array([0]), np.array([1])


def loss_of(name: str, **params: float | str) -> Chosen:
    return Chosen("losses/pairwise", name, params)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_pair(loss: Chosen, p: float, wins: float) -> PairLoss:
    """Summed log-probabilities −10 and −14 under the policy, −12 and −13 under the reference: log-ratios 2 and −1."""
    pairs = ComparedPairs(A, B, tensor(p))
    return pair_loss(loss, tensor(-10, -14), tensor(-12, -13), torch.tensor([5, 8]), pairs, tensor(wins))


def test_all_pairs_of_a_prompt_are_compared_and_none_across_prompts() -> None:
    a, b = pairs_of_groups(GROUPS)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (3, 4)]


def test_every_answer_meets_every_opponent_of_its_prompt() -> None:
    groups = np.array([0, 0, 1, 0, 1, 1])
    a, b = pairs_against(groups, np.array([False, False, False, True, True, True]))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 3), (1, 3), (2, 4), (2, 5)]


def test_best_and_worst_are_by_the_mean_p_over_a_prompt() -> None:
    """Means .4, .75 and .35: answer 1 against answer 2. In the second prompt both win equally often."""
    a, b = pairs_of_groups(GROUPS)
    assert best_against_worst(a, b, tensor(0.2, 0.6, 0.7, 0.5), GROUPS).tolist() == [2]


def test_best_and_worst_skip_answers_and_prompts_without_a_comparison() -> None:
    assert best_against_worst(np.array([0]), np.array([2]), tensor(0.9), GROUPS).tolist() == [0]
    assert best_against_worst(np.array([0, 1]), np.array([1, 2]), tensor(0.9, 0.9), GROUPS).tolist() == []


def test_soft_labels_are_p_and_hard_ones_the_likelier_winner() -> None:
    p = tensor(0.2, 0.5, 0.9)
    assert wins_of("soft", p, [1, 2, 3], [4, 5, 6], seed=0).tolist() == [0.2, 0.5, 0.9]
    assert wins_of("hard", p, [1, 2, 3], [4, 5, 6], seed=0).tolist() == [0, 0.5, 1]


def test_sampled_labels_are_drawn_from_p_and_keyed_by_the_draws_alone() -> None:
    seeds = list(range(20000))
    wins = wins_of("sampled", torch.full((20000,), 0.3).double(), seeds, [s + 7 for s in seeds], seed=5)
    assert float(wins.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20000))
    part = wins_of("sampled", tensor(0.3, 0.3), [seeds[11], seeds[3]], [18, 10], seed=5)
    assert part.tolist() == [wins[11], wins[3]]
    again = wins_of("sampled", torch.full((20000,), 0.3).double(), seeds, [s + 7 for s in seeds], seed=6)
    assert 0.3 < float((wins != again).double().mean()) < 0.55
    assert wins_of("sampled", tensor(0, 1), [1, 2], [3, 4], seed=0).tolist() == [0, 1]


def test_a_certain_win_has_the_loss_and_the_slopes_of_dpo() -> None:
    """Margin β·(2 − (−1)) = 0.3: loss log(1 + e^−0.3) = .554355, slopes ∓β·σ(−0.3) = ∓.0425557."""
    found = one_pair(loss_of("dpo", beta=0.1), 0.8, 1.0)
    assert found.loss == pytest.approx(0.554355, abs=1e-6)
    assert found.slopes.tolist() == pytest.approx([-0.0425557, 0.0425557], abs=1e-7)
    assert found.margins.tolist() == pytest.approx([0.3])
    assert found.agreement.tolist() == [1.0]


def test_a_loss_that_is_won_by_b_is_that_of_the_pair_turned_round() -> None:
    won = one_pair(loss_of("ipo", norm="sum", tau=0.1), 0.8, 0.0)
    assert won.loss == pytest.approx((-3 - 5) ** 2)
    assert won.slopes.tolist() == pytest.approx([16, -16])
    assert won.margins.tolist() == pytest.approx([-0.3])
    assert won.agreement.tolist() == [0.0]


@pytest.mark.parametrize(
    "loss", [loss_of("dpo"), loss_of("ipo", norm="length"), loss_of("hinge"), loss_of("simpo"), loss_of("exo")]
)
def test_a_soft_label_is_the_mean_over_labels_drawn_with_its_probability(loss: Chosen) -> None:
    soft, first, second = (one_pair(loss, 0.7, wins) for wins in (0.7, 1.0, 0.0))
    assert soft.loss == pytest.approx(0.7 * first.loss + 0.3 * second.loss)
    torch.testing.assert_close(soft.slopes, 0.7 * first.slopes + 0.3 * second.slopes)
    assert float(soft.margins) == pytest.approx(0.7 * float(first.margins) + 0.3 * float(second.margins))


def test_the_loss_is_the_mean_over_pairs_and_answers_collect_the_slopes_of_theirs() -> None:
    """Policy and reference equal: β·½ for each side of each of three pairs, over 3. Answer 0 wins both of its pairs."""
    pairs = ComparedPairs(np.array([0, 0, 1]), np.array([1, 2, 2]), tensor(0.5, 0.5, 0.5))
    sums, certain = tensor(-1, -2, -3), tensor(1, 1, 1)
    found = pair_loss(loss_of("dpo", beta=0.6), sums, sums, torch.ones(3), pairs, certain)
    assert found.loss == pytest.approx(math.log(2))
    assert found.slopes.tolist() == pytest.approx([-0.2, 0, 0.2])
    assert found.agreement.tolist() == [0.5, 0.5, 0.5]


def test_a_loss_that_couples_pairs_gets_all_of_them_at_once() -> None:
    """AOT pairs the k-th smallest margin with the k-th smallest of the reference: −4 with −6, and 3 with 0."""
    pairs = ComparedPairs(np.array([0, 2]), np.array([1, 3]), tensor(0.5, 0.5))
    sums, refs = tensor(-1, -4, -5, -9), tensor(-1, -1, -1, -7)
    found = pair_loss(loss_of("aot", beta=1.0), sums, refs, torch.ones(4), pairs, tensor(1, 0))
    assert found.loss == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 2)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("wpo", r"'wpo' names policy_chosen_log_weights, policy_rejected_log_weights, which answers that are sampled"),
        ("ld_dpo", r"names policy_chosen_common_logps.*they have policy_chosen_logps, .*chosen_lengths.*, p"),
        ("nash", "names anchor_chosen_logps"), ("rebel", "names reward_margin"), ("xpo", "names target_logps"),
    ],
)  # fmt: skip
def test_a_loss_that_pairs_of_sampled_answers_cannot_fill_is_refused(loss: str, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        chosen_pair_loss(loss_of(loss), "sampled")


def test_a_loss_that_couples_pairs_takes_no_soft_labels() -> None:
    chosen_pair_loss(loss_of("aot"), "sampled")
    with pytest.raises(SpecError, match=r"'aot' couples the pairs of a batch.*choose `labels: sampled`"):
        chosen_pair_loss(loss_of("aot"), "soft")


def test_payoffs_are_antisymmetric_and_log_odds_are_bounded() -> None:
    assert payoffs(tensor(0.75, 0.25, 0.5), "probability").tolist() == [0.25, -0.25, 0]
    assert payoffs(tensor(0.75, 0.25, 0.5), "log_odds").tolist() == pytest.approx([math.log(3), -math.log(3), 0])
    assert payoffs(tensor(1, 0), "log_odds").tolist() == pytest.approx([math.log(999), -math.log(999)])


def test_the_payoff_of_an_answer_is_the_mean_over_its_opponents() -> None:
    found = mean_payoffs(tensor(0.25, -0.25, 0.5), torch.tensor([0, 0, 2]), 3)
    assert found.tolist()[::2] == [0, 0.5]
    assert math.isnan(found[1])
