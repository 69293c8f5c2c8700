"""Filling a loss's arguments by name: the values of a table's rows, and of its reference's log-probabilities.

The loss's family (`tasks.families`) defines which arguments there are and what fills them. The model's outputs are
filled in at each step; everything else is fixed and stored here, one entry per row.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.contract import REWARD_SCALE, Chosen, DataError, SpecError
from tasks.families import LOSSES, LossArgument, LossFamily, LossTable
from tasks.kinds import Logps, Model, Policy, Table
from tasks.training.rows import Rows


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

    @cached_property
    def preferred(self) -> Tensor | None:
        """`(A,)` bool: which answers should become likelier; None if the table has no judgement."""
        if self.worth is None or self.layout.answers != "list":
            return None if self.worth is None else self.worth > 0.5
        padded = padded_rows(self.rows, torch.arange(len(self.rows)), self.worth, -torch.inf)
        return (padded == padded.amax(dim=1, keepdim=True))[padded > -torch.inf]


def examples_of(
    table: Table, rows: Rows, loss: Chosen, ref_logps: Logps | None, trained: type[Model] = Policy
) -> Examples:
    """Raises SpecError where loss, table and trained model do not fit, DataError where values are missing."""
    family, names = family_of(loss), arguments_of(loss)
    model, data = ([kind.__name__ for kind in each.__mro__] for each in (trained, type(table)))
    given = () if ref_logps is None else ("ref_logps",)
    if problem := family.mismatch(names, model, data, (), given):
        raise SpecError(f"the loss '{loss.name}' {problem}")
    layout = family.table_of(names)
    assert layout is not None
    arguments = layout.named(names)
    _check_filled(loss, arguments)
    _check_classes(table, loss, layout, arguments)
    ref = None if ref_logps is None else _join(rows, ref_logps)
    columns = {a.name: _column(a, layout, table, rows, ref) for a in arguments if a.filled_by != "model"}
    examples = Examples(
        rows, family, layout, arguments, columns, _numbers(table, "weight", 1.0), ref, _worth(layout, table, rows),
        reward_scale(loss),
    )  # fmt: skip
    _check_values(examples, loss)
    return examples


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
    function = loss.companion(REWARD_SCALE)
    if function is None:
        return 1.0
    defaults = {n: p.default for n, p in inspect.signature(loss.function).parameters.items()}
    params = {**defaults, **loss.params}
    return float(function(**{n: params[n] for n in inspect.signature(function).parameters if n in params}))


def loss_on_batch(examples: Examples, loss: Chosen, batch: Tensor, outputs: Tensor) -> Tensor:
    """Loss of the rows `batch`, `(B,)`, with the model's output for each of their answers `(S,)`, in order.

    It lies on the device of the outputs, for which nothing waits.
    """
    inputs = {
        a.name: _by_row(a, examples.layout, examples.rows, batch, outputs) if a.filled_by == "model"
        else examples.columns[a.name][batch].to(outputs.device, non_blocking=True)
        for a in examples.arguments
    }  # fmt: skip
    losses = loss(**inputs)
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
    return values if argument.answer is None else values.reshape(-1, 2)[:, argument.answer]


def _column(argument: LossArgument, layout: LossTable, table: Table, rows: Rows, ref: Tensor | None) -> Tensor:
    name = argument.column or argument.name
    if argument.holds == "list":
        return _padded(table.table.column(name).to_pylist(), argument.padding)
    if argument.filled_by == "column" and layout.answers != "list":
        return _numbers(table, name, argument.null)
    values = _of_answers(argument, table, rows, ref)
    return _by_row(argument, layout, rows, torch.arange(len(rows)), values)


def _of_answers(argument: LossArgument, table: Table, rows: Rows, ref: Tensor | None) -> Tensor:
    """`(A,)`."""
    if argument.filled_by == "length":
        return torch.from_numpy(rows.answers.lengths).double()
    if argument.filled_by == "mask":
        return torch.ones(len(rows.answer_ids), dtype=torch.bool)
    if argument.filled_by == "column":
        return _flat(table, argument.column or argument.name)
    assert ref is not None
    return ref


def _numbers(table: Table, name: str, null: float) -> Tensor:
    """`(N,)`, float64 or bool."""
    column: Any = table.table.column(name)
    values = column.fill_null(null) if column.null_count else column
    return torch.from_numpy(np.array(values.to_numpy(), bool if str(column.type) == "bool" else np.float64))


def _flat(table: Table, name: str) -> Tensor:
    """`(A,)`: a column that lists a number for every answer of a row."""
    lists: Any = table.table.column(name).combine_chunks()
    return torch.from_numpy(np.array(lists.flatten().to_numpy(), np.float64))


def _padded(lists: list[list[float]], padding: float) -> Tensor:
    out = np.full((len(lists), max(map(len, lists), default=0)), padding)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)


def _worth(layout: LossTable, table: Table, rows: Rows) -> Tensor | None:
    count = len(rows.answer_ids)
    if layout.judged_by is None:
        return None
    if layout.judged_by and layout.answers == "list":
        return _flat(table, layout.judged_by)
    if layout.judged_by:
        return _numbers(table, layout.judged_by, np.nan).double()
    return (torch.arange(count) % 2 == 0).double() if layout.answers == "pair" else torch.ones(count).double()


def _join(rows: Rows, logps: Logps) -> Tensor:
    """The reference's log-probability of every answer, by ids, never by position."""
    table = logps.table
    keys = zip(table.column("prompt_id").to_pylist(), table.column("completion_id").to_pylist(), strict=True)
    values = zip(table.column("logps").to_pylist(), table.column("lengths").to_pylist(), strict=True)
    known = dict(zip(keys, values, strict=True))
    missing = [key for key in rows.keys if key not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows.answer_ids)} answers have no reference log-probability, first: prompt "
            f"{missing[0][0]}, completion {missing[0][1]}; compute `logps` on the table that is trained on"
        )
    found = [known[key] for key in rows.keys]
    other = sum(length != own for (_, length), own in zip(found, rows.answers.lengths.tolist(), strict=True))
    if other:
        raise DataError(
            f"{other} answers have another number of tokens in the reference's table: other ids were scored"
        )
    return torch.tensor([value for value, _ in found], dtype=torch.float64)


_FILLED = ("model", "reference", "length", "mask", "column")


def _check_filled(loss: Chosen, arguments: tuple[LossArgument, ...]) -> None:
    if missing := [a.name for a in arguments if a.filled_by not in _FILLED or a.output]:
        raise SpecError(f"the loss '{loss.name}' names {', '.join(missing)}, which the training does not fill yet")


def _check_classes(table: Table, loss: Chosen, layout: LossTable, arguments: tuple[LossArgument, ...]) -> None:
    """Raise DataError for a table whose rows are all judged alike, if the loss reads the judgements."""
    if not layout.judged_by or layout.judged_by not in {a.column or a.name for a in arguments}:
        return
    column: Any = table.table.column(layout.judged_by)
    if layout.answers == "list":
        _check_order(column.to_pylist(), loss)
    elif str(column.type) == "bool" and len(classes := column.unique().to_pylist()) == 1:
        label = "desirable" if classes[0] else "undesirable"
        raise DataError(f"all {len(table)} labels are {label}: the loss '{loss.name}' tells two classes apart, and "
                        "answers of the other one are missing")  # fmt: skip


def _check_order(lists: list[list[float]], loss: Chosen) -> None:
    if not np.isfinite(np.concatenate([[0.0], *lists])).all():
        raise DataError("the rankings hold scores that are not finite: an answer without a score must be left out")
    if lists and all(len(set(scores)) < 2 for scores in lists):
        raise DataError(f"none of {len(lists)} rankings has two answers of different scores: there is no order for "
                        f"the loss '{loss.name}' to learn")  # fmt: skip


def _check_values(examples: Examples, loss: Chosen) -> None:
    """Evaluate the loss once on every row, with the model's outputs at -1: a missing value makes it NaN there."""
    batch = torch.arange(len(examples.rows))
    tried = loss_on_batch(
        examples, loss, batch, torch.full((len(examples.rows.answer_ids),), -1.0, dtype=torch.float64)
    )
    bad = ~tried.isfinite()
    if not bad.any():
        return
    nan = {n: column.isnan().reshape(len(bad), -1).all(dim=1) for n, column in examples.columns.items()}
    nulls = [f"{a.name} ({a.about})" for a in examples.arguments if a.name in nan and nan[a.name][bad].any()]
    raise DataError(
        f"the loss '{loss.name}' is not finite on {int(bad.sum())} of {len(bad)} rows, first row "
        f"{int(bad.nonzero()[0])}" + (f", where the table has no {' and no '.join(nulls)}" if nulls else "")
    )
