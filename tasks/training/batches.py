"""From rows to micro-batches: prompts shared where that pays, short rows packed together, scores for answers only.

A *lane* is a prompt followed by one or several answers to it, each of which sees the prompt and itself only; its
last token is left out, because nothing is predicted from it. A *line* of the model's input holds one or several lanes
that do not see each other. So hardly a token is padding, and none is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.training.rows import Ints, Rows

PASS = 3e7
"""What one more forward and backward pass costs, in multiplications per layer beyond its tokens' (13 ms of Python and
dispatch for 3 layers on 2 CPU cores, divided by 4)."""
LINE = 128
"""Shortest line worth packing, in tokens: attention within it is still cheap beside the layers' products."""


class Segment(NamedTuple):
    row: int
    """A row that holds the lane's prompt."""
    answers: tuple[int, ...]
    length: int


class PromptGroup(NamedTuple):
    """Rows that go through the model together, and the lanes that hold their answers."""

    rows: tuple[int, ...]
    lanes: tuple[Segment, ...]

    @property
    def longest(self) -> int:
        return max(lane.length for lane in self.lanes)


class MicroBatch(NamedTuple):
    """L lines of T tokens, and M answer tokens to be predicted, of S answers in the order of `rows`."""

    rows: Ints
    ids: Ints
    """`(L, T)`, padded with 0 at the right."""
    positions: Ints | None
    """`(L, T)`: within a lane; an answer's count goes on where its prompt ends. None if every line simply counts."""
    segments: Ints | None
    """`(L, T)`: number of the prompt or answer that a token belongs to; -1 padding. None: plain causal attention."""
    roots: Ints | None
    """`(L, T)`: number of the prompt that a token's segment goes on from."""
    sources: Ints
    """`(M,)`: flat place `line·T + t` from which each answer token is predicted."""
    targets: Ints
    """`(M,)`: the answer tokens."""
    lengths: Ints
    """`(S,)`: tokens per answer; they lie one after another in `targets`."""


class PackingConfig(NamedTuple):
    """What decides how rows are laid out. It changes last bits, so a checkpoint pins it."""

    tokens: int
    """Largest number of tokens in a micro-batch, padding included."""
    width: int
    """Hidden size of the model: how dear a token is beside its attention."""
    share: bool
    """Whether a line may hold several answers and several prompts."""


def micro_batches(rows: Rows, batch: Ints, shape: PackingConfig) -> list[MicroBatch]:
    """The rows of `batch` in micro-batches of similar length; every row lies in one of them, whole."""
    units = _sorted_units(rows, batch, shape)
    return [_collate(rows, units[a:b], shape) for a, b in _cuts(units, shape)]


def sorted_micro_batches(rows: Rows, shape: PackingConfig) -> Iterator[MicroBatch]:
    """All rows once, longest first, made one after another: for passes without gradient over a whole table."""
    units = _sorted_units(rows, np.arange(len(rows)), shape)
    start = 0
    while start < len(units):
        end = start + max(1, _fitting(units[start:], shape))
        yield _collate(rows, units[start:end], shape)
        start = end


def _sorted_units(rows: Rows, batch: Ints, shape: PackingConfig) -> list[PromptGroup]:
    return sorted(_units(rows, batch, shape), key=lambda u: (-u.longest, u.rows))


def _fitting(units: Sequence[PromptGroup], shape: PackingConfig) -> int:
    """How many of the first units fill one micro-batch."""
    line, used = _line(units[0].longest, shape), 0
    for i, unit in enumerate(units):
        used += sum(lane.length if shape.share else line for lane in unit.lanes)
        if used > shape.tokens:
            return i
    return len(units)


def _line(longest: int, shape: PackingConfig) -> int:
    """Tokens per line, where the longest lane has `longest`."""
    return max(longest, min(LINE, shape.tokens)) if shape.share else longest


def _units(rows: Rows, batch: Ints, shape: PackingConfig) -> Iterator[PromptGroup]:
    groups: dict[bytes, list[int]] = {}
    for row in batch.tolist():
        groups.setdefault(rows.prompts.at(row).tobytes(), []).append(row)
    for group in groups.values():
        yield from _units_of_one_prompt(rows, group, shape)


def _units_of_one_prompt(rows: Rows, group: Sequence[int], shape: PackingConfig) -> Iterator[PromptGroup]:
    """Rows join the open lane for as long as that is cheaper than reading the prompt again."""
    held: list[int] = []
    lanes: list[Segment] = []
    for row in group:
        own = _lanes(rows, row, shape)
        joined = _joined(rows, lanes[0], own[0], shape) if len(lanes) == len(own) == 1 else None
        if held and joined is None:
            yield PromptGroup(tuple(held), tuple(lanes))
            held = []
        held, lanes = [*held, row], [joined] if joined else own
    yield PromptGroup(tuple(held), tuple(lanes))


def _lanes(rows: Rows, row: int, shape: PackingConfig) -> list[Segment]:
    lanes: list[Segment] = []
    for answer in rows.answers_of(row):
        fresh = Segment(row, (answer,), rows.prompts.size(row) + rows.answers.size(answer) - 1)
        joined = _joined(rows, lanes[-1], fresh, shape) if lanes else None
        lanes[-1:] = [joined] if joined else [*lanes[-1:], fresh]
    return lanes


def _joined(rows: Rows, a: Segment, b: Segment, shape: PackingConfig) -> Segment | None:
    """One lane for both, or None where two cost less."""
    length = a.length + b.length - rows.prompts.size(a.row)
    if not shape.share or _cost(length, shape) >= _cost(a.length, shape) + _cost(b.length, shape):
        return None
    return Segment(a.row, a.answers + b.answers, length)


def _cost(length: int, shape: PackingConfig) -> int:
    """Multiplications of one layer, up to a factor: about 24·width² per token, 4·width per pair of tokens."""
    return length * (6 * shape.width + length)


def _cuts(units: Sequence[PromptGroup], shape: PackingConfig) -> list[tuple[int, int]]:
    """Where to cut units sorted by length, so that tokens, attention and passes cost least (dynamic programme)."""
    lines = np.array([_line(u.longest, shape) for u in units], np.float64)
    before = np.cumsum([0, *(len(u.lanes) for u in units)])
    tokens = np.cumsum([0, *(sum(lane.length for lane in u.lanes) for u in units)])
    cost, start = np.zeros(len(units) + 1), np.zeros(len(units) + 1, np.int64)
    for end in range(1, len(units) + 1):
        width = lines[:end]
        count = np.ceil((tokens[end] - tokens[:end]) / width) if shape.share else before[end] - before[:end]
        padded = count * width
        padded[:-1][padded[:-1] > shape.tokens] = np.inf
        total = cost[:end] + padded * (6 * shape.width + width) + PASS / shape.width
        start[end] = int(total.argmin())
        cost[end] = total[start[end]]
    cuts, end = [], len(units)
    while end:
        cuts.append((int(start[end]), end))
        end = int(start[end])
    return cuts[::-1]


def _packed(lanes: Sequence[Segment], shape: PackingConfig) -> list[list[Segment]]:
    """Lanes, longest first, into lines of the length that costs least."""
    if not shape.share:
        return [[lane] for lane in lanes]
    longest = lanes[0].length
    tried = [_first_fit(lanes, line) for line in sorted({max(longest, n * LINE // 2) for n in (0, 2, 3, 4)})]
    return min(tried, key=lambda lines: len(lines) * _cost(_width(lines), shape))


def _width(lines: Sequence[Sequence[Segment]]) -> int:
    return max(sum(lane.length for lane in line) for line in lines)


def _first_fit(lanes: Sequence[Segment], line: int) -> list[list[Segment]]:
    lines: list[list[Segment]] = []
    room: list[int] = []
    for lane in lanes:
        place = next((i for i, free in enumerate(room) if free >= lane.length), len(lines))
        if place == len(lines):
            lines.append([])
            room.append(line)
        lines[place].append(lane)
        room[place] -= lane.length
    return lines


def _collate(rows: Rows, units: Sequence[PromptGroup], shape: PackingConfig) -> MicroBatch:
    lanes = sorted((lane for unit in units for lane in unit.lanes), key=lambda lane: -lane.length)
    lines = _packed(lanes, shape)
    size = len(lines), _width(lines)
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    segments, roots = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    sources: dict[int, Ints] = {}

    def put(line: int, start: int, tokens: npt.NDArray[np.int32], position: int, segment: int, root: int) -> int:
        end = start + len(tokens)
        ids[line, start:end], positions[line, start:end] = tokens, np.arange(position, position + len(tokens))
        segments[line, start:end], roots[line, start:end] = segment, root
        return end

    for i, line in enumerate(lines):
        end = number = 0
        for lane in line:
            prompt, root = rows.prompts.at(lane.row), number
            end = put(i, end, prompt, 0, root, root)
            fork = i * size[1] + end - 1
            for answer in lane.answers:
                number += 1
                begin, read = end, rows.answers.at(answer)[:-1]
                end = put(i, begin, read, len(prompt), number, root)
                sources[answer] = np.concatenate([[fork], i * size[1] + np.arange(begin, end)])
            number += 1
    held = [row for unit in units for row in unit.rows]
    answers = [a for row in held for a in rows.answers_of(row)]
    plain = all(len(line) == 1 and len(line[0].answers) == 1 for line in lines)
    return MicroBatch(
        np.array(held, np.int64), ids, None if plain else positions, None if plain else segments,
        None if plain else roots, np.concatenate([sources[a] for a in answers]),
        np.concatenate([rows.answers.at(a) for a in answers]).astype(np.int64),
        np.array([rows.answers.size(a) for a in answers], np.int64),
    )  # fmt: skip
