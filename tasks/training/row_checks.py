"""Checks of the rows of a tokenized table: reasons why a row cannot be trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.kinds import Preferences, Rankings, Table

Arrow = Any
"""An Arrow table or column: its published types know too little of it."""
Flags = npt.NDArray[np.bool_]
compute: Any = pc

_ANSWERS = {"chosen": "chosen_tokens", "rejected": "rejected_tokens", "completion": "completion_tokens"}
"""Text column → its token column, where a row has one text in it."""


def skip_reasons(
    table: Table, data: Arrow, missing: dict[str, Flags], refused: dict[int, str], max_length: int | None
) -> list[str | None]:
    """For every row the first reason why it cannot be trained on, or None."""
    reasons = np.full(data.num_rows, None, object)

    def bad(where: Flags, reason: str) -> None:
        reasons[where & ~reasons.astype(bool)] = reason

    bad((token_counts(data.column("prompt")) == 0) & missing["prompt_tokens"], "empty prompt")
    sides = _sides(table, data)
    for name, text, _ in sides:
        bad(_is_blank(text) & missing[f"{name}_tokens"], f"empty {name}")
    if isinstance(table, Rankings):
        bad(
            _any(data.column("completions"), lambda t: not t.strip()) & missing["completions_tokens"],
            "empty completion",
        )
    for row, reason in refused.items():
        reasons[row] = reasons[row] or reason
    prompt = token_counts(data.column("prompt_tokens"))
    bad(prompt == 0, "empty prompt")
    for name, _, tokens in sides:
        bad(token_counts(tokens) == 0, f"empty {name}")
    if isinstance(table, Preferences):
        bad(_equal_lists(data.column("chosen_tokens"), data.column("rejected_tokens")), "identical sides")
    if isinstance(table, Rankings):
        bad(token_counts(data.column("completions_tokens")) < 2, "fewer than two completions")
        bad(_any(data.column("completions_tokens"), lambda t: not t), "empty completion")
    if max_length is not None:
        bad(prompt >= max_length, f"prompt longer than {max_length - 1} tokens")
        bad(prompt + longest_answers(table, data) > max_length, f"row longer than {max_length} tokens")
    return reasons.tolist()


def _sides(table: Table, data: Arrow) -> list[tuple[str, Arrow, Arrow]]:
    if isinstance(table, Rankings):
        return []
    return [(t, data.column(t), data.column(k)) for t, k in _ANSWERS.items() if k in data.column_names]


def token_counts(lists: Arrow) -> npt.NDArray[np.int64]:
    """`(N,)`: how many tokens each list has."""
    return np.array(compute.list_value_length(lists).to_numpy(), np.int64)


def _is_blank(texts: Arrow) -> npt.NDArray[np.bool_]:
    return np.array(compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(texts)), 0).to_numpy(), np.bool_)


def _equal_lists(a: Arrow, b: Arrow) -> npt.NDArray[np.bool_]:
    lengths = token_counts(a)
    same = (lengths == token_counts(b)) & (lengths > 0)
    rows = pa.array(np.flatnonzero(same))
    tokens = np.array(compute.list_flatten(a.take(rows))) == np.array(compute.list_flatten(b.take(rows)))
    if len(tokens):
        same[same] = np.logical_and.reduceat(tokens, np.cumsum([0, *lengths[same][:-1]]))
    return same


def _any(lists: Arrow, empty: Callable[[Any], bool]) -> npt.NDArray[np.bool_]:
    return np.array([any(map(empty, row)) for row in lists.to_pylist()], np.bool_)


def longest_answers(table: Table, data: Arrow) -> npt.NDArray[np.int64]:
    """`(N,)`: tokens of the longest answer of each row."""
    if isinstance(table, Rankings):
        rows = data.column("completions_tokens").to_pylist()
        return np.array([max(map(len, row), default=0) for row in rows], np.int64)
    return np.maximum.reduce([token_counts(tokens) for _, _, tokens in _sides(table, data)])
