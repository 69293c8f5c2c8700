"""The KL as a loss: its gradient in the mean, worked out over all answers of a table, and far from the reference."""

import pytest
import torch
from torch import Tensor

from tasks.advantages.kl import k3, kl_losses

RATIOS, ANSWER = torch.tensor([0.2, -0.1, 0.5]).double(), torch.tensor([0, 0, 1])


def test_an_answers_loss_is_the_estimate_of_its_sum_shared_among_its_tokens() -> None:
    """Sums 0.1 and 0.5: k2 0.005 and 0.125; k3 e^−0.1 − 0.9 = 0.004837 and e^−0.5 − 0.5 = 0.106531."""
    for name, one, other in (("k2", 0.005, 0.125), ("k3", 0.0048374, 0.1065307)):
        found = kl_losses(name, "sequence", RATIOS, ANSWER)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx([one / 2, one / 2, other], abs=1e-7)
    assert kl_losses("k2", "token", RATIOS, ANSWER).tolist() == pytest.approx([0.02, 0.005, 0.125])


@pytest.mark.parametrize(("name", "forward"), [("k2", False), ("k3", True)])
def test_the_mean_gradient_of_an_answers_estimate_is_that_of_the_kl(name: str, forward: bool) -> None:
    """Answers are drawn from π; Σ π·∇k2 is ∇KL(π ‖ π_ref), Σ π·∇k3 is ∇KL(π_ref ‖ π), over four answers."""
    scores = torch.tensor([0.3, -0.5, 1.0, 0.0]).double().requires_grad_()
    logps, ref = scores.log_softmax(0), torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log()
    losses = kl_losses(name, "sequence", logps - ref, torch.arange(4))  # type: ignore[arg-type]
    (found,) = torch.autograd.grad((logps.detach().exp() * losses).sum(), scores, retain_graph=True)
    exact = (ref.exp() * (ref - logps)).sum() if forward else (logps.exp() * (logps - ref)).sum()
    (expected,) = torch.autograd.grad(exact, scores)
    torch.testing.assert_close(found, expected)


def test_a_token_far_below_the_reference_has_a_finite_gradient_that_is_never_of_the_wrong_sign() -> None:
    """Descent on k3 raises tokens below the reference and lowers those above it; below −20 nats it does nothing."""
    far = torch.tensor([-1e4, -21.0, -19.0, 19.0, 1e4]).double().requires_grad_()
    k3(far).sum().backward()
    gradient: Tensor = far.grad  # type: ignore[assignment]
    assert gradient[:2].tolist() == [0, 0]
    assert gradient[2] < -1e8
    assert gradient[3:].tolist() == pytest.approx([1, 1])
