"""Tables read prompt by prompt in blocks: no string is compared twice, memory stays flat however long the table.

A block holds whole prompts. Rows of a prompt normally lie together, as sampling leaves them; where they do not
(a `concat` of two samplings), the table is brought into that order in memory first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.contract import DataError

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Strings: TypeAlias = "pa.ChunkedArray[Any]"

ROWS_PER_BLOCK = 32768
"""A block ends with the prompt that reaches this many rows."""


class Grouped(NamedTuple):
    """A table whose rows of one prompt lie together: prompt g has the rows `starts[g]:starts[g + 1]`."""

    table: pa.Table
    prompts: Hashes
    """`(G,)`: hash of each prompt_id, for matching only: what matches is compared by its ids again."""
    starts: Ints
    """`(G + 1,)`"""

    def rows(self, first: int, last: int) -> pa.Table:
        """The rows of the prompts `first:last`, nothing copied."""
        return self.table.slice(int(self.starts[first]), int(self.starts[last] - self.starts[first]))

    def sizes(self, first: int, last: int) -> Ints:
        """Number of rows of each of the prompts `first:last`."""
        return np.diff(self.starts[first : last + 1])

    def blocks(self, rows: int = ROWS_PER_BLOCK) -> Iterator[tuple[int, int]]:
        """Ranges of prompts that cover the table."""
        first, total = 0, len(self.prompts)
        while first < total:
            last = int(np.searchsorted(self.starts, self.starts[first] + rows))
            yield first, min(last, total)
            first = last


def grouped(table: pa.Table) -> Grouped:
    """`table` with the rows of every prompt together, prompts in order of their first row."""
    prompts, starts = _runs(table.column("prompt_id"))
    distinct, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
    if len(distinct) == len(prompts):
        return Grouped(table, prompts, starts)
    order = np.argsort(np.repeat(first[inverse], np.diff(starts)), kind="stable")
    return Grouped(table.take(indices(order)), *_runs(table.column("prompt_id").take(indices(order))))


def grouped_like(lead: Grouped, table: pa.Table, what: str) -> Grouped:
    """`table` grouped by the prompts of `lead`, in their order; a prompt without a row has an empty range.

    `what` names the table in the DataError that a prompt unknown to `lead` raises.
    """
    found = grouped(table)
    order = np.argsort(lead.prompts)
    at = np.searchsorted(lead.prompts, found.prompts, sorter=order)
    place = order[np.minimum(at, len(order) - 1)] if len(order) else at
    strange = int((lead.prompts[place] != found.prompts).sum()) if len(order) else len(at)
    if strange:
        raise DataError(f"{strange} of {len(at)} prompts of {what} are not those of the other table")
    sizes = np.zeros(len(lead.prompts), np.int64)
    sizes[place] = np.diff(found.starts)
    rows = found.table
    if (np.diff(place) < 0).any():
        rows = rows.take(indices(np.argsort(np.repeat(place, np.diff(found.starts)), kind="stable")))
    return Grouped(rows, lead.prompts, _starts(sizes))


def ended_by_itself(finish_reason: Any) -> Any:
    """Whether each answer ended by itself, and was not cut by its length."""
    return pc.not_equal(finish_reason, pa.scalar("length"))


def indices(rows: Ints) -> Any:
    """Row numbers for Arrow's `take`."""
    return pa.array(rows)


def rows_named(ids: Strings, wanted: Strings, what: str) -> Ints:
    """Row of each of the `wanted` ids among `ids`. Raises DataError if one is missing or `ids` repeats one."""
    known = ids.combine_chunks()
    if pc.count_distinct(known).as_py() != len(known):
        raise DataError(f"completion_id repeats among {len(known)} rows: the same draws are there twice")
    found = pc.index_in(wanted, value_set=known)
    if found.null_count:
        missing = wanted.filter(pc.is_null(found))
        raise DataError(f"{len(missing)} of {len(wanted)} ids of {what} name no completion, {missing[0].as_py()} first")
    return found.to_numpy().astype(np.int64)


def _runs(column: Strings) -> tuple[Hashes, Ints]:
    """Hash and first row of every run of equal values, and the number of rows behind the last."""
    hashes: list[Hashes] = []
    starts: list[Ints] = []
    before, last = 0, None
    for chunk in column.chunks:
        values = pl.Series(chunk).hash().to_numpy()
        new = np.r_[last is None or values[:1] != last, values[1:] != values[:-1]] if len(values) else values == 0
        at = np.flatnonzero(new)
        hashes.append(values[at])
        starts.append(at + before)
        before += len(values)
        last = values[-1:] if len(values) else last
    return (
        np.concatenate(hashes) if hashes else np.empty(0, np.uint64),
        np.concatenate([*starts, np.array([before])]).astype(np.int64),
    )


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
