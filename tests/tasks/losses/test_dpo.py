"""DPO against the fixtures of TRL 1.16 (executed in float64), a NumPy version of the paper, and its limits."""

import math

import numpy as np
import pytest
import torch

from tasks.losses.pairwise.dpo import dpo


def _double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _loss(chosen=-10.0, rejected=-14.0, ref_chosen=-12.0, ref_rejected=-13.0, p=math.nan, **params):  # type: ignore[no-untyped-def]
    columns = [_double(v) for v in (chosen, rejected, ref_chosen, ref_rejected, p, 5.0, 8.0)]
    return dpo(*columns, **params)


def test_the_parity_pair_gives_trls_sigmoid_loss() -> None:
    """a = 2, b = −1, β·delta = 0.3: log(1 + e^−0.3) = 0.554355."""
    assert _loss().item() == pytest.approx(0.554355, abs=1e-6)


def test_soft_labels_at_p_nine_tenths_give_classic_cdpo() -> None:
    """0.554355 + 0.1 · 0.3 = 0.584355."""
    assert _loss(p=0.9, labels="soft").item() == pytest.approx(0.584355, abs=1e-6)


def test_it_agrees_with_the_paper_in_numpy() -> None:
    rng = np.random.default_rng(0)
    yw, yl, rw, rl = rng.normal(-20, 5, (4, 50))
    p, beta = rng.uniform(size=50), 0.7
    sigma = 1 / (1 + np.exp(-beta * ((yw - rw) - (yl - rl))))
    columns = [torch.from_numpy(x) for x in (yw, yl, rw, rl, p, np.ones(50), np.ones(50))]
    np.testing.assert_allclose(dpo(*columns, beta=beta), -np.log(sigma), rtol=1e-9)
    expected = -p * np.log(sigma) - (1 - p) * np.log(1 - sigma)
    np.testing.assert_allclose(dpo(*columns, beta=beta, labels="soft"), expected, rtol=1e-9)


def test_hard_labels_do_not_read_p_and_soft_ones_do() -> None:
    assert math.isfinite(_loss(p=math.nan, labels="hard").item())
    assert math.isnan(_loss(p=math.nan, labels="soft").item())
