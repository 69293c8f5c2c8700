"""Which way each loss pushes: where its gradient turns, that it is 0 at kinks, and its signs elsewhere."""

import math
from typing import Any

import pytest
import torch

from tests.tasks.losses.tables import (
    SHIPPED,
    arguments,
    chosen,
    extreme_batch,
    pair,
    random_batch,
    slope,
    with_grad,
)  # fmt: skip

SLOPES = {"logistic": -0.5, "hinge": -1.0, "squared": -2.0, "exponential": -1.0, "truncated_squared": -2.0,
          "savage": -0.25}  # fmt: skip
PUSHES = {
    "dpo", "robust_dpo", "dpo_reference_free", "dpo_two_betas", "dpo_positive", "rpo", "hinge", "apo_zero", "bco",
    "orpo", "simpo", "cpo", "length_dpo", "ld_dpo", "wpo", "slic", "aot", "xpo",
}  # fmt: skip
"""Losses of pairs by which a step raises the chosen answer and lowers the rejected one, wherever the policy is."""
TURNS = {"ipo", "sppo_single", "rebel", "nash", "exo", "nca", "discopop", "apo_down", "gpo", "soft_sft"}
"""The others of the folder: what they push towards is in the tests of their optima below."""


@pytest.mark.parametrize("curve", SLOPES)
def test_the_curves_leave_the_reference_with_their_slopes(curve: str) -> None:
    assert slope("pairwise/gpo", {"beta": 0.3, "curve": curve}) == pytest.approx(0.3 * SLOPES[curve])


OPTIMA: list[tuple[str, dict[str, Any], dict[str, float], str, float]] = [
    ("pairwise/ipo", {"tau": 0.1, "norm": "sum"}, {}, "policy_chosen_logps", 5.0),
    ("pairwise/ipo", {"tau": 0.1, "norm": "length"}, {"chosen_lengths": 4.0}, "policy_chosen_logps", 20.0),
    ("pairwise/nash", {"eta": 0.1, "r": 0.25}, {}, "policy_chosen_logps", 5.0),
    ("pairwise/rebel", {"eta": 2.0}, {"reward_margin": 1.5}, "policy_chosen_logps", 3.0),
    ("pairwise/rebel", {"eta": 2.0}, {"reward_margin": -1.5}, "policy_chosen_logps", -3.0),
    ("pairwise/sppo_single", {"eta": 10.0}, {"p": 0.8}, "policy_chosen_logps", 3.0),
    ("pairwise/sppo_single", {"eta": 10.0}, {"p": 0.8}, "policy_rejected_logps", -3.0),
    ("pairwise/sppo_single", {"eta": 10.0}, {"p": 0.5}, "policy_chosen_logps", 0.0),
    ("pairwise/dpo", {"beta": 0.5, "labels": "soft"}, {"p": 0.8}, "policy_chosen_logps", 2 * math.log(4)),
    ("pairwise/dpo", {"beta": 0.5, "label_smoothing": 0.1}, {}, "policy_chosen_logps", 2 * math.log(9)),
    ("pairwise/exo", {"beta": 0.5, "label_smoothing": 0.1}, {}, "policy_chosen_logps", 2 * math.log(9)),
    ("pairwise/nca", {"beta": 0.5}, {}, "policy_chosen_logps", 2 * math.log(2)),
    ("pairwise/apo_down", {"beta": 0.5}, {}, "policy_chosen_logps", 0.0),
    ("pairwise/gpo", {"beta": 0.5, "curve": "squared"}, {}, "policy_chosen_logps", 2.0),
    ("pairwise/discopop", {"beta": 0.5, "tau": 0.05}, {}, "policy_chosen_logps", -0.23714),
    ("pairwise/discopop", {"beta": 0.5, "tau": 0.05}, {}, "policy_chosen_logps", 0.144012),
    ("pointwise/sppo", {"eta": 10.0}, {"win_rate": 0.8}, "policy_logps", 3.0),
    ("pointwise/sppo", {"eta": 10.0}, {"win_rate": 0.5}, "policy_logps", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "params", "values", "name", "at"), OPTIMA, ids=str)
def test_the_gradient_turns_where_the_optimum_is(loss: str, params: Any, values: Any, name: str, at: float) -> None:
    """0 there, and of opposite signs half a nat below and above; DiscoPOP has a minimum and a maximum."""
    if loss == "pointwise/sppo":
        values = {**values, "prompt_win_rates": values["win_rate"]}

    def gradient(x: float) -> float:
        batch = pair(loss, **{**values, name: x})
        if loss == "pointwise/sppo":
            batch["prompt_win_rates"] = batch["prompt_win_rates"].detach()[:, None]
        chosen(loss, params)(**batch).sum().backward()
        found = batch[name].grad
        assert found is not None
        return float(found)

    assert gradient(at) == pytest.approx(0, abs=1e-4)
    if loss not in ("pairwise/discopop", "pairwise/apo_down"):
        assert gradient(at - 0.5) < 0 < gradient(at + 0.5)


def test_exo_is_0_where_the_policy_has_the_labels_probability() -> None:
    batch = pair("pairwise/exo", policy_chosen_logps=2 * math.log(9))
    assert chosen("pairwise/exo", {"beta": 0.5, "label_smoothing": 0.1})(**batch).item() == pytest.approx(0, abs=1e-12)


def test_discopop_pushes_pairs_near_the_reference_the_wrong_way() -> None:
    """−¾ + (1 − log 2)/(4·0.05) = 0.784264 at the reference."""
    assert slope("pairwise/discopop", {"beta": 1.0, "tau": 0.05}) == pytest.approx(0.784264, abs=1e-6)


def test_a_positive_alpha_of_length_dpo_favours_length_and_a_negative_one_is_r_dpo() -> None:
    """Under an even label (both orders of one pair) the optimum is β·d = α·(n_w − n_l): 6 tokens more, d = 6·α/β."""
    for alpha, d in ((0.05, 3.0), (-0.05, -3.0)):
        params = {"beta": 0.1, "alpha": alpha}
        one = slope("pairwise/length_dpo", params, policy_chosen_logps=d, chosen_lengths=8.0, rejected_lengths=2.0)
        other = slope("pairwise/length_dpo", params, "policy_rejected_logps", policy_rejected_logps=d,
                      chosen_lengths=2.0, rejected_lengths=8.0)  # fmt: skip
        assert one + other == pytest.approx(0, abs=1e-12)


KINKS: list[tuple[str, dict[str, Any], dict[str, float], str]] = [
    ("pairwise/hinge", {"beta": 0.5}, {"policy_chosen_logps": 2.0}, "policy_chosen_logps"),
    ("pairwise/gpo", {"beta": 0.5, "curve": "hinge"}, {"policy_chosen_logps": 2.0}, "policy_rejected_logps"),
    ("pairwise/gpo", {"beta": 0.5, "curve": "truncated_squared"}, {"policy_chosen_logps": 2.0}, "policy_chosen_logps"),
    ("pairwise/slic", {"delta": 2.0, "lam": 0.5}, {"policy_chosen_logps": 2.0}, "policy_chosen_logps"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "params", "values", "name"), KINKS, ids=str)
def test_the_gradient_at_a_kink_is_0(loss: str, params: Any, values: Any, name: str) -> None:
    assert slope(loss, params, name, **values) == 0


def test_the_penalty_of_dpo_positive_has_no_gradient_at_its_kink() -> None:
    """At the reference, where training starts, the gradient is DPO's: −β/2. Just below it is 51 times that."""
    params = {"beta": 0.1, "lam": 50.0}
    assert slope("pairwise/dpo_positive", params) == pytest.approx(-0.05)
    assert slope("pairwise/dpo_positive", params, policy_chosen_logps=-1e-9) == pytest.approx(-0.05 * 51)


def test_rrhf_has_no_gradient_where_a_worse_answer_is_level() -> None:
    logps = torch.tensor([[-2.0, -2.0]], dtype=torch.float64, requires_grad=True)
    ones, order = torch.ones(1, 2).double(), torch.tensor([[1.0, 0.0]]).double()
    chosen("listwise/rrhf", {})(logps, ones, order, ones.bool()).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[-1.0, 0.0]]


def test_every_loss_of_pairs_is_a_push_or_a_turn() -> None:
    names = {name.split("/")[1] for name in SHIPPED if name.startswith("pairwise/")}
    assert names == PUSHES | TURNS, "say which way these push, or where they turn"


@pytest.mark.parametrize("name", sorted(PUSHES))
def test_a_step_raises_the_chosen_answer_and_lowers_the_rejected_one(name: str) -> None:
    loss = f"pairwise/{name}"
    params = {"alpha": 0.1} if name == "length_dpo" else {}
    for batch in (random_batch(loss, 40), extreme_batch(loss)):
        inputs = with_grad(batch)
        chosen(loss, params)(**inputs).sum().backward()
        for argument, sign in zip(("policy_chosen_logps", "policy_rejected_logps"), (-1, 1), strict=True):
            gradient = inputs[argument].grad
            assert gradient is not None
            assert (sign * gradient >= 0).all(), argument
            assert (sign * gradient).max() > 0
            ref = inputs.get(argument.replace("policy", "ref"))
            if ref is not None and ref.grad is not None and name not in ("rpo", "xpo"):
                assert (sign * ref.grad <= 0).all()


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("loss", ["pointwise/kto", "pointwise/apo_zero_unpaired"])
def test_a_step_raises_desirable_answers_and_lowers_undesirable_ones(loss: str, label: bool) -> None:
    inputs = with_grad({**random_batch(loss, 20), "label": torch.full((20,), label)})
    chosen(loss, {})(**inputs).sum().backward()
    gradient = inputs["policy_logps"].grad
    assert gradient is not None
    assert ((gradient < 0) == label).all()


def test_an_answer_that_is_certain_has_finite_odds() -> None:
    for side in ("chosen", "rejected"):
        for dtype in (torch.float32, torch.float64):
            batch = {
                n: torch.tensor([-5.0 if n.startswith("policy") else 5.0], dtype=dtype)
                for n in arguments("pairwise/orpo")
            }
            batch[f"policy_{side}_logps"] = torch.zeros(1, dtype=dtype)
            inputs = with_grad(batch)
            value = chosen("pairwise/orpo", {})(**inputs)
            value.sum().backward()
            assert value.isfinite().all()
            assert all(t.grad is None or t.grad.isfinite().all() for t in inputs.values())
