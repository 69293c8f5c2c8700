"""Value and gradient of every loss against its paper's formula in 50 digits, at random and at log-ratios of ±10,000."""

import math
from typing import Any

import pytest
import torch
from mpmath import diff, mpf
from torch import Tensor

from tests.tasks.losses.papers import PAPERS
from tests.tasks.losses.tables import SHIPPED, arguments, chosen, extreme_batch, random_batch, rows_of, with_grad

CASES = [(loss, setting) for loss in SHIPPED if loss in PAPERS for setting in PAPERS[loss].settings]
FAR = [case for case in CASES if not case[0].startswith("rl/")]
"""Losses of rl hold ratios at e^±20: `test_surrogates.py` has their values and gradients far out."""
COMPARED = 1e15
"""Larger values are finite in both types, and only that is asked for: a curve may go on along its tangent."""


def test_every_loss_has_its_papers_formula() -> None:
    assert sorted(set(SHIPPED) - set(PAPERS)) == [], "write the formulas of these losses in papers.py"


@pytest.mark.parametrize("loss", [loss for loss in SHIPPED if loss in PAPERS])
def test_the_settings_try_every_parameter(loss: str) -> None:
    """Each parameter takes a value that is not its default, so a parameter that is not read shows."""
    defaults = chosen(loss, {}).function.__kwdefaults__ or {}
    tried = {n: {s[n] for s in PAPERS[loss].settings if n in s} for n in defaults}
    assert all(values - {defaults[n]} for n, values in tried.items()), tried


@pytest.mark.parametrize(("loss", "setting"), CASES, ids=str)
def test_values_and_gradients_are_the_papers(loss: str, setting: dict[str, Any]) -> None:
    batch = random_batch(loss, 8 if PAPERS[loss].batch else 12)
    _compare(loss, setting, batch, 1e-9)


@pytest.mark.parametrize(("loss", "setting"), FAR, ids=str)
def test_log_ratios_of_ten_thousand_nats_are_the_papers_too(loss: str, setting: dict[str, Any]) -> None:
    _compare(loss, setting, extreme_batch(loss), 1e-9)


@pytest.mark.parametrize(("loss", "setting"), FAR, ids=str)
def test_float32_is_finite_and_near_at_log_ratios_of_ten_thousand_nats(loss: str, setting: dict[str, Any]) -> None:
    single = {n: t.float() if t.is_floating_point() else t for n, t in extreme_batch(loss).items()}
    found, double = (
        with_grad(single),
        with_grad({n: t.double() if t.is_floating_point() else t for n, t in single.items()}),
    )
    values = chosen(loss, setting)(**found)
    exact = chosen(loss, setting)(**double)
    values.sum().backward()
    exact.sum().backward()
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    torch.testing.assert_close(values.double(), exact, rtol=1e-3, atol=1e-2)
    for name, tensor in found.items():
        if tensor.grad is not None:
            assert tensor.grad.isfinite().all(), name


def _compare(loss: str, setting: dict[str, Any], batch: dict[str, Tensor], tolerance: float) -> None:
    """The loss's values, and its gradients in every argument of numbers, against the formula's."""
    inputs = with_grad(batch)
    values = chosen(loss, setting)(**inputs)
    assert values.shape == (len(next(iter(batch.values()))),)
    values.sum().backward()
    rows = rows_of(loss, batch)
    expected = _formula(loss, setting, rows)
    known = arguments(loss)
    for i, row in enumerate(rows):
        assert math.isfinite(values[i].item()), row
        if abs(expected[i]) > COMPARED:
            continue
        assert values[i].item() == pytest.approx(float(expected[i]), rel=tolerance, abs=1e-12), row
        for name, tensor in inputs.items():
            gradient = tensor.grad[i] if tensor.grad is not None else torch.zeros_like(tensor[i])
            if known[name].output == "weight" or known[name].filled_by == "mismatched":
                assert not gradient.any(), f"{name} must be detached"
            elif tensor.requires_grad and known[name].filled_by != "length":
                _compare_gradient(
                    loss,
                    setting,
                    rows,
                    i,
                    name,
                    gradient[batch["mask"][i]] if gradient.ndim and "mask" in batch else gradient,
                )


def _compare_gradient(
    loss: str, setting: dict[str, Any], rows: list[dict[str, Any]], i: int, name: str, found: Tensor
) -> None:
    for place, gradient in enumerate(found.reshape(-1).tolist()):

        def total(x: Any, place: int = place) -> Any:
            value = [x if j == place else v for j, v in enumerate(rows[i][name])] if found.ndim else x
            moved = [{**row, name: value} if j == i else row for j, row in enumerate(rows)]
            held = rows if PAPERS[loss].batch else [rows[i]]
            return sum(_formula(loss, setting, moved if PAPERS[loss].batch else [moved[i]], held))

        at = rows[i][name][place] if found.ndim else rows[i][name]
        if name in ("target_scores", "prompt_win_rates") and loss != "pointwise/sppo":
            continue  # only their order counts
        expected = float(diff(total, mpf(at)))
        assert gradient == pytest.approx(expected, rel=1e-8, abs=1e-12), f"gradient in {name} of {rows[i]}"


def _formula(
    loss: str, setting: dict[str, Any], rows: list[dict[str, Any]], held: list[dict[str, Any]] | None = None
) -> list[Any]:
    """The losses of `rows`; their weights, which have no gradient, are those of `held` (default: of the rows)."""
    paper = PAPERS[loss]
    exact, fixed = ([{n: _exact(v) for n, v in row.items()} for row in these] for these in (rows, held or rows))
    if paper.batch:
        return list(paper.formula(**{n: [row[n] for row in exact] for n in exact[0]}, **setting))
    return [
        paper.weight(**at, **setting) * paper.formula(**row, **setting) for row, at in zip(exact, fixed, strict=True)
    ]


def _exact(value: Any) -> Any:
    if isinstance(value, list):
        return [_exact(v) for v in value]
    return value if isinstance(value, bool) else mpf(value)
