"""Checks of the values that a loss is filled from, before a training opens its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from tasks.contract import Chosen, DataError
from tasks.families import LossArgument, LossTable
from tasks.kinds import Table


def check_classes(table: Table, loss: Chosen, layout: LossTable, arguments: tuple[LossArgument, ...]) -> None:
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


def check_weights(weights: Tensor, average_over: str) -> None:
    """Raise DataError for weights `(N,)` that are not finite, or that a mean over weights cannot take."""
    if not weights.isfinite().all():
        raise DataError(f"{int((~weights.isfinite()).sum())} of {len(weights)} rows have a weight that is not finite")
    if average_over == "weights" and bool((weights < 0).any()):
        raise DataError(
            f"{int((weights < 0).sum())} of {len(weights)} rows have a weight below 0, by which no mean can be taken: "
            "use `average_over: rows`"
        )


def check_finite(
    tried: Tensor, loss: Chosen, arguments: tuple[LossArgument, ...], columns: Mapping[str, Tensor]
) -> None:
    """Raise DataError where the loss of a row is NaN because a value is missing.

    tried: `(N,)`, the loss of every row with the model's outputs at −1.
    """
    bad = ~tried.isfinite()
    if not bad.any():
        return
    nan = {n: column.isnan().reshape(len(bad), -1).all(dim=1) for n, column in columns.items()}
    nulls = [f"{a.name} ({a.about})" for a in arguments if a.name in nan and nan[a.name][bad].any()]
    raise DataError(
        f"the loss '{loss.name}' is not finite on {int(bad.sum())} of {len(bad)} rows, first row "
        f"{int(bad.nonzero()[0])}" + (f", where the table has no {' and no '.join(nulls)}" if nulls else "")
    )
