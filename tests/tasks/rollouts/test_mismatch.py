"""The difference between sampler and trainer: its numbers, and the factors that correct it, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from tasks.rollouts.mismatch import importance_weights, mismatch_metrics
from tasks.rollouts.settings import Correction

RATIOS = [1.0, 4.0, 0.25, 2.0, 0.5]
LENGTHS = torch.tensor([2, 3])
"""The products of the answers' ratios are 4 and 0.25."""


def _logs(ratios: list[float]) -> Tensor:
    return torch.tensor(ratios).double().log()


def _factors(correction: Correction) -> list[float]:
    weights = importance_weights(_logs(RATIOS), LENGTHS, correction)
    assert weights is not None
    return weights.tolist()


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (Correction("truncate"), [1, 2, 0.25, 2, 0.5]), (Correction("truncate", largest=3.0), [1, 3, 0.25, 2, 0.5]),
        (Correction("mask", smallest=0.45, largest=2.5), [1, 0, 0, 2, 0.5]),
        (Correction("truncate", "sequence"), [2, 2, 0.25, 0.25, 0.25]),
        (Correction("mask", "sequence", largest=5.0), [4, 4, 0, 0, 0]),
        (Correction("mask", "sequence", smallest=0.2), [0, 0, 0.25, 0.25, 0.25]),
    ],
)  # fmt: skip
def test_ratios_are_lowered_to_a_cap_or_left_out(correction: Correction, expected: list[float]) -> None:
    assert _factors(correction) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_weighted_unless_a_correction_is_chosen() -> None:
    assert importance_weights(_logs(RATIOS), LENGTHS, Correction()) is None


@pytest.mark.parametrize("kind", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_equal_log_probabilities_give_factors_of_exactly_one(kind: str, level: str) -> None:
    weights = importance_weights(torch.zeros(5).double(), LENGTHS, Correction(kind, level))  # type: ignore[arg-type]
    assert weights is not None
    assert weights.tolist() == [1.0] * 5


def test_a_log_ratio_without_bounds_gives_a_finite_factor() -> None:
    found = importance_weights(torch.tensor([1e4, -1e4]).double(), torch.tensor([2]), Correction("truncate", largest=3))
    assert found is not None
    assert found.tolist() == pytest.approx([3, math.exp(-20)])


def test_the_curves_of_four_tokens() -> None:
    """ρ = 2, ½, 1, 1: differences ln 2, ln 2, 0, 0; Σρ = 4.5, Σρ² = 6.25, 4.5²/(4·6.25) = 0.81; Σ log ρ = 0, so
    that k1 is 0 and k3 the mean of ρ − 1, 0.125. The cap of 1.5 changes one token of four."""
    metrics = mismatch_metrics(_logs([2, 0.5, 1, 1]), torch.tensor([1, 3]), Correction("truncate", largest=1.5))
    assert metrics == pytest.approx(
        {
            "sampler/logp_difference": math.log(2) / 2, "sampler/logp_difference_max": math.log(2),
            "sampler/ratio_mean": 1.125, "sampler/ratio_min": 0.5, "sampler/ratio_max": 2.0,
            "sampler/effective_share": 0.81, "sampler/kl": 0.0, "sampler/kl_k3": 0.125, "sampler/corrected": 0.25,
        }
    )  # fmt: skip


def test_an_answers_own_ratio_counts_as_uncorrected() -> None:
    """Products 4 and 0.25 of the answers lie in the bounds, so nothing is cut although the factors are no token's."""
    correction = Correction("mask", "sequence", smallest=0.2, largest=5.0)
    assert mismatch_metrics(_logs(RATIOS), LENGTHS, correction)["sampler/corrected"] == 0
    assert "sampler/corrected" not in mismatch_metrics(_logs(RATIOS), LENGTHS)


def test_the_estimates_of_kl_are_those_of_the_distributions() -> None:
    """μ = (½, ½), π = (¾, ¼), in the shares of μ: KL(μ ‖ π) = ½·ln(½/¾) + ½·ln(½/¼) = ½·ln(4/3); ρ has the mean 1."""
    metrics = mismatch_metrics(_logs([1.5, 0.5]), torch.tensor([2]))
    assert metrics["sampler/ratio_mean"] == pytest.approx(1)
    assert metrics["sampler/kl"] == pytest.approx(metrics["sampler/kl_k3"]) == pytest.approx(0.5 * math.log(4 / 3))


def test_weighted_means_over_the_samplers_tokens_are_the_trainers() -> None:
    """μ = (0.8, 0.2), π = (0.5, 0.5), and a quantity of 1 and 3: 8·1·⅝ + 2·3·2.5 of ten tokens is π's mean of 2. Cut at
    2 the second ratio gives 1.7, nearer than the plain mean of 1.4."""
    quantity, log_ratios = torch.tensor([1.0] * 8 + [3.0] * 2).double(), _logs([0.625] * 8 + [2.5] * 2)
    means = [
        float((quantity * weights).mean())
        for largest in (3.0, 2.0)
        for weights in [importance_weights(log_ratios, torch.tensor([10]), Correction("truncate", largest=largest))]
        if weights is not None
    ]
    assert [float(quantity.mean()), *means] == pytest.approx([1.4, 2.0, 1.7])


def _policy(seed: int) -> Tensor:
    """Log-probabilities of a next letter or EOS, `(letters so far, 4)`, for answers of at most two letters."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, generator=generator, dtype=torch.float64).log_softmax(1)


ANSWERS = [[0], *[[a, b] for a in (1, 2, 3) for b in (0, 1, 2, 3)]]
"""EOS is 0: it ends an answer, which is cut after two tokens. The states are 0, and the first letter."""
TOKENS = torch.tensor([t for answer in ANSWERS for t in answer])
STATES = torch.tensor([s for answer in ANSWERS for s in ([0] if len(answer) == 1 else [0, answer[0]])])
ENUMERATED = torch.tensor([len(answer) for answer in ANSWERS])


def _gradient(sampler: Tensor, trainer: Tensor, correction: Correction) -> Tensor:
    """The exact mean gradient of −A·log π over all answers of the sampler, with A between −1 and 1."""
    logits = trainer.clone().requires_grad_()
    logps = logits.log_softmax(1)[STATES, TOKENS]
    sampler_logps = sampler[STATES, TOKENS]
    answer = torch.repeat_interleave(torch.arange(len(ANSWERS)), ENUMERATED)
    shares = torch.zeros(len(ANSWERS)).double().index_add(0, answer, sampler_logps).exp()
    assert float(shares.sum()) == pytest.approx(1)
    advantages = torch.linspace(-1, 1, len(ANSWERS)).double()
    weights = importance_weights(logps.detach() - sampler_logps, ENUMERATED, correction)
    losses = -advantages[answer] * logps * (1 if weights is None else weights)
    (shares[answer] * losses).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_weighted_answers_of_a_disturbed_sampler_have_the_gradient_of_the_trainers_own() -> None:
    """The products of ratios give it exactly; ratios of tokens, and caps that bind, come nearer than nothing."""
    trainer = _policy(1)
    sampler = (1.25 * trainer).log_softmax(1)
    own = _gradient(trainer, trainer, Correction())
    wide = {"smallest": 0.0, "largest": 1e9}
    errors = {
        name: float((_gradient(sampler, trainer, correction) - own).norm() / own.norm())
        for name, correction in {
            "none": Correction(), "token": Correction("truncate"), "answer": Correction("truncate", "sequence"),
            "exact": Correction("truncate", "sequence", **wide), "mask": Correction("mask", "sequence", **wide),
        }.items()
    }  # fmt: skip
    assert errors["exact"] < 1e-12 > errors["mask"]
    assert errors["token"] < errors["none"] / 2 > errors["answer"]
