"""Numbers that were computed elsewhere or by hand; TRL's are those of TRL 1.16's own branches, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tasks.losses.tables import arguments, chosen, tensors

PAIR = {
    "policy_chosen_logps": -10.0, "policy_rejected_logps": -14.0, "ref_chosen_logps": -12.0,
    "ref_rejected_logps": -13.0, "chosen_lengths": 5.0, "rejected_lengths": 8.0, "target_logps": -10.0,
    "p": math.nan, "margin": 0.0,
}  # fmt: skip
"""a = 2, b = −1, d = 3. Labels are hard unless a case gives p."""
RANKED = {"target_scores": [3.0, 2.0, 1.0], "mask": [True, True, True]}
LABELLED = {"desirable_share": 0.5}

CASES: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("pairwise/dpo", {"beta": 0.1}, {}, 0.554355),
    ("pairwise/dpo", {"beta": 0.1, "label_smoothing": 0.1}, {}, 0.584355),
    ("pairwise/dpo", {"beta": 0.1, "labels": "soft"}, {"p": 0.9}, 0.584355),
    ("pairwise/dpo", {"beta": 0.1, "norm": "length"}, {}, 0.667242),
    ("pairwise/robust_dpo", {"beta": 0.1, "label_smoothing": 0.1}, {}, 0.516855),
    ("pairwise/dpo_two_betas", {"beta_plus": 0.1, "beta_minus": 0.1}, {}, 0.554355),
    ("pairwise/ipo", {"tau": 0.1, "norm": "sum"}, {}, 4.0),
    ("pairwise/ipo", {"tau": 0.1, "norm": "length"}, {}, 20.025625),
    ("pairwise/hinge", {"beta": 0.1}, {}, 0.7),
    ("pairwise/sppo_single", {"eta": 10.0}, {"p": 1.0}, 12.5),
    ("pairwise/exo", {"beta": 0.1, "label_smoothing": 1e-3}, {}, 2.258199),
    ("pairwise/nca", {"beta": 0.1}, {}, 1.319407),
    ("pairwise/bco", {"beta": 0.1}, {}, 1.242536),
    ("pairwise/aot", {"beta": 0.1, "label_smoothing": 0.1}, {}, 0.584355),
    ("pairwise/apo_zero", {"beta": 0.1}, {}, 0.925187),
    ("pairwise/apo_down", {"beta": 0.1}, {}, 0.975391),
    ("pairwise/discopop", {"beta": 0.1, "tau": 0.05}, {}, 0.740357),
    ("pairwise/rpo", {"beta": 0.1, "alpha": 1.0}, {}, 2.554355),
    ("pairwise/dpo_positive", {"beta": 0.1, "lam": 50.0}, {}, 0.554355),
    ("pairwise/dpo_positive", {"beta": 0.1, "lam": 50.0}, {"policy_chosen_logps": -12.5}, 2.532772),
    ("pairwise/slic", {"delta": 1.0, "lam": 0.5}, {}, 5.0),
    ("pairwise/slic", {"delta": 1.0, "lam": 0.5}, {"policy_rejected_logps": -10.5}, 5.5),
    ("pairwise/simpo", {"beta": 2.0, "gamma": 1.0}, {}, 1.701413),
    ("pairwise/orpo", {"lam": 0.1}, {}, 2.085176),
    ("pairwise/cpo", {"beta": 0.1, "alpha": 1.0}, {}, 2.513015),
    # β·d = 0.3 less 0.1 · (5 − 8): log(1 + e^−0.6)
    ("pairwise/length_dpo", {"beta": 0.1, "alpha": 0.1}, {}, 0.437488),
    # (3 − 2·0.5)²
    ("pairwise/rebel", {"eta": 2.0}, {"reward_margin": 0.5}, 4.0),
    ("pointwise/sppo", {"eta": 10.0}, {"policy_logps": -10.0, "ref_logps": -12.0, "win_rate": 0.8,
                                       "prompt_win_rates": [0.8, 0.3]}, 1.0),
    ("pointwise/sppo", {"eta": 10.0}, {"policy_logps": -14.0, "ref_logps": -13.0, "win_rate": 0.3,
                                       "prompt_win_rates": [0.8, 0.3]}, 1.0),
    ("pointwise/kto", {"beta": 0.1}, {**LABELLED, "policy_logps": -10.0, "ref_logps": -12.0, "label": True,
                                      "kl_reference": 0.5}, 0.462570),
    ("pointwise/kto", {"beta": 0.1}, {**LABELLED, "policy_logps": -14.0, "ref_logps": -13.0, "label": False,
                                      "kl_reference": 0.5}, 0.462570),
    ("pointwise/kto", {"beta": 0.1}, {**LABELLED, "policy_logps": -10.0, "ref_logps": -12.0, "label": True,
                                      "kl_reference": 0.25}, 0.456361),
    ("pointwise/kto", {"beta": 0.1}, {**LABELLED, "policy_logps": -14.0, "ref_logps": -13.0, "label": False,
                                      "kl_reference": 0.25}, 0.468791),
    ("pointwise/sft", {}, {"policy_logps": -10.0, "lengths": 5.0}, 2.0),
    ("pointwise/sft", {"average": "answer"}, {"policy_logps": -10.0, "lengths": 5.0}, 10.0),
    ("listwise/rrhf", {}, {**RANKED, "policy_logps": [-1.0, -0.8, -1.5], "lengths": [1.0, 1.0, 1.0],
                           "target_scores": [3.0, 1.0, 2.0]}, 0.9 + 1.0),
    ("listwise/pl_dpo", {"beta": 0.5}, {**RANKED, "policy_logps": [-1.0, -3.0, -6.0],
                                        "ref_logps": [-5.0, -5.0, -5.0]}, 0.572952),
    ("reward/plackett_luce", {}, {**RANKED, "scores": [2.0, 1.0, -0.5]}, 0.572952),
    ("reward/all_pairs", {}, {**RANKED, "scores": [2.0, 1.0, -0.5]}, 0.197855),
    # log(1 + e^−1.5); a margin of 1 leaves a gap of 0.5, half of it a gap of 1; 0.01 · 2.5² beside
    ("reward/bradley_terry", {}, {"chosen_scores": 2.0, "rejected_scores": 0.5, "margin": 1.0}, 0.201413),
    ("reward/bradley_terry", {"margin_scale": 1.0}, {"chosen_scores": 2.0, "rejected_scores": 0.5, "margin": 1.0},
     0.474077),
    ("reward/bradley_terry", {"margin_scale": 0.5}, {"chosen_scores": 2.0, "rejected_scores": 0.5, "margin": 1.0},
     0.313262),
    ("reward/bradley_terry", {"centring": 0.01}, {"chosen_scores": 2.0, "rejected_scores": 0.5}, 0.263913),
]  # fmt: skip


def loss_of_row(loss: str, params: dict[str, Any], row: dict[str, Any]) -> Tensor:
    """The loss of one row: what the case does not give is the parity pair's."""
    given = {**PAIR, **row}
    return torch.as_tensor(chosen(loss, params)(**tensors({name: given[name] for name in arguments(loss)})))


@pytest.mark.parametrize(("loss", "params", "row", "expected"), CASES, ids=lambda v: str(v)[:40])
def test_the_number_is_reproduced(loss: str, params: dict[str, Any], row: dict[str, Any], expected: float) -> None:
    assert loss_of_row(loss, params, row).item() == pytest.approx(expected, abs=1e-6)


def test_trls_hard_sppo_is_twice_the_authors_loss_for_pairs() -> None:
    """TRL's `sppo_hard` at β 0.1, (2 − 5)² + (−1 + 5)² = 25, is 12.5 here: its own β is 1/η."""
    assert 2 * loss_of_row("pairwise/sppo_single", {"eta": 10.0}, {"p": 1.0}).item() == pytest.approx(25)


def test_aot_compares_the_sorted_margins_of_two_pairs() -> None:
    """Policy [4, 1] against reference [1, 2]: sorted, 1 − 1 and 4 − 2; unsorted it would be 0.659376."""
    batch = {
        "policy_chosen_logps": [-10.0, -10.0], "policy_rejected_logps": [-14.0, -11.0],
        "ref_chosen_logps": [-12.0, -11.0], "ref_rejected_logps": [-13.0, -13.0],
    }  # fmt: skip
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in batch.items()}
    losses = chosen("pairwise/aot", {"beta": 0.1, "label_smoothing": 0.1})(**given)
    assert losses.mean().item() == pytest.approx(0.655643, abs=1e-6)


def test_adversarial_preference_optimizations_reward_model_is_bradley_terry_with_weights() -> None:
    """A person's pair with logits 1 and 0.2, a golden pair with .5 and .7 and weight .025, over both rows."""
    row = [[1.0, 0.5], [0.2, 0.7], [0.0, 0.0]]
    losses = chosen("reward/bradley_terry", {})(*(torch.tensor(x, dtype=torch.float64) for x in row))
    assert (losses / 2).tolist() == pytest.approx([0.185550, 0.399069], abs=1e-6)
    assert (losses * torch.tensor([1.0, 0.025])).mean().item() == pytest.approx(0.195527, abs=1e-6)
