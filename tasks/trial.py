"""Trial calls of choices on synthetic inputs, for `alignflow check --deep`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tasks.calls import PAIR_COLUMNS
from tasks.contract import Chosen, SpecError
from tasks.families import LOSSES, LossArgument, LossTable

if TYPE_CHECKING:
    from torch import Tensor

_B, _K = 5, 3


def try_choice(choice: Chosen) -> None:
    """Call a choice that is cheap to call. Raises SpecError if it fails or returns an invalid value."""
    trial = try_loss if choice.folder in LOSSES else _TRIALS.get(choice.folder)
    if trial is None:
        return
    try:
        trial(choice)
    except SpecError:
        raise
    except Exception as e:
        raise SpecError(f"{choice.module} fails on synthetic inputs: {type(e).__name__}: {e}") from e


def try_loss(loss: Chosen) -> None:
    """Raises SpecError unless the loss returns one finite number per row with a gradient in the model's outputs."""
    from torch import Tensor

    from tasks.training.examples import reward_scale

    family = LOSSES[loss.folder]
    parameters = inspect.signature(loss.function).parameters
    names = [n for n in family.arguments if n in parameters]
    layout = family.table_of(names)
    arguments = layout.named(names) if layout else ()
    inputs = {a.name: _synthetic(a, layout, family.outputs == "logps") for a in arguments if layout}
    own = [inputs[a.name].requires_grad_() for a in arguments if a.learns]
    losses = loss(**inputs)
    if not isinstance(losses, Tensor) or losses.shape != (_B,):
        returned = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise SpecError(f"{loss.module} returned {returned} for {_B} rows; it must return one loss per row, ({_B},)")
    if not losses.isfinite().all():
        raise SpecError(f"{loss.module} is not finite on synthetic inputs: {losses.tolist()}")
    if not losses.requires_grad or not any(g.any() for g in _gradients(losses, own)):
        raise SpecError(f"{loss.module} has no gradient in the model's outputs, so it cannot train")
    if not 0 < (scale := reward_scale(loss)) < float("inf"):
        raise SpecError(f"reward_scale of {loss.module} is {scale}; it must be a number above 0")


def _gradients(losses: Tensor, own: list[Tensor]) -> list[Tensor]:
    import torch

    gradients = torch.autograd.grad(losses.sum(), own, allow_unused=True)
    return [g for g in gradients if g is not None]


def _synthetic(argument: LossArgument, layout: LossTable, from_logps: bool) -> Tensor:
    """`(B,)` or `(B, K)`: log-probabilities below 0, lengths above, everything else in (0, 1)."""
    import torch

    shape = (_B, _K) if argument.holds == "list" or layout.answers == "list" else (_B,)
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(len(argument.name)), dtype=torch.float64)
    if argument.filled_by == "mask":
        return torch.ones(shape, dtype=torch.bool)
    if argument.holds == "bool":
        return torch.arange(_B) % 2 == 0
    if argument.filled_by == "length":
        return (10 * numbers).floor() + 1
    if argument.filled_by in ("mismatched", "share"):
        return numbers[:1].expand(_B).clone()
    logp = argument.filled_by in ("reference", "anchor", "target") or (argument.filled_by == "model" and from_logps)
    return -10 * numbers - 1 if logp and argument.output != "weight" else numbers


def _try_pair_rule(rule: Chosen) -> None:
    import polars as pl

    frame = pl.DataFrame({
        "prompt": [0, 0, 0], "answers": [3, 3, 3], "a": [0, 0, 1], "b": [1, 2, 2], "a_id": ["x", "x", "y"],
        "b_id": ["y", "z", "z"], "a_win_rate": [0.8, 0.8, 0.5], "b_win_rate": [0.5, 0.2, 0.2], "a_place": [0, 0, 1],
        "b_place": [1, 2, 2], "p": [0.7, 0.9, 0.7], "uncertainty": [0.1, 0.2, 0.1],
    })  # fmt: skip
    result = rule(frame.select(list(PAIR_COLUMNS)))
    if not isinstance(result, pl.DataFrame) or not {"a", "b", "p"} <= set(result.columns):
        returned = result.columns if isinstance(result, pl.DataFrame) else type(result).__name__
        raise SpecError(f"{rule.module} returned {returned}; it must return a frame with the columns a, b and p")


def _try_controller(controller: Chosen) -> None:
    after = controller(0.1, 5.0, 64)
    if not isinstance(after, float) or not 0 <= after < float("inf"):
        raise SpecError(f"{controller.module} returned {after!r} for a coefficient of 0.1; it must return a number ≥ 0")


def _try_responses(rule: Chosen) -> None:
    texts = rule("A fox eats mice.")
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise SpecError(f"{rule.module} returned {type(texts).__name__}; it must return a list of texts")


_TRIALS: Mapping[str, Callable[[Chosen], None]] = {
    "pair_rules": _try_pair_rule, "kl_controllers": _try_controller, "responses": _try_responses,
}  # fmt: skip
