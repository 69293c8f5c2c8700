"""Filling a table's token columns from its texts, and skipping bad rows with a reason each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.contract import JSON, DataError
from tasks.kinds import TOKENS, Model, Preferences, Rankings, Table
from tasks.template import completions_ids, prompts_ids, template_digest, tokenizer_of

Arrow = Any
"""An Arrow table or column: its published types know too little of it."""
compute: Any = pc

_ANSWERS = {"chosen": "chosen_tokens", "rejected": "rejected_tokens", "completion": "completion_tokens"}
"""Text column → its token column, where a row has one text in it."""


@dataclass(frozen=True)
class Tokenized:
    """A table with its tokens, the rows that were skipped, and how many rows' texts were rendered."""

    table: Arrow
    skipped: list[dict[str, JSON]]
    rendered: int
    other_template: bool
    """Tokens of another template were there and have been replaced."""

    @property
    def reasons(self) -> Counter[str]:
        return Counter(str(row["reason"]) for row in self.skipped)


def with_tokens(table: Table, policy: Model, max_length: int | None) -> Tokenized:
    """`table` with the ids of the policy's template; rows that already carry those keep them. Raises DataError."""
    data: Arrow = table.table
    found = table.metadata.get("template")
    tokenizer = tokenizer_of(policy)
    columns = [c for c in data.column_names if c.endswith("_tokens")]
    if "prompt_tokens" not in columns:
        raise DataError(f"{type(table).__name__} has no answers, so there is nothing to tokenize")
    other = found is not None and found != template_digest(policy)
    fresh = _needs_rendering(data, columns, other or found is None)
    if fresh.any():
        data = _rendered(data, tokenizer, fresh)
    reasons = _reasons(table, data, fresh, max_length)
    good = np.array([r is None for r in reasons], np.bool_)
    skipped = [_entry(data, i, reason) for i, reason in enumerate(reasons) if reason]
    return Tokenized(data.filter(pa.array(good)) if skipped else data, skipped, int(fresh.sum()), other)


def _needs_rendering(data: Arrow, columns: Sequence[str], everything: bool) -> npt.NDArray[np.bool_]:
    if everything:
        return np.ones(data.num_rows, np.bool_)
    nulls = [np.array(compute.is_null(data.column(c)).to_numpy(), np.bool_) for c in columns]
    return np.logical_or.reduce(nulls)


def _rendered(data: Arrow, tokenizer: Any, fresh: npt.NDArray[np.bool_]) -> Arrow:
    part = data.filter(pa.array(fresh))
    made = {"prompt_tokens": _prompts(part, tokenizer)}
    if "completions" in data.column_names:
        made["completions_tokens"] = _rankings(part, tokenizer)
    for text, tokens in _ANSWERS.items():
        if tokens in data.column_names:
            made[tokens] = pa.array(completions_ids(tokenizer, part.column(text).to_pylist(), _ended(part)), TOKENS)
    for name, column in made.items():
        place = data.column_names.index(name)
        data = data.set_column(place, data.schema.field(name), _merged(data.column(name), column, fresh))
    return data


def _prompts(part: Arrow, tokenizer: Any) -> Arrow:
    """Equal prompts are rendered once."""
    ids = part.column("prompt_id").combine_chunks().dictionary_encode()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
    which = ids.indices.to_numpy()
    _, first = np.unique(which, return_index=True)
    once = pa.array(prompts_ids(tokenizer, part.column("prompt").take(pa.array(first)).to_pylist()), TOKENS)
    return once.take(pa.array(which))


def _rankings(part: Arrow, tokenizer: Any) -> Arrow:
    lists = part.column("completions").to_pylist()
    flat = completions_ids(tokenizer, [t for texts in lists for t in texts], [True] * sum(map(len, lists)))
    ends = np.cumsum([0, *map(len, lists)])
    return pa.array([flat[a:b] for a, b in pairwise(ends)], pa.list_(pa.field("item", TOKENS, False)))


def _ended(part: Arrow) -> list[bool]:
    """A completion cut by length gains no EOS."""
    if "finish_reason" not in part.column_names:
        return [True] * part.num_rows
    return [reason != "length" for reason in part.column("finish_reason").to_pylist()]


def _merged(old: Arrow, new: Arrow, fresh: npt.NDArray[np.bool_]) -> Arrow:
    """`new` where `fresh`, else `old`."""
    order = np.where(fresh, len(old) + np.cumsum(fresh) - 1, np.arange(len(old)))
    return pa.chunked_array([*old.chunks, new], old.type).take(pa.array(order))


def _reasons(table: Table, data: Arrow, fresh: npt.NDArray[np.bool_], max_length: int | None) -> list[str | None]:
    """Why a row cannot be trained on, or None. The first reason that holds counts."""
    reasons = np.full(data.num_rows, None, object)

    def bad(where: npt.NDArray[np.bool_], reason: str) -> None:
        reasons[where & ~reasons.astype(bool)] = reason

    prompt = _lengths(data.column("prompt_tokens"))
    bad(prompt == 0, "empty prompt")
    sides = _sides(table, data)
    for name, text, tokens in sides:
        bad((_blank(text) & fresh) | (_lengths(tokens) == 0), f"empty {name}")
    if isinstance(table, Preferences):
        bad(_equal(data.column("chosen_tokens"), data.column("rejected_tokens")), "identical sides")
    if isinstance(table, Rankings):
        bad(_lengths(data.column("completions_tokens")) < 2, "fewer than two completions")
        bad(_any(data.column("completions_tokens"), lambda t: not t), "empty completion")
        bad(_any(data.column("completions"), lambda t: not t.strip()) & fresh, "empty completion")
    if max_length is not None:
        bad(prompt >= max_length, f"prompt longer than {max_length - 1} tokens")
        bad(prompt + _longest(table, data) > max_length, f"row longer than {max_length} tokens")
    return reasons.tolist()


def _sides(table: Table, data: Arrow) -> list[tuple[str, Arrow, Arrow]]:
    if isinstance(table, Rankings):
        return []
    return [(t, data.column(t), data.column(k)) for t, k in _ANSWERS.items() if k in data.column_names]


def _lengths(lists: Arrow) -> npt.NDArray[np.int64]:
    return np.array(compute.list_value_length(lists).to_numpy(), np.int64)


def _blank(texts: Arrow) -> npt.NDArray[np.bool_]:
    return np.array(compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(texts)), 0).to_numpy(), np.bool_)


def _equal(a: Arrow, b: Arrow) -> npt.NDArray[np.bool_]:
    lengths = _lengths(a)
    same = (lengths == _lengths(b)) & (lengths > 0)
    rows = pa.array(np.flatnonzero(same))
    tokens = np.array(compute.list_flatten(a.take(rows))) == np.array(compute.list_flatten(b.take(rows)))
    if len(tokens):
        same[same] = np.logical_and.reduceat(tokens, np.cumsum([0, *lengths[same][:-1]]))
    return same


def _any(lists: Arrow, empty: Callable[[Any], bool]) -> npt.NDArray[np.bool_]:
    return np.array([any(map(empty, row)) for row in lists.to_pylist()], np.bool_)


def _longest(table: Table, data: Arrow) -> npt.NDArray[np.int64]:
    if isinstance(table, Rankings):
        rows = data.column("completions_tokens").to_pylist()
        return np.array([max(map(len, row), default=0) for row in rows], np.int64)
    return np.maximum.reduce([_lengths(tokens) for _, _, tokens in _sides(table, data)])


def _entry(data: Arrow, row: int, reason: str) -> dict[str, JSON]:
    ids = [c for c in ("prompt_id", "completion_id", "chosen_id", "rejected_id") if c in data.column_names]
    return {"row": row, "reason": reason, **{c: data.column(c)[row].as_py() for c in ids}}
