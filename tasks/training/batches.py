"""From rows to micro-batches: prompts shared where that pays, equal lengths together, no logits for prompts.

A *lane* is one line of the model's input: a prompt followed by one or several answers to it, each of which sees
the prompt and itself only. Answers' last tokens are left out: nothing is predicted from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.training.rows import Ints, Rows

OVERHEAD = 160
"""What one more forward and backward pass costs, in tokens of the toy policy (measured on 2 CPU cores)."""


class Lane(NamedTuple):
    row: int
    """A row that holds the lane's prompt."""
    answers: tuple[int, ...]
    length: int


class Unit(NamedTuple):
    """Rows that go through the model together, and the lanes that hold their answers."""

    rows: tuple[int, ...]
    lanes: tuple[Lane, ...]

    @property
    def longest(self) -> int:
        return max(lane.length for lane in self.lanes)


class MicroBatch(NamedTuple):
    """L lanes of T tokens, and M answer tokens to be predicted, of S answers in the order of `rows`."""

    rows: Ints
    ids: Ints
    """`(L, T)`, padded with 0 at the right."""
    segments: npt.NDArray[np.int32] | None
    """`(L, T)`: 0 prompt, 1, 2, … answers, -1 padding. None if every lane has one answer: plain causal attention."""
    positions: Ints | None
    """`(L, T)`: an answer's count goes on where its prompt ends. None if they simply count."""
    sources: Ints
    """`(M,)`: flat place `lane·T + t` from which each answer token is predicted."""
    targets: Ints
    """`(M,)`: the answer tokens."""
    lengths: Ints
    """`(S,)`: tokens per answer; they lie one after another in `targets`."""


class Shape(NamedTuple):
    """What decides how rows are laid out. It changes last bits, so a checkpoint pins it."""

    tokens: int
    """Largest number of tokens in a micro-batch, padding included."""
    width: int
    """Hidden size of the model: how dear a token is beside its attention."""
    share: bool
    """Whether the model can read a prompt once for several answers."""


def micro_batches(rows: Rows, batch: Ints, shape: Shape) -> list[MicroBatch]:
    """The rows of `batch` in micro-batches of similar length; every row lies in one of them, whole."""
    units = sorted(_units(rows, batch, shape), key=lambda u: (-u.longest, u.rows))
    return [_collate(rows, units[a:b]) for a, b in _cuts(units, shape.tokens)]


def sorted_micro_batches(rows: Rows, shape: Shape) -> Iterator[MicroBatch]:
    """All rows once, longest first, made one after another: for passes without gradient over a whole table."""
    units = sorted(_units(rows, np.arange(len(rows)), shape), key=lambda u: (-u.longest, u.rows))
    start = lanes = 0
    for i, unit in enumerate(units):
        if lanes and (lanes + len(unit.lanes)) * units[start].longest > shape.tokens:
            yield _collate(rows, units[start:i])
            start, lanes = i, 0
        lanes += len(unit.lanes)
    if lanes:
        yield _collate(rows, units[start:])


def _units(rows: Rows, batch: Ints, shape: Shape) -> Iterator[Unit]:
    groups: dict[bytes, list[int]] = {}
    for row in batch.tolist():
        groups.setdefault(rows.prompts.at(row).tobytes(), []).append(row)
    for group in groups.values():
        yield from _units_of_one_prompt(rows, group, shape)


def _units_of_one_prompt(rows: Rows, group: Sequence[int], shape: Shape) -> Iterator[Unit]:
    """Rows join the open lane for as long as that is cheaper than reading the prompt again."""
    held: list[int] = []
    lanes: list[Lane] = []
    for row in group:
        own = _lanes(rows, row, shape)
        joined = _joined(rows, lanes[0], own[0], shape) if len(lanes) == len(own) == 1 else None
        if held and joined is None:
            yield Unit(tuple(held), tuple(lanes))
            held = []
        held, lanes = [*held, row], [joined] if joined else own
    yield Unit(tuple(held), tuple(lanes))


def _lanes(rows: Rows, row: int, shape: Shape) -> list[Lane]:
    lanes: list[Lane] = []
    for answer in rows.answers_of(row):
        fresh = Lane(row, (answer,), rows.prompts.size(row) + rows.answers.size(answer) - 1)
        joined = _joined(rows, lanes[-1], fresh, shape) if lanes else None
        lanes[-1:] = [joined] if joined else [*lanes[-1:], fresh]
    return lanes


def _joined(rows: Rows, a: Lane, b: Lane, shape: Shape) -> Lane | None:
    """One lane for both, or None where two cost less."""
    length = a.length + b.length - rows.prompts.size(a.row)
    if not shape.share or _cost(length, shape) >= _cost(a.length, shape) + _cost(b.length, shape):
        return None
    return Lane(a.row, a.answers + b.answers, length)


def _cost(length: int, shape: Shape) -> int:
    """Multiplications of one layer, up to a factor: about 24·width² per token, 4·width per pair of tokens."""
    return length * (6 * shape.width + length)


def _cuts(units: Sequence[Unit], tokens: int) -> list[tuple[int, int]]:
    """Where to cut units sorted by length, so that padding and passes together cost least (dynamic programme)."""
    longest = np.array([u.longest for u in units], np.int64)
    before = np.concatenate([[0], np.cumsum([len(u.lanes) for u in units])])
    cost = np.zeros(len(units) + 1, np.int64)
    start = np.zeros(len(units) + 1, np.int64)
    for end in range(1, len(units) + 1):
        padded = (before[end] - before[:end]) * longest[:end]
        padded[:-1][padded[:-1] > tokens] = np.iinfo(np.int64).max // 4
        total = cost[:end] + padded + OVERHEAD
        start[end] = int(total.argmin())
        cost[end] = total[start[end]]
    cuts = []
    end = len(units)
    while end:
        cuts.append((int(start[end]), end))
        end = int(start[end])
    return cuts[::-1]


def _collate(rows: Rows, units: Sequence[Unit]) -> MicroBatch:
    lanes = [lane for unit in units for lane in unit.lanes]
    shape = len(lanes), max(lane.length for lane in lanes)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments = np.full(shape, -1, np.int32)
    sources: dict[int, Ints] = {}
    for i, lane in enumerate(lanes):
        prompt = rows.prompts.at(lane.row)
        end = len(prompt)
        ids[i, :end], positions[i, :end], segments[i, :end] = prompt, np.arange(end), 0
        for number, answer in enumerate(lane.answers, 1):
            read = rows.answers.at(answer)[:-1]
            span = slice(end, end + len(read))
            ids[i, span], segments[i, span] = read, number
            positions[i, span] = np.arange(len(prompt), len(prompt) + len(read))
            sources[answer] = i * shape[1] + np.concatenate([[len(prompt) - 1], np.arange(end, end + len(read))])
            end += len(read)
    held = [row for unit in units for row in unit.rows]
    answers = [a for row in held for a in rows.answers_of(row)]
    forked = any(len(lane.answers) > 1 for lane in lanes)
    return MicroBatch(
        np.array(held, np.int64), ids, segments if forked else None, positions if forked else None,
        np.concatenate([sources[a] for a in answers]),
        np.concatenate([rows.answers.at(a) for a in answers]).astype(np.int64),
        np.array([rows.answers.size(a) for a in answers], np.int64),
    )  # fmt: skip
