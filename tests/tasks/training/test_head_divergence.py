"""The chunked reverse KL over the vocabulary against one line of torch, values and gradients, and what it keeps."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tasks.training.head import LanguageHead
from tasks.training.head_divergence import head_divergence


class Case(NamedTuple):
    cap: float = 0.0
    scale: float = 1.0
    bias: bool = False
    student: int = 700
    teacher: int = 700


CASES = {
    "plain": Case(), "capped and scaled": Case(5.0, 0.7), "a bias": Case(bias=True),
    "a wider teacher": Case(teacher=720), "a wider student": Case(student=720), "wider, capped": Case(5.0, student=704),
}  # fmt: skip
POSITIONS, WIDTH, TEACHER_WIDTH = 1100, 8, 12


def _inputs(case: Case) -> tuple[Tensor, LanguageHead, Tensor, LanguageHead, Tensor]:
    torch.manual_seed(3)
    hidden, other = torch.randn(POSITIONS, WIDTH), torch.randn(POSITIONS, TEACHER_WIDTH)
    bias = torch.randn(case.student).requires_grad_() if case.bias else None
    head = LanguageHead((torch.randn(case.student, WIDTH) / 3).requires_grad_(), bias, case.cap, case.scale)
    teacher = LanguageHead((torch.randn(case.teacher, TEACHER_WIDTH) / 3).requires_grad_(), None, 9.0, 1.3)
    return hidden.requires_grad_(), head, other.requires_grad_(), teacher, torch.randint(case.student, (POSITIONS,))


def _naive(
    hidden: Tensor, head: LanguageHead, other: Tensor, teacher: LanguageHead, targets: Tensor
) -> tuple[Tensor, Tensor]:
    def logits(h: Tensor, of: LanguageHead) -> Tensor:
        found = (h @ of.weight.T + (0 if of.bias is None else of.bias)) * of.scale
        return of.cap * torch.tanh(found / of.cap) if of.cap else found

    own, others = logits(hidden, head), logits(other, teacher)
    width = min(own.shape[1], others.shape[1])
    p, q = own[:, :width].log_softmax(1), others[:, :width].log_softmax(1).detach()
    return own.log_softmax(1).gather(1, targets[:, None])[:, 0], (p.exp() * (p - q)).sum(1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_the_whole_table(case: Case) -> None:
    """In float64 the table's; differences are relative to the largest entry. 1,100 positions are three chunks."""
    found, exact = _inputs(case), _inputs(case)
    exact = tuple(  # type: ignore[assignment]
        x.double() if isinstance(x, Tensor) and x.is_floating_point()
        else x._replace(weight=x.weight.double(), bias=None if x.bias is None else x.bias.double())
        if isinstance(x, LanguageHead) else x for x in exact
    )  # fmt: skip
    weights = torch.randn(2, POSITIONS)
    results, gradients = [], []
    for one, outputs in ((found, head_divergence(*found, logits=0)), (exact, _naive(*exact))):
        results.append(torch.stack([*outputs]).double())
        leaves = [one[0], one[1].weight] + ([] if one[1].bias is None else [one[1].bias])
        total = (results[-1] * weights.double()).sum()
        gradients.append([g.double() for g in torch.autograd.grad(total, leaves)])
    for a, b in zip([results[0], *gradients[0]], [results[1], *gradients[1]], strict=True):
        assert float((a - b).detach().abs().max() / b.detach().abs().max()) < 1e-6


def test_equal_heads_are_zero_nats_apart_and_have_no_slope() -> None:
    hidden, head, _, _, targets = _inputs(Case())
    found = head_divergence(hidden, head, hidden.detach(), head, targets, 0)
    assert float(found.reverse_kl.detach().abs().max()) < 1e-5
    found.reverse_kl.sum().backward()
    assert hidden.grad is not None
    assert float(hidden.grad.abs().max()) < 1e-4


def test_two_tokens_as_worked_by_hand() -> None:
    """π = (¾, ¼), teacher (½, ½): ¾·log 1.5 + ¼·log ½ = .130812; slope of the first logit ¾·(log 1.5 − .130812)."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    head = LanguageHead(torch.tensor([[3.0], [1.0]]).log())
    found = head_divergence(hidden, head, torch.zeros(1, 1), LanguageHead(torch.zeros(2, 1)), torch.tensor([1]), 0)
    assert found.reverse_kl.item() == pytest.approx(0.130812, abs=1e-6)
    assert found.logps.item() == pytest.approx(-1.386294, abs=1e-6)
    found.reverse_kl.sum().backward()
    slope = 0.75 * (0.405465 - 0.130812)  # of the first logit; the second has minus it; d logits/d hidden: log 3, 0
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(slope * 1.098612, abs=1e-6)


def test_no_table_of_all_positions_and_tokens_is_kept_between_the_passes() -> None:
    sizes: list[int] = []

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        head_divergence(*_inputs(Case()), logits=0).reverse_kl.sum().backward()
    assert max(sizes) <= POSITIONS * TEACHER_WIDTH  # one with all positions and tokens has 1100 · 700
