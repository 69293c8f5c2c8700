"""The picture of a run's graph: a box for each step, composites and rounds folded, in columns from left to right.

Steps before the rounds, in the rounds and after them stand in three bands. A box in the rounds stands for the step of
every round; its cells show how each of them ended. Plain numbers, in pixels: the template draws them as SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flows.reporting.report.picture import (
    HEIGHT,
    GraphArrow,
    GraphBand,
    GraphBox,
    GraphPicture,
    arrow_across,
    arrow_below,
    arrow_down,
    arrow_over,
)
from flows.reporting.results import costs
from flows.store.finished import FinishedStep
from flows.store.records import Record
from flows.store.runs import Run, RunStep
from flows.system.durations import seconds

GAP, ROW_GAP = 30.0, 12.0
"""Between columns; between the rows of a column."""
PAD, HEAD, LANE = 14.0, 26.0, 9.0
"""Around the boxes of a band; of its title; between two arrows to the next round."""
LETTER, NARROWEST, LONGEST = 7.3, 84.0, 22
"""Width of a letter; least width of a box; letters of a name."""
MOST_ROWS = 4
"""Boxes of a column in the rounds; more go into the next."""
MOST_COLUMNS = 8
"""Columns of steps outside the rounds before they have a second row."""
MOST_CELLS = 48
"""Cells of a box; of more rounds, several share one."""
BANDS = ("before the rounds", "rounds", "after the rounds")
ENDED = ("failed", "waiting", "stopped", "running", "pending", "skipped", "made", "hit", "carried")
"""States of steps; a box shows the first that one of its steps has."""
STATE_WORDS = {
    "hit": "cached",
    "made": "run",
    "pending": "not run",
    "skipped": "not run",
    "carried": "from a tick before",
}
"""How people read a state; others are read as they are."""

Place = tuple[int, str]
"""Number of a band, and the name of a step in it."""


@dataclass
class _Layout:
    """Boxes and arrows before they have places in the picture."""

    steps: dict[Place, list[RunStep]] = field(default_factory=dict)
    feeds: dict[tuple[Place, Place], bool] = field(default_factory=dict)
    """(Source, target) → whether only the step of the next round is fed."""
    columns: dict[int, list[list[Place]]] = field(default_factory=dict)
    """Band → its columns, each from top to bottom."""


def graph_picture(run: Run, finished: Sequence[FinishedStep]) -> GraphPicture | None:
    """The picture of a run; None for one without steps."""
    records = {f.addresses[0]: f.record for f in finished}
    layout = _Layout()
    places = dict(_places(run))
    for id, place in places.items():
        layout.steps.setdefault(place, []).append(run.steps[id])
    for source, target in _edges(run, records):
        if places[source] != places[target] or _is_later(run, source, target):
            edge, loop = (places[source], places[target]), _is_later(run, source, target)
            layout.feeds[edge] = layout.feeds.get(edge, True) and loop
    rounds_first = sorted({band for band, _ in layout.steps}, key=lambda band: band != 1)
    for band in rounds_first:
        layout.columns[band] = _columns(layout, band)
    layout.columns = dict(sorted(layout.columns.items()))
    return _Drawing(run, layout, {f.addresses[0]: f for f in finished}).picture() if layout.steps else None


def _places(run: Run) -> Iterator[tuple[str, Place]]:
    """Step → its band and the name of its box: composites are one box."""
    in_rounds = False
    for id, step in run.steps.items():
        in_rounds = in_rounds or step.round is not None
        band = 1 if step.round is not None else 2 if in_rounds else 0
        yield id, (band, id.partition("@")[0].partition("/")[0])


def _edges(run: Run, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """(Step, the step that it feeds), from the run's file; of older runs, from the records of finished steps."""
    of_key = {step.key: id for id, step in run.steps.items() if step.key}
    for id, step in run.steps.items():
        parents = records[id].inputs if id in records else ()
        fed_by = step.fed_by or [of_key[p.key] for p in parents if p.key in of_key]
        yield from ((source, id) for source in fed_by if source in run.steps)


def _is_later(run: Run, source: str, target: str) -> bool:
    before, after = run.steps[source].round, run.steps[target].round
    return before is not None and after is not None and before < after


def _columns(layout: _Layout, band: int) -> list[list[Place]]:
    """The boxes of a band: each to the right of what feeds it, near the rows of that."""
    order = [place for place in layout.steps if place[0] == band]
    most_rows = MOST_ROWS if band == 1 else -(-len(order) // MOST_COLUMNS)
    order = order if band == 1 else _beside_the_rounds(layout, order)
    number = {place: i for i, place in enumerate(order)}
    column, row, columns = dict[Place, int](), dict[Place, float](), list[list[Place]]()
    for place in order:
        fed_by = [s for (s, t), loop in layout.feeds.items() if t == place and not loop and s in number]
        before = [s for s in fed_by if number[s] < number[place]]
        at = max((column[s] + 1 for s in before), default=0)
        while at < len(columns) and len(columns[at]) >= most_rows:
            at += 1
        columns += [[] for _ in range(at + 1 - len(columns))]
        column[place] = at
        row[place] = sum(row[s] for s in before) / len(before) if before else len(columns[at])
        columns[at].append(place)
    return [sorted(several, key=lambda place: row[place]) for several in columns if several]


def _beside_the_rounds(layout: _Layout, order: Sequence[Place]) -> list[Place]:
    """Steps outside the rounds: what feeds others of them first, then in the order of the columns that they feed."""
    column = {place: at for at, several in enumerate(layout.columns.get(1, ())) for place in several}
    depth = dict[Place, int]()
    for place in order:
        depth[place] = max((depth[s] + 1 for s, t in layout.feeds if t == place and s in depth), default=0)

    def key(place: Place) -> tuple[int, float]:
        near = [column[p] for edge in layout.feeds if place in edge for p in edge if p in column]
        return depth[place], sum(near) / len(near) if near else 0.0

    return sorted(order, key=key)


class _Drawing:
    """Gives boxes and arrows their places."""

    def __init__(self, run: Run, layout: _Layout, finished: Mapping[str, FinishedStep]) -> None:
        self._run, self._layout, self._finished = run, layout, finished
        self._boxes: dict[Place, GraphBox] = {}
        self._column: dict[Place, int] = {}
        self._loops = dict.fromkeys(edge for edge, loop in layout.feeds.items() if loop)

    def picture(self) -> GraphPicture:
        y, heights, right = 0.0, dict[int, tuple[float, float]](), 0.0
        for band, columns in self._layout.columns.items():
            height = self._place(band, columns, y)
            heights[band] = (y, height)
            y += height + 26
        right = max(box.x + box.width for box in self._boxes.values()) + PAD
        titled = len(heights) > 1
        bands = [GraphBand(self._title(b) if titled else "", 0, top, right, high) for b, (top, high) in heights.items()]
        arrows = [GraphArrow(self._path(*edge, heights), self._boxes[edge[0]].id, self._boxes[edge[1]].id, loop)
                  for edge, loop in self._layout.feeds.items()]  # fmt: skip
        return GraphPicture(right, y - 26, tuple(bands), tuple(self._boxes.values()), tuple(arrows))

    def _title(self, band: int) -> str:
        rounds = len({step.round for step in self._run.steps.values() if step.round is not None})
        return BANDS[band] if band != 1 else f"{rounds} rounds, drawn as one" if rounds > 1 else "the round"

    def _place(self, band: int, columns: Sequence[Sequence[Place]], top: float) -> float:
        """Place the boxes of a band; returns its height."""
        x, most = PAD, max(map(len, columns))
        head = HEAD + (12 if self._arcs(columns) else 0)
        for number, column in enumerate(columns):
            width = max(self._width(place) for place in column)
            y = top + head + (most - len(column)) * (HEIGHT + ROW_GAP) / 2
            for place in column:
                self._column[place] = number
                self._boxes[place] = self._box(place, x, y, width)
                y += HEIGHT + ROW_GAP
            x += width + GAP
        lanes = len(self._loops) * LANE + 8 if band == 1 and self._loops else 0
        return head + most * (HEIGHT + ROW_GAP) - ROW_GAP + lanes + PAD

    def _arcs(self, columns: Sequence[Sequence[Place]]) -> bool:
        """Whether an arrow passes over a column."""
        at = {place: number for number, column in enumerate(columns) for place in column}
        edges = (e for e, loop in self._layout.feeds.items() if not loop and e[0] in at and e[1] in at)
        return any(abs(at[t] - at[s]) > 1 for s, t in edges)

    def _width(self, place: Place) -> float:
        longest = max(len(place[1]), len(self._main(place).task))
        states, cost = self._states(place), self._cost(place)
        return max(NARROWEST, min(longest, LONGEST) * LETTER + 24, min(len(states), 12) * 9 + len(cost) * 6.4 + 26)

    def _main(self, place: Place) -> RunStep:
        """The step that a box is named after: of a composite, the one that gives its result."""
        steps = self._layout.steps[place]
        return next((s for s in reversed(steps) if s.id.partition("@")[0] == place[1]), steps[-1])

    def _states(self, place: Place) -> tuple[str, ...]:
        by_round: dict[int | None, list[str]] = {}
        for step in self._layout.steps[place]:
            by_round.setdefault(step.round, []).append("carried" if step.carried else step.state)
        return tuple(min(several, key=ENDED.index) for several in by_round.values())

    def _spent(self, place: Place) -> dict[str, float]:
        return costs(f for s in self._layout.steps[place] if (f := self._finished.get(s.addresses[0])))

    def _cost(self, place: Place) -> str:
        spent = self._spent(place).get("cost/seconds", 0.0)
        return seconds(spent) if spent >= 0.05 else ""

    def _box(self, place: Place, x: float, y: float, width: float) -> GraphBox:
        main, states = self._main(place), self._states(place)
        note = "\n".join(_note(place[1], main, states, self._spent(place)))
        id = f"{self._run.id}-{list(self._layout.steps).index(place)}"
        return GraphBox(
            _cut(place[1]), _cut(main.task), self._cost(place), _at_most(states, MOST_CELLS), note, x, y, width, id
        )

    def _path(self, source: Place, target: Place, heights: Mapping[int, tuple[float, float]]) -> str:
        a, b = self._boxes[source], self._boxes[target]
        if (source, target) in self._loops:
            top, height = heights[source[0]]
            lane = top + height - PAD - LANE * list(self._loops).index((source, target))
            return arrow_below(a, b, lane)
        if source[0] != target[0]:
            return arrow_down(a, b)
        return arrow_across(a, b) if self._column[target] - self._column[source] == 1 else arrow_over(a, b)


def _note(name: str, main: RunStep, states: Sequence[str], spent: Mapping[str, float]) -> Iterator[str]:
    yield f"{name}: {main.task}{f' → {main.kind}' if main.kind else ''}"
    words = [STATE_WORDS.get(state, state) for state in states]
    yield ", ".join(f"{words.count(word)} × {word}" if len(words) > 1 else word for word in dict.fromkeys(words))
    parts = [f"{value:,.0f} {cost.rpartition('/')[2].replace('_', ' ')}" for cost, value in spent.items() if value >= 1]
    if parts:
        yield " · ".join(parts)


def _at_most(states: Sequence[str], most: int) -> tuple[str, ...]:
    """The states of many rounds in fewer cells: each shows the worst of several that follow each other."""
    each = -(-len(states) // most)
    return tuple(min(states[i : i + each], key=ENDED.index) for i in range(0, len(states), each))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
