"""Rows that are longer than the model reads: cut, where a wiring says which end may go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tasks.kinds import Table
from tasks.training.row_checks import Flags, longest_answers, token_counts

Arrow = Any
"""An Arrow table or column: its published types know too little of it."""
Truncation = Literal["refuse", "keep_end", "keep_start"]
CUT = {"keep_end": "the beginnings of their prompts", "keep_start": "the ends of their answers"}
"""What is cut off."""


def cut_long_rows(table: Table, data: Arrow, max_length: int, keep: Truncation, bos: int | None) -> tuple[Arrow, Flags]:
    """`data` with the rows above `max_length` tokens cut, and which these are.

    keep_end: first tokens of the prompt go, but for a `bos`; keep_start: last tokens of each answer that is too long.
    Rows stay as they are where a single token of that side would not fit either.
    """
    prompts, answers = token_counts(data.column("prompt_tokens")), longest_answers(table, data)
    kept = prompts if keep == "keep_start" else answers
    rows = (prompts + answers > max_length) & (kept < max_length) & (answers > 0)
    if not rows.any():
        return data, rows
    places, room = np.flatnonzero(rows), (max_length - kept)[rows].tolist()
    for name in [c for c in data.column_names if c.endswith("_tokens")]:
        if (name == "prompt_tokens") == (keep == "keep_end"):
            cut = _end_of(bos) if keep == "keep_end" else _start_of
            data = _with_lists(data, name, places, [
                cut(ids, n) for ids, n in zip(data.column(name).take(pa.array(places)).to_pylist(), room, strict=True)
            ])  # fmt: skip
    return data, rows


def _start_of(ids: list[Any], room: int) -> list[Any]:
    """The first tokens of an answer, or of each of several."""
    return [_start_of(one, room) for one in ids] if ids and isinstance(ids[0], list) else ids[:room]


def _end_of(bos: int | None) -> Callable[[list[int], int], list[int]]:
    """The last tokens of a prompt, behind its BOS if it has one."""

    def end(ids: list[int], room: int) -> list[int]:
        first = ids[:1] if ids[0] == bos and room > 1 else []
        return first + ids[len(ids) - room + len(first) :]

    return end


def _with_lists(data: Arrow, name: str, places: Any, lists: list[Any]) -> Arrow:
    """`data` with these lists in a column, at these rows."""
    field, old = data.schema.field(name), data.column(name)
    order = np.arange(data.num_rows)
    order[places] = data.num_rows + np.arange(len(lists))
    whole = pa.chunked_array([*old.chunks, pa.array(lists, field.type)], field.type).take(pa.array(order))
    return data.set_column(data.column_names.index(name), field, whole)
