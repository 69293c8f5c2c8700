"""The tokens of a table as flat arrays: prompts, and the answers of all rows in order.

A pair has two answers (chosen, rejected), a ranking K, every other row one. Axis letters: N rows, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.contract import DataError
from tasks.kinds import Model, Preferences, Rankings, Table
from tasks.template import template_digest

Ints = npt.NDArray[np.int64]
CHOSEN, REJECTED, TARGET = 0, 1, 2
"""Places of a pair's answers in its row."""


class Ragged(NamedTuple):
    """Concatenated lists of ids: list i is `values[offsets[i]:offsets[i + 1]]`."""

    values: npt.NDArray[np.int32]
    offsets: Ints

    def at(self, i: int) -> npt.NDArray[np.int32]:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def size(self, i: int) -> int:
        return int(self.offsets[i + 1] - self.offsets[i])

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)


class Rows(NamedTuple):
    """The training data of a table, without copies where Arrow's layout allows."""

    prompts: Ragged
    """N prompts, generation prompt included."""
    answers: Ragged
    """A answers, in order of the rows; a pair's chosen answer precedes the rejected one."""
    starts: Ints
    """`(N + 1,)`: row n has the answers `starts[n]:starts[n + 1]`."""
    prompt_ids: list[str]
    answer_ids: list[str]
    marked: bool = False
    """Whether each answer is followed by an uncounted extra token (`tasks.training.scores`)."""
    has_targets: bool = False
    """Whether each pair has a third answer, its target (`tasks.training.targets`)."""
    common: Ints | None = None
    """`(A,)`: tokens of the shorter answer of each pair, which both answers have; None where nothing reads it."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def answers_of(self, row: int) -> range:
        return range(int(self.starts[row]), int(self.starts[row + 1]))

    @property
    def tokens(self) -> Ints:
        """`(N,)`: tokens per row, counting the prompt once for each answer."""
        ends = np.concatenate([[0], np.cumsum(self.answers.lengths)])[self.starts]
        each = self.prompts.lengths - self.marked
        return each * np.diff(self.starts) + np.diff(ends)

    @property
    def is_target(self) -> npt.NDArray[np.bool_]:
        """`(A,)`: which answers are targets."""
        return (np.arange(len(self.answer_ids)) % 3 == TARGET) & self.has_targets

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(prompt_id, completion_id) of every answer."""
        counts = np.diff(self.starts)
        return list(zip(np.repeat(np.array(self.prompt_ids, object), counts), self.answer_ids, strict=True))


def with_common_lengths(rows: Rows) -> Rows:
    """`rows` of pairs with the length that both answers have. A target has its own."""
    common = rows.answers.lengths.copy()
    chosen, rejected = rows.starts[:-1] + CHOSEN, rows.starts[:-1] + CHOSEN + 1
    common[chosen] = common[rejected] = np.minimum(common[chosen], common[rejected])
    return Rows(
        rows.prompts, rows.answers, rows.starts, rows.prompt_ids, rows.answer_ids, rows.marked, rows.has_targets, common
    )  # fmt: skip


def rows_of(table: Table, policy: Model) -> Rows:
    """The tokens of `table`. Raises DataError unless the policy's tokenizer and template made them."""
    _check_template(table, policy)
    data: Any = table.table
    answers, starts, ids = _answers(table)
    prompts = _ragged(data.column("prompt_tokens"))
    for what, lists in (("prompt", prompts), ("answer", answers)):
        if (lists.lengths == 0).any():
            raise DataError(f"{int((lists.lengths == 0).sum())} rows have an empty {what}: `tokenize` them")
    return Rows(prompts, answers, starts, data.column("prompt_id").to_pylist(), ids)


def rows_of_ids(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Rows:
    """Prompts with one answer each, as ids; prompt_ids and answer_ids are their numbers."""
    names = [str(i) for i in range(len(answers))]
    return Rows(_concatenated(prompts), _concatenated(answers), np.arange(len(answers) + 1), names, names)


def _concatenated(lists: Sequence[Sequence[int]]) -> Ragged:
    values = np.fromiter((i for ids in lists for i in ids), np.int32)
    return Ragged(values, np.cumsum([0, *map(len, lists)], dtype=np.int64))


def _check_template(table: Table, policy: Model) -> None:
    own, expected = table.metadata.get("template"), template_digest(policy)
    if own != expected:
        raise DataError(
            f"the tokens of this {type(table).__name__} were made with template {own}, but the policy at {policy.path} "
            f"has {expected}: `tokenize` the table with that policy"
        )


def _answers(table: Table) -> tuple[Ragged, Ints, list[str]]:
    data: Any = table.table
    n = data.num_rows
    if isinstance(table, Preferences):
        order = np.arange(2 * n).reshape(2, n).T.ravel()
        both: Any = pa.chunked_array([*data.column("chosen_tokens").chunks, *data.column("rejected_tokens").chunks])
        ids = np.stack([_strings(data, "chosen_id"), _strings(data, "rejected_id")], axis=1).ravel()
        return _ragged(both.take(pa.array(order))), np.arange(n + 1) * 2, ids.tolist()
    if isinstance(table, Rankings):
        lists = _combined(data.column("completions_tokens"))
        starts = _offsets(lists)
        return _ragged(lists.flatten()), starts, _combined(data.column("completion_ids")).flatten().to_pylist()
    if "completion_tokens" not in data.column_names:
        raise DataError(f"{type(table).__name__} has no answers to train on or score")
    return _ragged(data.column("completion_tokens")), np.arange(n + 1), data.column("completion_id").to_pylist()


def _strings(data: Any, name: str) -> npt.NDArray[np.object_]:
    return np.array(data.column(name).to_pylist(), object)


def _combined(column: Any) -> Any:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _offsets(lists: Any) -> Ints:
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64)


def _ragged(column: Any) -> Ragged:
    """Raises DataError where a list is null."""
    lists = _combined(column)
    if lists.null_count:
        raise DataError(f"{lists.null_count} rows have no tokens: `tokenize` them first")
    return Ragged(lists.flatten().to_numpy().astype(np.int32, copy=False), _offsets(lists))
