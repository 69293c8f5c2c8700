"""The optima that trainings are held against: worked by hand, and as points where the tasks' own losses stand still."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.advantages.kl import kl_losses
from tests.enumerable import kl, normalised
from tests.tasks.rollouts.letters import ANSWERS
from tests.tasks.rollouts.optima import FORMS, by_contexts, hyperbolic, optimum, tilted

BETA = 0.5
LENGTHS = torch.tensor([len(answer) for answer in ANSWERS])
CONTEXTS = sorted({answer[:t] for answer in ANSWERS for t in range(len(answer))})
STATES = torch.tensor([CONTEXTS.index(answer[:t]) for answer in ANSWERS for t in range(len(answer))])
TOKENS = torch.tensor([token for answer in ANSWERS for token in answer])
OWNER = torch.repeat_interleave(torch.arange(len(ANSWERS)), LENGTHS)


def test_two_answers_of_a_half_with_scores_1_and_0_at_a_price_of_1() -> None:
    """½/(λ − 1) + ½/λ = 1 gives λ = 1 + √½, and e/(1 + e) is the logistic function of 1."""
    ref, scores = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    np.testing.assert_allclose(hyperbolic(ref, scores, 1.0), [np.sqrt(0.5), 1 - np.sqrt(0.5)], atol=1e-12)
    np.testing.assert_allclose(tilted(ref, scores, 1.0), [0.731059, 0.268941], atol=1e-6)


def test_a_token_counts_by_the_mean_score_of_what_follows_it() -> None:
    """First tokens 1 and 2 of a half each; behind 1 only 0 follows, behind 2 the tokens 0 and 1 with scores 1 and 0.

    At a price of 1 the second context is that of the test above, σ(1) = 0.731059, whose mean score is 0.731059; the
    first context has the scores 0.2 and 0.731059: σ(0.531059) = 0.629730 for token 2."""
    answers, ref = [(1, 0), (2, 0), (2, 1)], np.log([[0.5, 0.25, 0.25]])
    made = by_contexts(ref, np.array([[0.2, 1.0, 0.0]]), answers, lambda r, q: tilted(r, q, 1.0))
    expected = [1 - 0.629730, 0.629730 * 0.731059, 0.629730 * 0.268941]
    np.testing.assert_allclose(np.exp(made[0]), expected, atol=1e-6)


def _logps(logits: Tensor) -> Tensor:
    """`(M,)`, of all answers' tokens end to end."""
    return logits.log_softmax(-1)[STATES, TOKENS]


def _logits_of(log_policy: np.ndarray) -> Tensor:
    """Of a table with one distribution per context."""
    table = torch.full((len(CONTEXTS), 4), -40.0, dtype=torch.float64)
    for i, context in enumerate(CONTEXTS):
        for token in {a[len(context)] for a in ANSWERS if a[: len(context)] == context and a != context}:
            below = [n for n, a in enumerate(ANSWERS) if a[: len(context) + 1] == (*context, token)]
            table[i, token] = float(np.logaddexp.reduce(log_policy[below]))
    return table


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_gradient_of_the_loss_is_zero_at_the_optimum_and_at_no_other_forms(form: str) -> None:
    """Of REINFORCE with the mean score as baseline, over all answers weighted by their probabilities."""
    rng = np.random.default_rng(2)
    log_ref = normalised(rng.normal(size=(1, len(ANSWERS))))
    rewards = rng.normal(size=log_ref.shape)
    optima = {other: optimum(other, log_ref, rewards, BETA, ANSWERS) for other in FORMS}
    sizes = {other: _gradient(form, log_ref, rewards, at) for other, at in optima.items()}
    twins = {"reward", "sequence_k2"} if form in ("reward", "sequence_k2") else {form}
    assert max(sizes[other] for other in twins) < 1e-7
    assert min(size for other, size in sizes.items() if other not in twins) > 1e-3
    assert min(kl(a, optima[form]) for other, a in optima.items() if other not in twins) > 0.01
    np.testing.assert_allclose(np.exp(optima[form]).sum(), 1)


def _gradient(form: str, log_ref: np.ndarray, rewards: np.ndarray, at: np.ndarray) -> float:
    """The largest entry of the mean gradient in a table's logits."""
    logits = _logits_of(at[0]).requires_grad_()
    logps, ref = _logps(logits), _logps(_logits_of(log_ref[0]))
    sums = torch.zeros(len(ANSWERS), dtype=torch.float64).index_add(0, OWNER, logps)
    chance, scores = sums.detach().exp(), torch.from_numpy(rewards[0])
    if form == "reward":
        scores = scores - BETA * torch.zeros_like(scores).index_add(0, OWNER, (logps - ref).detach())
    losses = -(scores - (chance * scores).sum())[OWNER] * logps
    if form != "reward":
        level, estimator = form.split("_")
        losses = losses + BETA * kl_losses(estimator, level, logps - ref, OWNER)  # type: ignore[arg-type]
    (chance[OWNER] * losses).sum().backward()
    assert logits.grad is not None
    return float(logits.grad.abs().max())
