"""The plan of a batch: which answers share a prompt, which segments share a packed row, which rows share a pass.

A *segment* is a prompt followed by one or several answers, each of which attends to the prompt and itself only,
without the last token, from which nothing is predicted. A *packed row* of the model's input contains one or several
segments that do not attend to each other. A *prompt group* is a set of rows that stay in one micro-batch.

Costs are seconds of a layer's forward and backward pass in units of 12·width/FLOPs per second: a token costs 6·width
(72·width² operations), a pair of tokens of which one attends to the other costs 1 (12·width operations).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.training.rows import Ints, Rows

MIN_PACKED_TOKENS = 128
"""Minimum length of a packed row: attention within it is still cheap compared to the layers' products."""


class Segment(NamedTuple):
    row: int
    """A row with the segment's prompt."""
    answers: tuple[int, ...]
    length: int
    pairs: float
    """Pairs of a token and one that it attends to."""


class PromptGroup(NamedTuple):
    """Rows that stay in one micro-batch, and the segments with their answers."""

    rows: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def longest(self) -> int:
        return max(segment.length for segment in self.segments)


class PackingConfig(NamedTuple):
    """How rows are packed. It changes last bits, so a checkpoint pins it."""

    tokens: int
    """Largest number of tokens in a micro-batch, padding included."""
    width: int
    """Hidden size of the model: the cost of a token relative to its attention."""
    share: bool
    """Whether a packed row may contain several answers and several prompts."""
    pass_cost: float = 3e7
    """Fixed cost of a pass, times width. The default is that of a CPU."""
    span_cost: float | None = None
    """Fixed cost of each answer where attention is computed answer by answer, times width; None: it is computed over
    whole packed rows, with a mask."""


def packing_of_all(packings: Sequence[PackingConfig]) -> PackingConfig:
    """One packing for several models that read the same micro-batches on one device."""
    spans = [p.span_cost for p in packings]
    return PackingConfig(
        min(p.tokens for p in packings), max(p.width for p in packings), all(p.share for p in packings),
        max(p.pass_cost for p in packings), None if None in spans else spans[0],
    )  # fmt: skip


class PlannedBatch(NamedTuple):
    """A micro-batch before it is collated."""

    groups: tuple[PromptGroup, ...]
    packed: tuple[tuple[Segment, ...], ...]
    """The segments of each packed row."""
    in_spans: bool
    """Whether attention is computed answer by answer; there is one packed row then, without padding."""

    @property
    def shape(self) -> tuple[int, int]:
        """(packed rows, tokens of each)."""
        return len(self.packed), _width(self.packed)


def plan_batch(rows: Rows, batch: Ints, packing: PackingConfig) -> list[PlannedBatch]:
    """The rows of `batch` in the cheapest micro-batches of groups of similar length."""
    groups = _sorted_groups(rows, batch, packing)
    return [_planned(groups[a:b], packing) for a, b in _cuts(groups, packing)]


def plan_table(rows: Rows, packing: PackingConfig) -> Iterator[PlannedBatch]:
    """All rows once, longest first, in full micro-batches: for passes without gradient over a whole table."""
    groups = _sorted_groups(rows, np.arange(len(rows)), packing)
    start = 0
    while start < len(groups):
        end = start + max(1, _num_fitting(groups[start:], packing))
        yield _planned(groups[start:end], packing)
        start = end


def cost_of_rows(rows: Rows, part: Ints, packing: PackingConfig) -> float:
    """Cost of reading these rows, without the fixed cost of passes."""
    groups = prompt_groups(rows, part, packing)
    return sum(_segment_cost(segment, packing) for group in groups for segment in group.segments)


def _planned(groups: Sequence[PromptGroup], packing: PackingConfig) -> PlannedBatch:
    segments = sorted((s for g in groups for s in g.segments), key=lambda s: -s.length)
    packed = _pack(segments, packing)
    if packing.span_cost is None:
        return PlannedBatch(tuple(groups), packed, in_spans=False)
    in_spans = _cost_in_spans(segments, packing) < len(packed) * _masked_cost(_width(packed), packing)
    return PlannedBatch(tuple(groups), (tuple(segments),) if in_spans else packed, in_spans)


def _sorted_groups(rows: Rows, batch: Ints, packing: PackingConfig) -> list[PromptGroup]:
    return sorted(prompt_groups(rows, batch, packing), key=lambda g: (-g.longest, g.rows))


def _num_fitting(groups: Sequence[PromptGroup], packing: PackingConfig) -> int:
    """How many of the first groups fit in one micro-batch."""
    length, used = _row_length(groups[0].longest, packing), 0
    for i, group in enumerate(groups):
        used += sum(segment.length if packing.share else length for segment in group.segments)
        if used > packing.tokens:
            return i
    return len(groups)


def _row_length(longest: int, packing: PackingConfig) -> int:
    """Tokens per packed row with a mask, given the length of the longest segment."""
    return max(longest, min(MIN_PACKED_TOKENS, packing.tokens)) if packing.share else longest


def prompt_groups(rows: Rows, batch: Ints, packing: PackingConfig) -> Iterator[PromptGroup]:
    """The rows of `batch` in groups that share the tokens of their prompt."""
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
        if group and (merged is None or merged.length > packing.tokens):
            yield PromptGroup(tuple(group), tuple(segments))
            group, merged = [], None
        group, segments = [*group, row], [merged] if merged else own
    yield PromptGroup(tuple(group), tuple(segments))


def _segments(rows: Rows, row: int, packing: PackingConfig) -> list[Segment]:
    segments: list[Segment] = []
    for answer in rows.answers_of(row):
        length = rows.prompts.size(row) + rows.answers.size(answer) - 1
        fresh = Segment(row, (answer,), length, length**2 / 2)
        merged = _merged(rows, segments[-1], fresh, packing) if segments else None
        segments[-1:] = [merged] if merged else [*segments[-1:], fresh]
    return segments


def _merged(rows: Rows, a: Segment, b: Segment, packing: PackingConfig) -> Segment | None:
    """One segment for both, or None where two cost less."""
    prompt = rows.prompts.size(a.row)
    merged = Segment(a.row, a.answers + b.answers, a.length + b.length - prompt, a.pairs + b.pairs - prompt**2 / 2)
    apart = _segment_cost(a, packing) + _segment_cost(b, packing)
    return merged if packing.share and _segment_cost(merged, packing) < apart else None


def _segment_cost(segment: Segment, packing: PackingConfig) -> float:
    masked = _masked_cost(segment.length, packing)
    return masked if packing.span_cost is None else min(masked, _cost_in_spans([segment], packing))


def _masked_cost(length: int, packing: PackingConfig) -> float:
    """Of a packed row: with a mask, attention is computed for all pairs of its tokens."""
    return length * (6 * packing.width + length)


def _cost_in_spans(segments: Sequence[Segment], packing: PackingConfig) -> float:
    assert packing.span_cost is not None
    return sum(
        s.length * 6 * packing.width + s.pairs + len(s.answers) * packing.span_cost / packing.width for s in segments
    )


class _Costs:
    """Costs of consecutive groups, sorted by length, as one micro-batch."""

    def __init__(self, groups: Sequence[PromptGroup], packing: PackingConfig) -> None:
        self._packing = packing
        self._row_lengths = np.array([_row_length(g.longest, packing) for g in groups], np.float64)
        self._segments = np.cumsum([0, *(len(g.segments) for g in groups)])
        self._tokens = np.cumsum([0, *(sum(segment.length for segment in g.segments) for g in groups)])
        if packing.span_cost is not None:
            self._spanned = np.cumsum([0.0, *(_cost_in_spans(g.segments, packing) for g in groups)])

    def until(self, end: int) -> npt.NDArray[np.float64]:
        """`(end,)`: cost of the groups from each one before `end` up to there; inf where they are too many."""
        cost = self._masked(end)
        if self._packing.span_cost is not None:
            cost = np.minimum(cost, self._in_spans(end))
        return cost + self._packing.pass_cost / self._packing.width

    def _masked(self, end: int) -> npt.NDArray[np.float64]:
        length = self._row_lengths[:end]
        if self._packing.share:
            count = np.ceil((self._tokens[end] - self._tokens[:end]) / length)
        else:
            count = self._segments[end] - self._segments[:end]
        return self._limited(count * length, count * length * (6 * self._packing.width + length))

    def _in_spans(self, end: int) -> npt.NDArray[np.float64]:
        return self._limited(self._tokens[end] - self._tokens[:end], self._spanned[end] - self._spanned[:end])

    def _limited(self, tokens: npt.NDArray[Any], cost: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        cost[:-1][tokens[:-1] > self._packing.tokens] = np.inf
        return cost


def _cuts(groups: Sequence[PromptGroup], packing: PackingConfig) -> list[tuple[int, int]]:
    """Partition of groups, sorted by length, that minimises the cost of tokens, attention and passes."""
    costs = _Costs(groups, packing)
    cost, start = np.zeros(len(groups) + 1), np.zeros(len(groups) + 1, np.int64)
    for end in range(1, len(groups) + 1):
        total = cost[:end] + costs.until(end)
        start[end] = int(total.argmin())
        cost[end] = total[start[end]]
    cuts, end = [], len(groups)
    while end:
        cuts.append((int(start[end]), end))
        end = int(start[end])
    return cuts[::-1]


def _pack(segments: Sequence[Segment], packing: PackingConfig) -> tuple[tuple[Segment, ...], ...]:
    """Segments, longest first, in packed rows of the cheapest length."""
    if not packing.share:
        return tuple((segment,) for segment in segments)
    longest = segments[0].length
    lengths = sorted({max(longest, n * MIN_PACKED_TOKENS // 2) for n in (0, 2, 3, 4)})
    return min((_first_fit(segments, n) for n in lengths), key=lambda p: len(p) * _masked_cost(_width(p), packing))


def _width(packed: Sequence[Sequence[Segment]]) -> int:
    return max(sum(segment.length for segment in row) for row in packed)


def _first_fit(segments: Sequence[Segment], length: int) -> tuple[tuple[Segment, ...], ...]:
    packed: list[list[Segment]] = []
    room: list[int] = []
    for segment in segments:
        place = next((i for i, free in enumerate(room) if free >= segment.length), len(packed))
        if place == len(packed):
            packed.append([])
            room.append(length)
        packed[place].append(segment)
        room[place] -= segment.length
    return tuple(map(tuple, packed))
