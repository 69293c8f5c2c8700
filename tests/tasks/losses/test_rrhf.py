"""RRHF against the value worked by hand, a NumPy version of the paper, ties, masks and the signs of its gradient."""

import numpy as np
import pytest
import torch

from tasks.losses.listwise.rrhf import rrhf

Double = torch.Tensor


def _double(*rows: list[float]) -> Double:
    return torch.tensor(rows, dtype=torch.float64)


def _all(scores: Double) -> Double:
    return torch.ones_like(scores, dtype=torch.bool)


def _rank(p: Double, lengths: Double, scores: Double, mask: Double | None = None, **options: str) -> Double:
    """The ranking term alone: the loss less its likelihood term, which weight 0 leaves."""
    mask = _all(scores) if mask is None else mask
    inputs = p * lengths, lengths, scores, mask
    return rrhf(*inputs, **options) - rrhf(*inputs, rank_weight=0, **options)  # type: ignore[arg-type]


def test_the_ranking_term_is_the_one_worked_by_hand() -> None:
    """p = −1, −.8, −1.5 with scores 3, 1, 2. Wrong pairs: (1 above 3) .2, (1 above 2) .7, and 2 is below 3: .9."""
    p, scores = _double([-1, -0.8, -1.5]), _double([3, 1, 2])
    for lengths in (_double([1, 1, 1]), _double([5, 2, 9])):
        assert _rank(p, lengths, scores).item() == pytest.approx(0.9)
    loss = rrhf(p * _double([5, 2, 9]), _double([5, 2, 9]), scores, _all(scores), rank_weight=2.0)
    assert loss.item() == pytest.approx(2 * 0.9 + 5)


def test_the_likelihood_is_that_of_the_best_answer_whole_or_per_token() -> None:
    logps, lengths, scores = _double([-12, -3]), _double([4, 1]), _double([1, 0])
    assert rrhf(logps, lengths, scores, _all(scores)).item() == pytest.approx(12)
    assert rrhf(logps, lengths, scores, _all(scores), average="token").item() == pytest.approx(3)


def test_padded_lengths_compare_sums() -> None:
    """p per own token: −3, −3, no wrong pair. Over the longest, 4: −3 and −.75, so the worse one is above by 2.25."""
    logps, lengths, scores = _double([-12, -3]), _double([4, 1]), _double([1, 0])
    assert _rank(logps / lengths, lengths, scores).item() == 0
    assert _rank(logps / lengths, lengths, scores, length_norm="longest").item() == pytest.approx(2.25)


def test_it_agrees_with_the_paper_in_numpy() -> None:
    rng = np.random.default_rng(0)
    logps, lengths = rng.normal(-20, 5, (6, 5)), rng.integers(3, 12, (6, 5)).astype(float)
    scores, mask = rng.integers(0, 3, (6, 5)).astype(float), np.arange(5) < rng.integers(2, 6, (6, 1))
    found = rrhf(*(torch.from_numpy(x) for x in (logps, lengths, scores, mask)), rank_weight=1.5)
    for n in range(6):
        real = np.flatnonzero(mask[n])
        p = logps[n] / lengths[n]
        wrong = sum(max(0, p[i] - p[j]) for i in real for j in real if scores[n, i] < scores[n, j])
        best = max(real, key=lambda i: (scores[n, i], -i))
        assert found[n].item() == pytest.approx(1.5 * wrong - logps[n, best], rel=1e-12)


def test_the_worse_answer_above_is_pushed_down_and_the_better_one_up() -> None:
    logps = _double([-6, -2, -9]).requires_grad_()
    lengths, scores = _double([2, 2, 3]), _double([1, 0, 2])
    # p = −3, −1, −3: the second, worst, stands above both; the first and the third are level.
    rrhf(logps, lengths, scores, _all(scores), average="token").sum().backward()
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx([-1 / 2, 2 / 2, -1 / 3 - 1 / 3])


def test_ties_make_no_pair_and_the_first_of_several_best_is_learnt() -> None:
    logps, lengths, scores = _double([-9, -2, -1]), _double([3, 2, 1]), _double([4, 4, 4])
    assert rrhf(logps, lengths, scores, _all(scores)).item() == pytest.approx(9)


def test_places_without_an_answer_change_nothing() -> None:
    logps, lengths, scores = _double([-6, -2]), _double([2, 2]), _double([-1, -2])
    short = rrhf(logps, lengths, scores, _all(scores))
    padded = [torch.cat([x, _double([fill])], dim=1) for x, fill in ((logps, 0.0), (lengths, 1.0), (scores, 7.0))]
    mask = torch.tensor([[True, True, False]])
    for length_norm in ("own", "longest"):
        found = padded[0].clone().requires_grad_()
        loss = rrhf(found, padded[1], padded[2], mask, length_norm=length_norm)  # type: ignore[arg-type]
        loss.sum().backward()
        assert loss.item() == pytest.approx(short.item())
        assert found.grad is not None
        assert found.grad[0, 2].item() == 0
