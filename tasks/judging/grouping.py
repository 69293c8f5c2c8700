"""Tables grouped by prompt and read in blocks, so that memory does not grow with the table.

A block contains whole prompts. The rows of a prompt are normally consecutive, as sampling writes them; otherwise (a
`concat` of two samplings) the table is sorted in memory first.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.contract import DataError, Workspace

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Strings: TypeAlias = "pa.ChunkedArray[Any]"

ROWS_PER_BLOCK = 32768
"""A block ends with the prompt that reaches this many rows."""


class Grouped(NamedTuple):
    """A table with consecutive rows per prompt: prompt g has the rows `starts[g]:starts[g + 1]`."""

    table: pa.Table
    prompts: Hashes
    """`(G,)`: hash of each prompt_id, for candidates only; matches are verified by id."""
    starts: Ints
    """`(G + 1,)`"""

    def rows(self, first: int, last: int) -> pa.Table:
        """The rows of the prompts `first:last`, without a copy."""
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


class Selection(NamedTuple):
    """What a step makes of the answers to a block of prompts."""

    rows: pa.Table
    totals: Mapping[str, int]
    """Counts by name, which are summed over the blocks."""


def by_blocks(
    rows: Grouped, table_of: Callable[[int, int], pa.Table], work: Workspace, unit: str = "answers"
) -> Iterator[pa.RecordBatch]:
    """The tables that `table_of` makes of blocks of prompts, `first:last`, with progress in rows."""
    for first, last in rows.blocks():
        yield from table_of(first, last).to_batches()
        work.progress(int(rows.starts[last]), rows.table.num_rows, unit)


def grouped(table: pa.Table) -> Grouped:
    """`table` with consecutive rows per prompt, in order of each prompt's first row."""
    prompts, starts = _runs(table.column("prompt_id"))
    distinct, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
    if len(distinct) == len(prompts):
        return Grouped(table, prompts, starts)
    order = np.argsort(np.repeat(first[inverse], np.diff(starts)), kind="stable")
    return Grouped(table.take(indices(order)), *_runs(table.column("prompt_id").take(indices(order))))


def grouped_like(reference: Grouped, table: pa.Table, what: str) -> Grouped:
    """`table` grouped by the prompts of `reference`, in their order; a prompt without rows has an empty range.

    Raises DataError if `reference` lacks a prompt; `what` is the table's name in the message.
    """
    own = grouped(table)
    order = np.argsort(reference.prompts)
    at = np.searchsorted(reference.prompts, own.prompts, sorter=order)
    place = order[np.minimum(at, len(order) - 1)] if len(order) else at
    unknown = int((reference.prompts[place] != own.prompts).sum()) if len(order) else len(at)
    if unknown:
        raise DataError(f"{unknown} of {len(at)} prompts of {what} do not occur in the other table")
    sizes = np.zeros(len(reference.prompts), np.int64)
    sizes[place] = np.diff(own.starts)
    rows = own.table
    if (np.diff(place) < 0).any():
        rows = rows.take(indices(np.argsort(np.repeat(place, np.diff(own.starts)), kind="stable")))
    return Grouped(rows, reference.prompts, _starts(sizes))


def ended_by_itself(finish_reason: Any) -> Any:
    """Whether each answer ended by itself rather than at its length limit."""
    return pc.not_equal(finish_reason, pa.scalar("length"))


def indices(rows: Ints) -> Any:
    """Row numbers for Arrow's `take`."""
    return pa.array(rows)


def row_indices(ids: Strings, wanted: Strings, what: str) -> Ints:
    """Index in `ids` of each of the `wanted` ids. Raises DataError for a missing or repeated id."""
    known = ids.combine_chunks()
    if pc.count_distinct(known).as_py() != len(known):
        raise DataError(f"completion_id is not unique in {len(known)} rows: the same draws occur twice")
    positions = pc.index_in(wanted, value_set=known)
    if positions.null_count:
        missing = wanted.filter(pc.is_null(positions))
        raise DataError(f"{len(missing)} of {len(wanted)} ids of {what} are unknown, the first is {missing[0].as_py()}")
    return positions.to_numpy().astype(np.int64)


def _runs(column: Strings) -> tuple[Hashes, Ints]:
    """Hash and first row of every run of equal values, followed by the number of rows."""
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
