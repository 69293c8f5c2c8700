"""What a reward model that estimates numbers learns: scores in standard deviations from their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.contract import Chosen, DataError
from tasks.kinds import Model, Scores, Table
from tasks.training.heads import Attribute, attributes_of, is_classifier

SCORE = "score"
"""Name of the output of a table without attributes."""


def learnt_attributes(source: Model, data: Table, loss: Chosen, arguments: Sequence[str]) -> tuple[Attribute, ...]:
    """The outputs of a reward model that learns from `data`, with the mean and standard deviation of their values in
    its rows; empty where the loss compares answers by one score.

    A model that has these outputs already keeps their mean and standard deviation, because its head was made for them.
    Raises DataError where it has others, and where a value is the same in all rows.
    """
    own = attributes_of(source.path) if is_classifier(source.path) else None
    if not isinstance(data, Scores) or "target_scores" not in arguments:
        if own is not None and len(own) > 1:
            raise DataError(f"{source.path} has the outputs {_named(own)}, and the loss '{loss.name}' trains one: "
                            "start from a policy, or from a reward model with one output")  # fmt: skip
        return ()
    values = attribute_values(data)
    found = [_measured(name, values[:, i]) for i, name in enumerate(data.attributes or (SCORE,))]
    if own is None or (not own and len(found) == 1):
        return tuple(found)
    if [a.name for a in own] != [a.name for a in found]:
        raise DataError(f"{source.path} has {f'the outputs {_named(own)}' if own else 'one output'}, and the table has "
                        f"the attributes {_named(found)}: start from a policy, or choose the attributes")  # fmt: skip
    return own


def standardised(scores: Scores, attributes: Sequence[Attribute]) -> Tensor:
    """`(N,)`, or `(N, M)` of M > 1 attributes, NaN where one is missing."""
    means, stds = (np.array([getattr(a, what) for a in attributes]) for what in ("mean", "std"))
    values = torch.from_numpy((attribute_values(scores) - means) / stds)
    return values if len(attributes) > 1 else values[:, 0]


def _measured(name: str, values: npt.NDArray[np.float64]) -> Attribute:
    known = values[~np.isnan(values)]
    if not np.isfinite(known).all():
        raise DataError(f"the attribute '{name}' is not finite in {int((~np.isfinite(known)).sum())} rows")
    if not len(known) or known.min() == known.max():
        what = f"is {known[0]:g} in all {len(known)} rows that have it" if len(known) else "is missing in all rows"
        raise DataError(f"the attribute '{name}' {what}, so there is nothing to learn: leave it out")
    return Attribute(name, float(known.mean()), float(known.std()))


def _named(attributes: Sequence[Attribute]) -> str:
    return ", ".join(a.name for a in attributes)


def attribute_values(scores: Scores) -> npt.NDArray[np.float64]:
    """`(N, M)`: the attributes of each answer, NaN where one is missing; the score itself where there are none.

    Raises DataError where rows have attributes and the table does not name them.
    """
    table: Any = scores.table
    column = table.column("attributes")
    names = scores.attributes
    if not names:
        if column.null_count < len(column):
            raise DataError("rows have attributes, and the table does not say which: tables of different attributes "
                            "were concatenated")  # fmt: skip
        return np.array(table.column("score").to_numpy(zero_copy_only=False), np.float64)[:, None]
    rows = column.to_pylist()
    wrong = next((i for i, row in enumerate(rows) if row is not None and len(row) != len(names)), None)
    if wrong is not None:
        raise DataError(f"row {wrong + 1} has {len(rows[wrong])} attributes, and the table names {len(names)}")
    none = [None] * len(names)
    return np.array([none if row is None else row for row in rows], np.float64).reshape(-1, len(names))
