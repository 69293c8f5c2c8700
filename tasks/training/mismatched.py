"""Answers to other prompts than theirs: what KTO estimates the policy's divergence from its reference on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from tasks.contract import DataError
from tasks.kinds import Labels, Logps
from tasks.training.row_values import joined
from tasks.training.rows import Ints, Rows


@dataclass(frozen=True)
class Mismatched:
    """N answers to other prompts than theirs, one for each row of the table."""

    rows: Rows
    ref_logps: Tensor
    """`(N,)`."""


def partners(prompt_ids: Sequence[str], seed: int) -> Ints:
    """`(N,)`: for every row another one, with another prompt, whose answer it gets.

    Every answer is used once, unless one prompt has more than half the rows: then some of the others' answers are used
    again. Raises DataError where all rows have one prompt.
    """
    prompts, group, counts = np.unique(np.array(prompt_ids, str), return_inverse=True, return_counts=True)
    if len(prompts) < 2:
        raise DataError(
            f"all {len(prompt_ids)} rows have one prompt, {prompt_ids[0]}: the divergence from the reference is "
            "estimated on answers to other prompts, so the table needs at least two prompts"
        )
    noise = np.random.default_rng(seed)
    order = np.lexsort((noise.permutation(len(group)), noise.permutation(len(prompts))[group]))
    partner = np.empty(len(group), np.int64)
    # Rows of one prompt are consecutive in `order`, so a shift by the longest run leaves no row its own prompt.
    partner[order] = np.roll(order, -int(counts.max()))
    same = group[partner] == group
    partner[same] = noise.choice(np.flatnonzero(group != counts.argmax()), int(same.sum()))
    return partner


def with_answers_of(data: Labels, partner: Ints, max_length: int | None) -> tuple[Any, int]:
    """The rows of a tokenized table with the answers of other rows, and how many of these had to be cut at their end,
    so that a row has at most `max_length` tokens (None: any number)."""
    table: Any = data.table
    answers: Any = table.take(pa.array(partner))
    tokens: list[list[int]] = answers.column("completion_tokens").to_pylist()
    prompts = table.column("prompt_tokens").to_pylist() if max_length else []
    cut = [ids[: max_length - len(p)] for ids, p in zip(tokens, prompts, strict=True)] if max_length else tokens
    columns = {"completion_id": answers.column("completion_id"), "completion": answers.column("completion"),
               "completion_tokens": pa.array(cut, table.schema.field("completion_tokens").type)}  # fmt: skip
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table, sum(len(short) < len(whole) for short, whole in zip(cut, tokens, strict=True))


def mismatched_rows(rows: Rows, mismatched: Rows, logps: Logps) -> Mismatched:
    """The mismatched answers to the prompts of `rows`, in their order. Raises DataError where they are others."""
    if mismatched.prompt_ids != rows.prompt_ids:
        raise DataError("the mismatched answers are not to the prompts of the rows that are trained on, in their order")
    return Mismatched(mismatched, joined(mismatched, logps, "reference"))
