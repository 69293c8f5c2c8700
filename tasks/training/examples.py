"""Filling a loss's arguments by name: the values of a table's rows, and of log-probabilities under fixed models.

The loss's family (`tasks.families`) defines which arguments there are and what fills them. The model's outputs are
filled in at each step; everything else is fixed and stored here, one entry per row.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.contract import COUPLES_ROWS, NEEDS_TARGETS, REWARD_SCALE, Chosen, SpecError
from tasks.families import LOSSES, NO_TARGETS, LossArgument, LossFamily, LossTable
from tasks.kinds import Logps, Model, Policy, Scores, Table
from tasks.training.attribute_targets import standardised
from tasks.training.example_checks import check_classes, check_finite, check_weights
from tasks.training.heads import Attribute
from tasks.training.mismatched import Mismatched, mismatched_rows
from tasks.training.row_values import joined, joined_common, listed, mean_of, numbers, values_of_answers
from tasks.training.rows import CHOSEN, TARGET, Ints, Rows, with_common_lengths

AverageOver = Literal["rows", "weights"]


@dataclass(frozen=True)
class Examples:
    """N rows with what the loss is filled from. Numbers are float64."""

    rows: Rows
    family: LossFamily
    layout: LossTable
    """What a row holds."""
    arguments: tuple[LossArgument, ...]
    """The loss's positional arguments."""
    columns: Mapping[str, Tensor]
    """`(N,)` or `(N, K)` each: what fills the arguments, but for the model's outputs. K is the most in any row."""
    weights: Tensor
    """`(N,)`."""
    ref_logps: Tensor | None
    """`(A,)`, for the metrics."""
    worth: Tensor | None
    """`(A,)`: how good each answer is by the table; None if the table has no judgement."""
    reward_scale: float
    """Factor from a log-ratio to an implicit reward."""
    mismatched: Mismatched | None = None
    """What the policy's divergence from its reference is estimated on, where the loss reads that."""
    couples_rows: bool = False
    """Whether a row's loss depends on the others of its optimizer batch."""
    average_over: AverageOver = "rows"
    outputs: tuple[str, ...] = field(default=("",))
    """What the model gives for an answer (`LossArgument.output`): one number each, `(S,)`, or `(S, O)` of several."""

    attributes: tuple[Attribute, ...] = ()
    """What the outputs of a reward model estimate, `(S, M)` of M > 1; empty where it gives one score."""

    def main_output(self, outputs: Tensor) -> Tensor:
        """`(S,)`: the log-probability or score of each answer, the mean over attributes, among the model's outputs."""
        if outputs.ndim == 1:
            return outputs
        return outputs.mean(dim=1) if self.attributes else outputs[:, 0]

    def total_weight(self, batch: Ints) -> float:
        """What the weighted losses of an optimizer batch are divided by, once they are added up."""
        if self.average_over == "rows":
            return float(len(batch))
        return float(self.weights[torch.from_numpy(batch)].sum()) or 1.0

    @cached_property
    def preferred(self) -> Tensor | None:
        """`(A,)` bool: which answers should become likelier; None if the table has no judgement."""
        if self.worth is None or self.layout.answers != "list":
            return None if self.worth is None else self.worth > 0.5
        padded = padded_rows(self.rows, torch.arange(len(self.rows)), self.worth, -torch.inf)
        return (padded == padded.amax(dim=1, keepdim=True))[padded > -torch.inf]


def examples_of(
    table: Table, rows: Rows, loss: Chosen, ref_logps: Logps | None, trained: type[Model] = Policy, *,
    anchor_logps: Sequence[Logps] = (), mismatched: Rows | None = None, mismatched_logps: Logps | None = None,
    average_over: AverageOver = "rows", attributes: tuple[Attribute, ...] = (),
) -> Examples:  # fmt: skip
    """What a loss is filled from. `rows` are those of the table, with targets (`tasks.training.targets`) or without.

    attributes: what the outputs of a reward model estimate, by which scores are standardised; none: one score. Raises
    SpecError where loss, table and trained model do not fit, DataError where values are missing.
    """
    family, names = family_of(loss), arguments_of(loss)
    model, data = ([kind.__name__ for kind in each.__mro__] for each in (trained, type(table)))
    fed = {"ref_logps": ref_logps, "anchor_logps": anchor_logps or None, "mismatched": mismatched,
           "mismatched_logps": mismatched_logps}  # fmt: skip
    given = [port for port, value in fed.items() if value is not None]
    if problem := family.mismatch(names, model, data, [*fed], given):
        raise SpecError(f"the loss '{loss.name}' {problem}")
    if not rows.has_targets and _companion(loss, NEEDS_TARGETS):
        raise SpecError(f"the loss '{loss.name}' {NO_TARGETS}")
    layout = family.table_of(names)
    assert layout is not None
    arguments = layout.named(names)
    outputs = ("", *sorted({a.output for a in arguments if a.filled_by == "model" and a.output}))
    if any(a.output == "common" for a in arguments):
        rows = with_common_lengths(rows)
    check_classes(table, loss, layout, arguments)
    logps = {
        "reference": None if ref_logps is None else joined(rows, ref_logps, "reference"),
        "anchor": mean_of([joined(rows, one, "anchor") for one in anchor_logps]),
    }
    if ref_logps is not None and any(a.filled_by == "reference" and a.output for a in arguments):
        logps["reference.common"] = joined_common(rows, ref_logps)
    columns = {a.name: _column(a, layout, table, rows, logps) for a in arguments if a.filled_by not in _AT_EACH_STEP}
    if attributes and isinstance(table, Scores):
        columns["target_scores"] = standardised(table, attributes)
    examples = Examples(
        rows, family, layout, arguments, columns, numbers(table, "weight", 1.0), logps["reference"],
        _worth(layout, table, rows), reward_scale(loss),
        mismatched_rows(rows, mismatched, mismatched_logps)
        if mismatched and mismatched_logps and family.reads(names, "mismatched") else None,
        bool(_companion(loss, COUPLES_ROWS)), average_over, outputs, attributes,
    )  # fmt: skip
    check_weights(examples.weights, average_over)
    check_finite(_tried(examples, loss), loss, arguments, columns)
    return examples


_PIECE = 256
"""Rows with which a loss that couples them is tried: it may need memory for every two of them."""


def _tried(examples: Examples, loss: Chosen) -> Tensor:
    """`(N,)`: the loss of every row, with the model's outputs at −1."""
    rows, width = examples.rows, max(len(examples.outputs), len(examples.attributes))
    counts = np.diff(rows.starts)

    def losses(batch: Tensor) -> Tensor:
        answers = int(counts[batch.numpy()].sum())
        shape = (answers, width) if width > 1 else (answers,)
        return loss_on_batch(examples, loss, batch, torch.full(shape, -1.0, dtype=torch.float64))

    pieces = torch.arange(len(rows)).split(_PIECE if examples.couples_rows else max(1, len(rows)))
    return torch.cat([losses(batch) for batch in pieces])


_AT_EACH_STEP = ("model", "target", "mismatched")
"""What the training computes anew at each step."""


def family_of(loss: Chosen) -> LossFamily:
    """The loss's family. Raises SpecError where its folder has none."""
    if loss.folder not in LOSSES:
        raise SpecError(f"the loss '{loss.name}' lies in '{loss.folder}'; losses lie in one of {list(LOSSES)}")
    return LOSSES[loss.folder]


def arguments_of(loss: Chosen) -> list[str]:
    """Names of the loss's positional arguments. Raises SpecError where they do not fit its family."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in inspect.signature(loss.function).parameters.items() if p.kind in kinds]
    family = family_of(loss)
    error, _ = family.misnamed(names)
    if error:
        raise SpecError(f"{loss.module}: the loss {error}; a loss of that folder may name {sorted(family.arguments)}")
    return names


def reward_scale(loss: Chosen) -> float:
    """The value of the function `reward_scale` beside the loss, given the loss's parameters; 1 without one."""
    scale = _companion(loss, REWARD_SCALE)
    return 1.0 if scale is None else float(scale)


def _companion(loss: Chosen, name: str) -> Any:
    """The value of a function beside the loss, given the loss's parameters; None without one."""
    function = loss.companion(name)
    if function is None:
        return None
    defaults = {n: p.default for n, p in inspect.signature(loss.function).parameters.items()}
    params = {**defaults, **loss.params}
    return function(**{n: params[n] for n in inspect.signature(function).parameters if n in params})


def loss_on_batch(
    examples: Examples, loss: Chosen, batch: Tensor, outputs: Tensor, kl_reference: Tensor | float = 0.0
) -> Tensor:
    """Loss of the rows `batch`, `(B,)`, with the model's outputs for each of their answers, in order.

    It lies on the device of the outputs, for which nothing waits.

    Args:
        outputs: `(S,)` or `(S, O)`; see `Examples.outputs`.
        kl_reference: the estimate for the optimizer batch, where the loss reads it.
    """

    def filled(a: LossArgument) -> Tensor:
        if a.filled_by == "mismatched":
            return outputs.new_ones(len(batch)) * kl_reference
        if a.filled_by in ("model", "target"):
            several = outputs.ndim == 2 and not examples.attributes
            values = outputs[:, examples.outputs.index(a.output)] if several else outputs
            return _by_row(a, examples.layout, examples.rows, batch, values)
        return examples.columns[a.name][batch].to(outputs.device, non_blocking=True)

    losses = loss(**{a.name: filled(a) for a in examples.arguments})
    if losses.shape != batch.shape:
        raise SpecError(f"{loss.module} returned {tuple(losses.shape)} for {len(batch)} rows; it must return one each")
    return losses


def padded_rows(rows: Rows, batch: Tensor, values: Tensor, empty: float) -> Tensor:
    """`(S,)` values of the answers of the rows `batch`, in order → `(B, K)`, `empty` where there is no answer."""
    counts = np.diff(rows.starts)
    own = counts[batch.numpy()]
    row = np.repeat(np.arange(len(batch)), own)
    place = np.arange(len(row)) - (own.cumsum() - own)[row]
    indices = tuple(torch.from_numpy(i).to(values.device, non_blocking=True) for i in (row, place))
    return values.new_full((len(batch), int(counts.max())), empty).index_put(indices, values)


def _by_row(argument: LossArgument, layout: LossTable, rows: Rows, batch: Tensor, values: Tensor) -> Tensor:
    """`(S,)` values of the answers of the rows `batch`, as the loss takes them."""
    if layout.answers == "list":
        return padded_rows(rows, batch, values, argument.padding)
    if argument.filled_by == "target":
        return values.reshape(len(batch), -1)[:, TARGET if rows.has_targets else CHOSEN]
    return values if argument.answer is None else values.reshape(len(batch), -1)[:, argument.answer]


def _column(
    argument: LossArgument, layout: LossTable, table: Table, rows: Rows, logps: Mapping[str, Tensor | None]
) -> Tensor:
    """`(N,)` or `(N, K)`: what fills an argument. logps: of all answers, by what they fill."""
    name = argument.column or argument.name
    if argument.filled_by == "share":
        return numbers(table, name).double().mean().repeat(len(rows))
    if argument.holds == "list":
        return _padded(table.table.column(name).to_pylist(), argument.padding)
    if argument.filled_by == "column" and layout.answers != "list":
        return numbers(table, name, argument.null)
    values = logps.get(".".join(filter(None, (argument.filled_by, argument.output))))
    values = values_of_answers(argument, table, rows) if values is None else values
    return _by_row(argument, layout, rows, torch.arange(len(rows)), values)


def _padded(lists: list[list[float]], padding: float) -> Tensor:
    out = np.full((len(lists), max(map(len, lists), default=0)), padding)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)


def _worth(layout: LossTable, table: Table, rows: Rows) -> Tensor | None:
    """`(A,)`; NaN of answers that are neither chosen nor rejected, the targets."""
    count = len(rows.answer_ids)
    if layout.judged_by is None:
        return None
    if layout.judged_by and layout.answers == "list":
        return listed(table, layout.judged_by)
    if layout.judged_by:
        return numbers(table, layout.judged_by).double()
    if layout.answers != "pair":
        return torch.ones(count).double()
    each = [1.0, 0.0, torch.nan] if rows.has_targets else [1.0, 0.0]
    return torch.tensor(each, dtype=torch.float64).repeat(len(rows))
