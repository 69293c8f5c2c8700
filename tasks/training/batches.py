"""Packing of rows into micro-batches: prompts are shared where that pays, and short rows are packed together.

A *segment* is a prompt followed by one or several answers, each of which attends to the prompt and itself only,
without the last token, from which nothing is predicted. A *packed row* of the model's input contains one or several
segments that do not attend to each other. A *prompt group* is a set of rows that stay in one micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.training.rows import Ints, Rows

PASS_COST = 3e7
"""Fixed cost of a forward and backward pass, in multiplications per layer (13 ms of Python and dispatch for 3 layers on
2 CPU cores, divided by 4)."""
MIN_PACKED_TOKENS = 128
"""Minimum length of a packed row: attention within it is still cheap compared to the layers' products."""


class Segment(NamedTuple):
    row: int
    """A row with the segment's prompt."""
    answers: tuple[int, ...]
    length: int


class PromptGroup(NamedTuple):
    """Rows that stay in one micro-batch, and the segments with their answers."""

    rows: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def longest(self) -> int:
        return max(segment.length for segment in self.segments)


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
    sources: Ints
    """`(M,)`: flat index `row·T + t` of the position that predicts each answer token."""
    targets: Ints
    """`(M,)`: the answer tokens."""
    lengths: Ints
    """`(S,)`: tokens per answer, consecutive in `targets`."""


class PackingConfig(NamedTuple):
    """How rows are packed. It changes last bits, so a checkpoint pins it."""

    tokens: int
    """Largest number of tokens in a micro-batch, padding included."""
    width: int
    """Hidden size of the model: the cost of a token relative to its attention."""
    share: bool
    """Whether a packed row may contain several answers and several prompts."""


def micro_batches(rows: Rows, batch: Ints, packing: PackingConfig) -> list[MicroBatch]:
    """The rows of `batch` in micro-batches of rows of similar length."""
    groups = _sorted_groups(rows, batch, packing)
    return [_collate(rows, groups[a:b], packing) for a, b in _cuts(groups, packing)]


def sorted_micro_batches(rows: Rows, packing: PackingConfig) -> Iterator[MicroBatch]:
    """All rows once, longest first, generated lazily: for passes without gradient over a whole table."""
    groups = _sorted_groups(rows, np.arange(len(rows)), packing)
    start = 0
    while start < len(groups):
        end = start + max(1, _num_fitting(groups[start:], packing))
        yield _collate(rows, groups[start:end], packing)
        start = end


def _sorted_groups(rows: Rows, batch: Ints, packing: PackingConfig) -> list[PromptGroup]:
    return sorted(_prompt_groups(rows, batch, packing), key=lambda g: (-g.longest, g.rows))


def _num_fitting(groups: Sequence[PromptGroup], packing: PackingConfig) -> int:
    """How many of the first groups fit in one micro-batch."""
    length, used = _row_length(groups[0].longest, packing), 0
    for i, group in enumerate(groups):
        used += sum(segment.length if packing.share else length for segment in group.segments)
        if used > packing.tokens:
            return i
    return len(groups)


def _row_length(longest: int, packing: PackingConfig) -> int:
    """Tokens per packed row, given the length of the longest segment."""
    return max(longest, min(MIN_PACKED_TOKENS, packing.tokens)) if packing.share else longest


def _prompt_groups(rows: Rows, batch: Ints, packing: PackingConfig) -> Iterator[PromptGroup]:
    by_prompt: dict[bytes, list[int]] = {}
    for row in batch.tolist():
        by_prompt.setdefault(rows.prompts.at(row).tobytes(), []).append(row)
    for same_prompt in by_prompt.values():
        yield from _groups_of_one_prompt(rows, same_prompt, packing)


def _groups_of_one_prompt(rows: Rows, same_prompt: Sequence[int], packing: PackingConfig) -> Iterator[PromptGroup]:
    """Rows are merged into one segment for as long as that is cheaper than reading the prompt again."""
    group: list[int] = []
    segments: list[Segment] = []
    for row in same_prompt:
        own = _segments(rows, row, packing)
        merged = _merged(rows, segments[0], own[0], packing) if len(segments) == len(own) == 1 else None
        if group and merged is None:
            yield PromptGroup(tuple(group), tuple(segments))
            group = []
        group, segments = [*group, row], [merged] if merged else own
    yield PromptGroup(tuple(group), tuple(segments))


def _segments(rows: Rows, row: int, packing: PackingConfig) -> list[Segment]:
    segments: list[Segment] = []
    for answer in rows.answers_of(row):
        fresh = Segment(row, (answer,), rows.prompts.size(row) + rows.answers.size(answer) - 1)
        merged = _merged(rows, segments[-1], fresh, packing) if segments else None
        segments[-1:] = [merged] if merged else [*segments[-1:], fresh]
    return segments


def _merged(rows: Rows, a: Segment, b: Segment, packing: PackingConfig) -> Segment | None:
    """One segment for both, or None where two cost less."""
    length = a.length + b.length - rows.prompts.size(a.row)
    if not packing.share or _cost(length, packing) >= _cost(a.length, packing) + _cost(b.length, packing):
        return None
    return Segment(a.row, a.answers + b.answers, length)


def _cost(length: int, packing: PackingConfig) -> int:
    """Multiplications of one layer, up to a factor: about 24·width² per token, 4·width per pair of tokens."""
    return length * (6 * packing.width + length)


def _cuts(groups: Sequence[PromptGroup], packing: PackingConfig) -> list[tuple[int, int]]:
    """Partition of groups, sorted by length, that minimises the cost of tokens, attention and passes."""
    row_lengths = np.array([_row_length(g.longest, packing) for g in groups], np.float64)
    before = np.cumsum([0, *(len(g.segments) for g in groups)])
    tokens = np.cumsum([0, *(sum(segment.length for segment in g.segments) for g in groups)])
    cost, start = np.zeros(len(groups) + 1), np.zeros(len(groups) + 1, np.int64)
    for end in range(1, len(groups) + 1):
        width = row_lengths[:end]
        count = np.ceil((tokens[end] - tokens[:end]) / width) if packing.share else before[end] - before[:end]
        padded = count * width
        padded[:-1][padded[:-1] > packing.tokens] = np.inf
        total = cost[:end] + padded * (6 * packing.width + width) + PASS_COST / packing.width
        start[end] = int(total.argmin())
        cost[end] = total[start[end]]
    cuts, end = [], len(groups)
    while end:
        cuts.append((int(start[end]), end))
        end = int(start[end])
    return cuts[::-1]


def _pack(segments: Sequence[Segment], packing: PackingConfig) -> list[list[Segment]]:
    """Segments, longest first, in packed rows of the cheapest length."""
    if not packing.share:
        return [[segment] for segment in segments]
    longest = segments[0].length
    lengths = sorted({max(longest, n * MIN_PACKED_TOKENS // 2) for n in (0, 2, 3, 4)})
    return min((_first_fit(segments, n) for n in lengths), key=lambda p: len(p) * _cost(_width(p), packing))


def _width(packed: Sequence[Sequence[Segment]]) -> int:
    return max(sum(segment.length for segment in row) for row in packed)


def _first_fit(segments: Sequence[Segment], length: int) -> list[list[Segment]]:
    packed: list[list[Segment]] = []
    room: list[int] = []
    for segment in segments:
        place = next((i for i, free in enumerate(room) if free >= segment.length), len(packed))
        if place == len(packed):
            packed.append([])
            room.append(length)
        packed[place].append(segment)
        room[place] -= segment.length
    return packed


def _collate(rows: Rows, groups: Sequence[PromptGroup], packing: PackingConfig) -> MicroBatch:
    packed = _pack(sorted((s for g in groups for s in g.segments), key=lambda s: -s.length), packing)
    size = len(packed), _width(packed)
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    texts, prompts = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    sources: dict[int, Ints] = {}

    def put(i: int, start: int, tokens: npt.NDArray[np.int32], position: int, text: int, prompt: int) -> int:
        end = start + len(tokens)
        ids[i, start:end], positions[i, start:end] = tokens, np.arange(position, position + len(tokens))
        texts[i, start:end], prompts[i, start:end] = text, prompt
        return end

    for i, packed_row in enumerate(packed):
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
    order = [row for group in groups for row in group.rows]
    answers = [a for row in order for a in rows.answers_of(row)]
    plain = all(len(packed_row) == 1 and len(packed_row[0].answers) == 1 for packed_row in packed)
    return MicroBatch(
        np.array(order, np.int64), ids, None if plain else positions, None if plain else texts,
        None if plain else prompts, np.concatenate([sources[a] for a in answers]),
        np.concatenate([rows.answers.at(a) for a in answers]).astype(np.int64),
        np.array([rows.answers.size(a) for a in answers], np.int64),
    )  # fmt: skip
