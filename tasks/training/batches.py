"""Micro-batches as arrays: the ids, positions and attention of planned rows, and the answer tokens to predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.training.packing import PackingConfig, PlannedBatch, Segment, plan_batch, plan_table
from tasks.training.rows import Ints, Rows


class Span(NamedTuple):
    """Consecutive tokens of a packed row that attend to a prompt, and each to those of the span up to itself."""

    start: int
    end: int
    prompt: tuple[int, int]
    """Start and end of the prompt's tokens; an empty range where the span begins with its prompt."""


class MicroBatch(NamedTuple):
    """L packed rows of T tokens, and M answer tokens to predict, of S answers in the order of `rows`."""

    rows: Ints
    ids: Ints
    """`(L, T)`, padded with 0 at the right."""
    positions: Ints | None
    """`(L, T)`: each answer's positions continue those of its prompt. None: positions simply count up."""
    texts: Ints | None
    """`(L, T)`: number of the prompt or answer that a token belongs to; -1 padding. None: plain causal attention."""
    prompts: Ints | None
    """`(L, T)`: number of the prompt that a token's text is or follows."""
    spans: tuple[Span, ...] | None
    """The same attention as `texts` and `prompts`, of L = 1 row, answer by answer; None: with a mask."""
    sources: Ints
    """`(M,)`: flat index `row·T + t` of the position that predicts each answer token."""
    targets: Ints
    """`(M,)`: the answer tokens."""
    lengths: Ints
    """`(S,)`: tokens per answer, consecutive in `targets`."""
    common: Ints | None = None
    """`(S,)`: tokens of the shorter answer of a pair; None where nothing reads it."""


def micro_batches(rows: Rows, batch: Ints, packing: PackingConfig) -> Iterator[MicroBatch]:
    """The rows of `batch` in the cheapest micro-batches, each collated when it is needed: while a GPU computes."""
    return (collate(rows, planned) for planned in plan_batch(rows, batch, packing))


def sorted_micro_batches(rows: Rows, packing: PackingConfig) -> Iterator[MicroBatch]:
    """All rows once, longest first, generated lazily: for passes without gradient over a whole table."""
    return (collate(rows, planned) for planned in plan_table(rows, packing))


def single_row(ids: Ints, sources: Ints, targets: Ints) -> MicroBatch:
    """Plain rows of ids `(L, T)` and one answer, whose tokens `targets` are predicted at `sources`."""
    return MicroBatch(np.zeros(1, np.int64), ids, None, None, None, None, sources, targets, np.array([len(targets)]))


def collate(rows: Rows, planned: PlannedBatch) -> MicroBatch:
    size = planned.shape
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    texts, prompts = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    sources: dict[int, Ints] = {}

    def put(i: int, start: int, tokens: npt.NDArray[np.int32], position: int, text: int, prompt: int) -> int:
        end = start + len(tokens)
        ids[i, start:end], positions[i, start:end] = tokens, np.arange(position, position + len(tokens))
        texts[i, start:end], prompts[i, start:end] = text, prompt
        return end

    for i, packed_row in enumerate(planned.packed):
        end = number = 0
        for segment in packed_row:
            prompt_ids, prompt = rows.prompts.at(segment.row), number
            end = put(i, end, prompt_ids, 0, prompt, prompt)
            fork = i * size[1] + end - 1
            for answer in segment.answers:
                number += 1
                begin, read = end, rows.answers.at(answer)[:-1]
                end = put(i, begin, read, len(prompt_ids), number, prompt)
                sources[answer] = np.concatenate([[fork], i * size[1] + np.arange(begin, end)])
            number += 1
    order = [row for group in planned.groups for row in group.rows]
    answers = [a for row in order for a in rows.answers_of(row)]
    plain = all(len(packed_row) == 1 and len(packed_row[0].answers) == 1 for packed_row in planned.packed)
    return MicroBatch(
        np.array(order, np.int64), ids, None if plain else positions, None if plain else texts,
        None if plain else prompts, _spans(rows, planned.packed[0]) if planned.in_spans else None,
        np.concatenate([sources[a] for a in answers]),
        np.concatenate([rows.answers.at(a) for a in answers]).astype(np.int64),
        np.array([rows.answers.size(a) for a in answers], np.int64),
        None if rows.common is None else rows.common[answers],
    )  # fmt: skip


def _spans(rows: Rows, packed_row: tuple[Segment, ...]) -> tuple[Span, ...]:
    """A segment's first span is its prompt with the first answer, which is plain causal attention."""
    spans: list[Span] = []
    end = 0
    for segment in packed_row:
        start, prompt = end, (end, end)
        end += rows.prompts.size(segment.row)
        after_prompt = end
        for answer in segment.answers:
            end += rows.answers.size(answer) - 1
            if end > start:
                spans.append(Span(start, end, prompt))
            start, prompt = end, (after_prompt - rows.prompts.size(segment.row), after_prompt)
    return tuple(spans)
