"""What each loss becomes at its limits: the reference itself, equal sides, special parameters, ties, bad tensors."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tasks.losses.tables import (
    SHIPPED,
    arguments,
    chosen,
    opposite,
    pair,
    random_batch,
    tensors,
    with_grad,
)  # fmt: skip

HARD = {"beta": 0.3}
LOG2 = math.log(2)
AT_REFERENCE: list[tuple[str, dict[str, Any], float]] = [
    ("pairwise/dpo", HARD, LOG2), ("pairwise/dpo", {**HARD, "labels": "soft"}, LOG2),
    ("pairwise/dpo", {**HARD, "label_smoothing": 0.2, "norm": "length"}, LOG2),
    ("pairwise/robust_dpo", {**HARD, "label_smoothing": 0.2}, LOG2), ("pairwise/dpo_two_betas", {}, LOG2),
    ("pairwise/dpo_positive", HARD, LOG2), ("pairwise/ipo", {"tau": 0.25, "norm": "sum"}, 4.0),
    ("pairwise/ipo", {"tau": 0.25, "norm": "length"}, 4.0), ("pairwise/hinge", HARD, 1.0),
    ("pairwise/apo_zero", HARD, 1.0), ("pairwise/apo_down", HARD, 1.0), ("pairwise/nca", HARD, 2 * LOG2),
    ("pairwise/bco", HARD, 2 * LOG2), ("pairwise/discopop", HARD, (1 + LOG2) / 2),
    ("pairwise/exo", {**HARD, "label_smoothing": 0.1}, -LOG2 - math.log(0.9 * 0.1) / 2),
    ("pairwise/gpo", {**HARD, "curve": "logistic"}, LOG2), ("pairwise/gpo", {**HARD, "curve": "hinge"}, 1.0),
    ("pairwise/gpo", {**HARD, "curve": "squared"}, 1.0), ("pairwise/gpo", {**HARD, "curve": "exponential"}, 1.0),
    ("pairwise/gpo", {**HARD, "curve": "truncated_squared"}, 1.0), ("pairwise/gpo", {**HARD, "curve": "savage"}, 0.25),
    ("pairwise/nash", {"eta": 0.25, "r": 0.5}, 4.0), ("pairwise/ld_dpo", HARD, LOG2), ("pairwise/aot", HARD, LOG2),
    ("pairwise/xpo", {**HARD, "alpha": 0.0}, LOG2), ("pointwise/apo_zero_unpaired", HARD, 0.5),
]  # fmt: skip
EQUAL: list[tuple[str, dict[str, Any], str, dict[str, Any], float]] = [
    ("pairwise/dpo_two_betas", {"beta_plus": 0.3, "beta_minus": 0.3}, "pairwise/dpo", HARD, 1),
    ("pairwise/robust_dpo", {**HARD, "label_smoothing": 0.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/dpo_positive", {**HARD, "lam": 0.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/rpo", {**HARD, "alpha": 0.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/length_dpo", {**HARD, "alpha": 0.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/xpo", {**HARD, "alpha": 0.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/ld_dpo", {**HARD, "alpha": 1.0}, "pairwise/dpo", HARD, 1),
    ("pairwise/gpo", {**HARD, "curve": "logistic"}, "pairwise/dpo", HARD, 1),
    ("pairwise/gpo", {**HARD, "curve": "hinge"}, "pairwise/hinge", HARD, 1),
    ("pairwise/gpo", {"beta": 0.5, "curve": "squared"}, "pairwise/ipo", {"tau": 0.25, "norm": "sum"}, 4 * 0.25**2),
    ("pairwise/cpo", {**HARD, "alpha": 0.0}, "pairwise/dpo_reference_free", HARD, 1),
    ("pairwise/nash", {"eta": 0.2, "r": 0.0}, "pairwise/ipo", {"tau": 0.2, "norm": "sum"}, 1),
]  # fmt: skip
"""A loss, its twin, and how many times the twin it is, on any batch."""


def at_reference(loss: str, rows: int = 6) -> dict[str, Tensor]:
    """A batch whose policy is its reference, and its anchor."""
    batch = random_batch(loss, rows)
    for name in batch:
        for source in ("ref_", "anchor_"):
            if name.startswith(source):
                batch[name] = batch[f"policy_{name.removeprefix(source)}"].clone()
    return batch


@pytest.mark.parametrize(("loss", "params", "expected"), AT_REFERENCE, ids=str)
def test_a_policy_equal_to_its_reference_has_the_known_loss(loss: str, params: Any, expected: float) -> None:
    losses = chosen(loss, params)(**at_reference(loss))
    assert losses.tolist() == pytest.approx([expected] * 6)


@pytest.mark.parametrize("loss", ["pairwise/dpo", "pairwise/robust_dpo", "pairwise/dpo_reference_free"])
def test_beta_towards_0_makes_all_pairs_cost_log_2(loss: str) -> None:
    assert chosen(loss, {"beta": 1e-12})(**random_batch(loss, 5)).tolist() == pytest.approx([LOG2] * 5)


@pytest.mark.parametrize(("loss", "params", "twin", "of_twin", "times"), EQUAL, ids=str)
def test_special_parameters_make_a_loss_another_one(
    loss: str, params: Any, twin: str, of_twin: Any, times: float
) -> None:
    batch = {**random_batch(twin, 20), **random_batch(loss, 20)}
    values = [chosen(n, p)(**{a: batch[a] for a in arguments(n)}) for n, p in ((loss, params), (twin, of_twin))]
    torch.testing.assert_close(values[0], times * values[1], rtol=1e-12, atol=1e-12)


def test_nash_with_the_anchor_alone_is_ipo_on_the_anchor() -> None:
    batch = random_batch("pairwise/nash", 20)
    as_ref = {f"ref_{s}_logps": batch[f"anchor_{s}_logps"] for s in ("chosen", "rejected")}
    lengths = {f"{s}_lengths": torch.ones(20).double() for s in ("chosen", "rejected")}
    policy = {n: t for n, t in batch.items() if n.startswith("policy")}
    ipo = chosen("pairwise/ipo", {"tau": 0.2, "norm": "sum"})(**policy, **as_ref, **lengths)
    torch.testing.assert_close(chosen("pairwise/nash", {"eta": 0.2, "r": 1.0})(**batch), ipo)


def test_aot_on_one_pair_is_dpo_with_smoothed_labels_and_on_several_it_is_not() -> None:
    params = {"beta": 0.3, "label_smoothing": 0.1}
    for rows, equal in ((1, True), (6, False)):
        batch = random_batch("pairwise/dpo", rows)
        aot = chosen("pairwise/aot", params)(**{n: batch[n] for n in arguments("pairwise/aot")}).mean()
        assert (aot.item() == pytest.approx(chosen("pairwise/dpo", params)(**batch).mean().item())) is equal


def test_kto_at_a_reference_point_of_0_or_below_is_the_unpaired_anchored_loss() -> None:
    batch = random_batch("pointwise/kto", 10)
    unpaired = chosen("pointwise/apo_zero_unpaired", HARD)(
        **{n: batch[n] for n in arguments("pointwise/apo_zero_unpaired")}
    )
    for point in (0.0, -3.0):
        batch["kl_reference"] = torch.full((10,), point).double()
        torch.testing.assert_close(chosen("pointwise/kto", HARD)(**batch), unpaired)


def test_two_answers_make_the_losses_of_rankings_those_of_pairs() -> None:
    scores = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    ref, order = scores.flip(1) * 0.3, torch.tensor([[2.0, 1.0]]).double().expand(9, 2)
    mask = torch.ones(9, 2, dtype=torch.bool)
    pairs = chosen("reward/bradley_terry", {})(scores[:, 0], scores[:, 1], torch.zeros(9).double())
    for loss in ("reward/plackett_luce", "reward/all_pairs"):
        torch.testing.assert_close(chosen(loss, {})(scores, order, mask), pairs)
    columns = scores[:, 0], scores[:, 1], ref[:, 0], ref[:, 1], *[torch.ones(9).double()] * 3
    torch.testing.assert_close(
        chosen("listwise/pl_dpo", HARD)(scores, ref, order, mask), chosen("pairwise/dpo", HARD)(*columns)
    )


def test_equal_answers_have_the_loss_of_a_draw() -> None:
    """K equal strengths: log K!, and log 2 for a mean over pairs."""
    scores, order, mask = torch.zeros(1, 4), torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    assert chosen("reward/plackett_luce", {})(scores, order, mask).item() == pytest.approx(math.log(24))
    assert chosen("listwise/pl_dpo", HARD)(scores, scores, order, mask).item() == pytest.approx(math.log(24))
    assert chosen("reward/all_pairs", {})(scores, order, mask).item() == pytest.approx(LOG2)


def test_tied_answers_are_not_compared_and_the_order_of_rows_decides_nothing() -> None:
    """Strengths 2, 1 tie above −0.5: log(e² + e^−.5) − 2 + log(e + e^−.5) − 1 = 0.280303; for pairs its half."""
    strengths, targets = [2.0, 1.0, -0.5], [5.0, 5.0, 1.0]
    by_hand = math.log1p(math.exp(-2.5)) + math.log1p(math.exp(-1.5))
    mask = torch.ones(1, 3, dtype=torch.bool)
    for order in permutations(range(3)):
        scores, target = (torch.tensor([[x[i] for i in order]]).double() for x in (strengths, targets))
        assert chosen("reward/plackett_luce", {})(scores, target, mask).item() == pytest.approx(by_hand)
        assert chosen("reward/all_pairs", {})(scores, target, mask).item() == pytest.approx(by_hand / 2)


@pytest.mark.parametrize(
    ("loss", "params"), [("reward/plackett_luce", {}), ("reward/all_pairs", {}), ("listwise/pl_dpo", HARD)]
)
def test_a_prompt_whose_answers_all_tie_or_that_has_one_costs_nothing(loss: str, params: Any) -> None:
    for targets, there in (([1.0, 1.0, 1.0], [True] * 3), ([3.0, 2.0, 1.0], [True, False, False])):
        batch = random_batch(loss, 1)
        batch = {n: t[:, :3] for n, t in batch.items()}
        batch |= {"target_scores": torch.tensor([targets]).double(), "mask": torch.tensor([there])}
        inputs = with_grad(batch)
        value = chosen(loss, params)(**inputs)
        value.sum().backward()
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert all(t.grad is None or t.grad.abs().max() < 1e-12 for t in inputs.values())


@pytest.mark.parametrize(
    "loss", [n for n in SHIPPED if n.startswith(("listwise", "reward")) and "mask" in arguments(n)]
)
def test_what_stands_where_there_is_no_answer_has_no_influence(loss: str) -> None:
    batch = random_batch(loss, 8)
    noise = {n: torch.where(batch["mask"], t, 77.0) if t.dtype != torch.bool else t for n, t in batch.items()}
    found, other = with_grad(batch), with_grad(noise)
    values = [chosen(loss, {})(**b) for b in (found, other)]
    assert values[0].tolist() == values[1].tolist()
    for value in values:
        value.sum().backward()
    for name, tensor in other.items():
        if tensor.grad is not None:
            assert not tensor.grad[~batch["mask"]].any()
            assert tensor.grad.tolist() == found[name].grad.tolist()  # type: ignore[union-attr]


def test_swapping_the_sides_of_a_pair_with_its_label_changes_nothing() -> None:
    for loss, params, label in (
        ("pairwise/dpo", {"beta": 0.3, "labels": "soft", "label_smoothing": 0.1}, "p"),
        ("pairwise/sppo_single", {}, "p"), ("pairwise/rebel", {}, "reward_margin"),
    ):  # fmt: skip
        batch = random_batch(loss, 10)
        turned = {n: batch[opposite(n)] for n in batch}
        turned[label] = 1 - batch["p"] if label == "p" else -batch[label]
        torch.testing.assert_close(chosen(loss, params)(**batch), chosen(loss, params)(**turned))


def test_robust_dpo_is_in_the_mean_over_flipped_labels_dpo_and_has_no_lower_bound() -> None:
    batch, e = random_batch("pairwise/robust_dpo", 10), 0.2
    flipped = {n: batch[opposite(n)] for n in batch}
    robust = chosen("pairwise/robust_dpo", {"beta": 0.3, "label_smoothing": e})
    dpo = chosen("pairwise/gpo", {"beta": 0.3, "curve": "logistic"})
    torch.testing.assert_close((1 - e) * robust(**batch) + e * robust(**flipped), dpo(**batch))
    assert robust(**pair("pairwise/robust_dpo", policy_chosen_logps=1000.0)).item() == pytest.approx(-0.2 * 300 / 0.6)


@pytest.mark.parametrize("loss", SHIPPED)
def test_shapes_that_torch_would_broadcast_are_refused_with_their_names(loss: str) -> None:
    batch = random_batch(loss, 2)
    needed = {"curve": "hinge", "norm": "sum", "alpha": 0.1}
    params = {n: v for n, v in needed.items() if n in chosen(loss, {}).function.__annotations__}
    chosen(loss, params)(**batch)
    for name in batch:
        with pytest.raises(ValueError, match=r"must have one shape: .*\w+ \(\d(, \d)?,?\).*\(\d(, \d)?,?\)"):
            chosen(loss, params)(**{n: t[:1] if n == name else t for n, t in batch.items()})


def test_missing_probabilities_give_nan_which_the_trainer_refuses() -> None:
    """Hard labels do not read p."""
    nan = torch.tensor([math.nan]).double()
    for loss, params in (("pairwise/dpo", {"labels": "soft"}), ("pairwise/sppo_single", {})):
        assert chosen(loss, params)(**{**pair(loss), "p": nan}).isnan().all()
    assert chosen("pairwise/dpo", {})(**{**pair("pairwise/dpo"), "p": nan}).isfinite().all()
    assert chosen("pairwise/rebel", {})(**{**pair("pairwise/rebel"), "reward_margin": nan}).isnan().all()


def test_win_rates_of_prompts_with_fewer_answers_are_padded_with_nan_and_not_counted() -> None:
    row = {"policy_logps": [-3.0], "ref_logps": [-5.0], "win_rate": [0.8]}
    given = {n: torch.tensor(v).double() for n, v in row.items()}
    losses = [
        chosen("pointwise/sppo", {"eta": 2.0, "log_z": "estimated"})(
            **given, prompt_win_rates=torch.tensor([[0.2, 0.8, *padding]]).double()
        )
        for padding in ([], [math.nan, math.nan])
    ]
    assert losses[0].item() == pytest.approx(losses[1].item())


def test_a_large_eta_does_not_overflow_the_estimate_of_log_z() -> None:
    given = [torch.tensor(v).double() for v in ([-3.0], [-5.0], [0.8], [[0.2, 0.8]])]
    loss = chosen("pointwise/sppo", {"eta": 1e4, "log_z": "estimated"})(*given)
    assert loss.item() == pytest.approx((2 - math.log(2)) ** 2)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    zero, far = torch.zeros(1).double(), torch.full((1,), 500.0).double()
    assert chosen("reward/bradley_terry", {})(-far, far, zero).item() == pytest.approx(1000.0)
    assert chosen("reward/bradley_terry", {})(far, -far, zero).item() == 0


def test_soft_sft_raises_each_answer_by_its_probability_and_is_sft_where_the_label_is_certain() -> None:
    """−.7·(−2) − .3·(−5) = 2.9; by the log-probabilities −.7 and −.3; at p = 1 it is minus that of chosen."""
    soft = chosen("pairwise/soft_sft", {})
    batch = with_grad(tensors({"policy_chosen_logps": -2.0, "policy_rejected_logps": -5.0, "p": 0.7}))
    loss = soft(**batch)
    loss.sum().backward()
    gradients = [batch[f"policy_{side}_logps"].grad.item() for side in ("chosen", "rejected")]  # type: ignore[union-attr]
    assert [loss.item(), *gradients] == pytest.approx([2.9, -0.7, -0.3])
    assert soft(**tensors({"policy_chosen_logps": -2.0, "policy_rejected_logps": -5.0, "p": 1.0})).item() == 2.0


def test_cross_entropy_is_least_at_the_log_odds_and_broken_outside_of_probabilities() -> None:
    entropy = chosen("reward/cross_entropy", {})
    batch = with_grad(tensors({"scores": math.log(0.7 / 0.3), "win_prob": 0.7}), ["scores"])
    entropy(**batch).sum().backward()
    assert batch["scores"].grad.item() == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]
    assert entropy(**tensors({"scores": 0.0, "win_prob": 1.0})).item() == pytest.approx(math.log(2))
    assert entropy(**tensors({"scores": 0.0, "win_prob": 1.1})).isnan().all()
