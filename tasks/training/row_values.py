"""Values of a table's rows and answers as tensors: its columns, and log-probabilities that are joined by ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.families import LossArgument
from tasks.kinds import Logps, Table
from tasks.training.rows import Rows


def numbers(table: Table, name: str, null: float = np.nan) -> Tensor:
    """`(N,)`, float64 or bool."""
    column: Any = table.table.column(name)
    values = column.fill_null(null) if column.null_count else column
    return torch.from_numpy(np.array(values.to_numpy(), bool if str(column.type) == "bool" else np.float64))


def listed(table: Table, name: str) -> Tensor:
    """`(A,)`: a column that lists a number for every answer of a row."""
    lists: Any = table.table.column(name).combine_chunks()
    return torch.from_numpy(np.array(lists.flatten().to_numpy(), np.float64))


def values_of_answers(argument: LossArgument, table: Table, rows: Rows) -> Tensor:
    """`(A,)`: what fills an argument that has a value for each answer."""
    if argument.filled_by == "length":
        return torch.from_numpy(rows.answers.lengths).double()
    if argument.filled_by == "mask":
        return torch.ones(len(rows.answer_ids), dtype=torch.bool)
    return listed(table, argument.column or argument.name)


def joined(rows: Rows, logps: Logps, what: Literal["reference", "anchor"]) -> Tensor:
    """`(A,)`: the log-probability of every answer, by ids, never by position; NaN of targets, which have none.

    Raises DataError where one is missing, or other tokens were scored. what: whose they are, for messages.
    """
    table = logps.table
    keys = zip(table.column("prompt_id").to_pylist(), table.column("completion_id").to_pylist(), strict=True)
    values = zip(table.column("logps").to_pylist(), table.column("lengths").to_pylist(), strict=True)
    known = dict(zip(keys, values, strict=True))
    wanted = [(key, n) for key, n, target in zip(rows.keys, rows.answers.lengths.tolist(), rows.is_target, strict=True)
              if not target]  # fmt: skip
    missing = [key for key, _ in wanted if key not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} answers have no {what} log-probability, first: prompt "
            f"{missing[0][0]}, completion {missing[0][1]}; compute `logps` on the table that is trained on"
        )
    other = sum(known[key][1] != length for key, length in wanted)
    if other:
        raise DataError(f"{other} answers have another number of tokens in the {what}'s table: other ids were scored")
    every = torch.full((len(rows.answer_ids),), torch.nan, dtype=torch.float64)
    every[torch.from_numpy(~rows.is_target)] = torch.tensor([known[key][0] for key, _ in wanted], dtype=torch.float64)
    return every


def joined_common(rows: Rows, logps: Logps) -> Tensor:
    """`(A,)`: the reference's sum over the tokens that both answers of a pair have; NaN of targets.

    By ids and length: an answer of several pairs has a sum for each length that it has in common with another.
    """
    names = ("prompt_id", "completion_id", "common_lengths", "common_logps")
    table = zip(*(logps.table.column(name).to_pylist() for name in names), strict=True)
    known = {(prompt, answer, length): value for prompt, answer, length, value in table}
    assert rows.common is not None
    wanted = [
        (*key, length) for key, length, target in zip(rows.keys, rows.common.tolist(), rows.is_target, strict=True)
        if not target
    ]  # fmt: skip
    if missing := [key for key in wanted if known.get(key) is None]:
        raise DataError(
            f"{len(missing)} answers have no log-probability of the {missing[0][2]} tokens that they share with the "
            f"other answer of their pair, first: prompt {missing[0][0]}, completion {missing[0][1]}; compute `logps` "
            "on the pairs that are trained on"
        )
    every = torch.full((len(rows.answer_ids),), torch.nan, dtype=torch.float64)
    every[torch.from_numpy(~rows.is_target)] = torch.tensor([known[key] for key in wanted], dtype=torch.float64)
    return every


def mean_of(each: Sequence[Tensor]) -> Tensor | None:
    """The mean of several log-probabilities: of their geometric mean, but for a constant per prompt; None of none."""
    return torch.stack(list(each)).mean(dim=0) if each else None
