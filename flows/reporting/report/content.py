"""What a report page shows, as plain data: the templates beside this file write it as HTML and escape all of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flows.reporting.report.picture import GraphPicture
from flows.reporting.report.svg import PageFigure
from flows.reporting.results import Estimate, ResultRow, RunResults, columns, main_metric, table_cell


@dataclass(frozen=True)
class Whisker:
    """An interval on a line from 0 to 100 that all rows of a column share. `mark`: a reference, such as one half."""

    low: float
    value: float
    high: float
    mark: float | None = None


@dataclass(frozen=True)
class PageCell:
    """A cell of a table. `more`: its interval or unit, in smaller letters; `style`: `number`, `code`, `state`, …"""

    text: str
    more: str = ""
    style: str = ""
    whisker: Whisker | None = None


@dataclass(frozen=True)
class PageRow:
    """A row of a table; its first cell is its head."""

    cells: tuple[PageCell, ...]
    style: str = ""
    id: str = ""
    """By which other parts of the page refer to it."""


@dataclass(frozen=True)
class PageTable:
    """A table with its caption. A head that begins with `>` is that of a column of numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[PageRow, ...]


@dataclass(frozen=True)
class Tile:
    """A number of the last round, large. `change`: since the baseline, as text."""

    title: str
    value: str
    interval: str
    change: str
    main: bool


@dataclass(frozen=True)
class PageAnswer:
    """One answer. `score`: by the oracle, as text."""

    text: str
    score: str
    finished: bool


@dataclass(frozen=True)
class AnswerCard:
    """A prompt with its two answers. `p`: P(after beats before), None where the oracle compared none.

    `best`, `worst` and `random` are its places in these orders; the cards stand in the order of the table.
    """

    prompt: str
    before: PageAnswer
    after: PageAnswer
    p: float | None
    best: int
    worst: int
    random: int


@dataclass(frozen=True)
class PageAnswers:
    """The answers of one evaluation. `prompts`: how many it had, of which `cards` may be fewer."""

    step: str
    oracle: str
    prompts: int
    cards: tuple[AnswerCard, ...]


@dataclass(frozen=True)
class RunPage:
    """All that the page shows of one run."""

    id: str
    title: str
    label: str
    """What it is called among several runs."""
    about: str
    sentence: str
    status: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    """Steps that failed, or wait for people, and why."""
    warnings: tuple[str, ...]
    notices: tuple[str, ...]
    tiles: tuple[Tile, ...]
    measured: tuple[tuple[str, str], ...]
    """What the headline was measured with."""
    graph: GraphPicture | None
    results: tuple[PageTable, ...]
    metrics: tuple[PageTable, ...]
    """Every number of every evaluation."""
    figures: tuple[PageFigure, ...]
    training: tuple[PageFigure, ...]
    curves: tuple[PageTable, ...]
    answers: PageAnswers | None
    parameters: tuple[tuple[str, str], ...]
    costs: tuple[PageTable, ...]
    steps: PageTable
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ComparisonPage:
    """All that the page shows of several runs together."""

    title: str
    sentence: str
    warnings: tuple[str, ...]
    table: PageTable
    seeds: PageTable | None
    """Methods with several seeds, over these."""
    differences: PageTable | None
    interval: str
    """What the intervals of the differences are, and what they contain."""
    parameters: PageTable | None
    figures: tuple[PageFigure, ...]
    runs: tuple[RunPage, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    """Run → the file of its own page beside this one."""


def results_table(rows: Sequence[ResultRow], results: RunResults, caption: str) -> PageTable:
    """Evaluations as rows, their metrics as columns, and a line with the interval of the first that is ranked by."""
    shown = columns(rows)
    main = next((m for row in rows if (m := main_metric(row.metrics))), "")
    whiskers = whiskers_of([row.metrics.get(main) for row in rows])
    heads = ["", ">prompts"]
    for name, metric in shown.items():
        heads += [f">{metric.column}", *([""] if name == main else [])]
    shown_rows = []
    for row, whisker in zip(rows, whiskers, strict=True):
        is_base, is_last = row is results.base_check, bool(results.rows) and row is results.rows[-1]
        cells = (PageCell("base vs. base" if is_base else row.label), PageCell(f"{row.n:,}", "", "number"))
        style = "last" if is_last else "base" if is_base else ""
        shown_rows.append(PageRow((*cells, *_metric_cells(row, shown, main, whisker)), style))
    return PageTable(caption, tuple(heads), tuple(shown_rows))


def _metric_cells(row: ResultRow, shown: Iterable[str], main: str, whisker: Whisker | None) -> Iterable[PageCell]:
    for name in shown:
        yield estimate_cell(row.metrics.get(name))
        if name == main:
            yield PageCell("", "", "whisker", whisker)


def estimate_cell(estimate: Estimate | None) -> PageCell:
    """An estimate in the format of its column, its interval apart from the value."""
    value, _, interval = table_cell(estimate).partition(" (")
    return PageCell(value, interval.removesuffix(")"), "number")


def whiskers_of(estimates: Sequence[Estimate | None], mark: float | None = None) -> list[Whisker | None]:
    """Estimates with both ends on one scale; `mark` is drawn where it lies on it, one half for probabilities."""
    known = [e for e in estimates if e and e.low is not None and e.high is not None and not math.isnan(e.value)]
    if not known:
        return [None] * len(estimates)
    if mark is None and known[0].unit == "probability":
        mark = 0.5
    ends = [v for e in known for v in (e.low, e.high) if v is not None] + ([mark] if mark is not None else [])
    start, length = min(ends), max(ends) - min(ends) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (value - start) / length, 1)

    return [
        Whisker(at(e.low), at(e.value), at(e.high), None if mark is None else at(mark))
        if e in known and e and e.low is not None and e.high is not None
        else None
        for e in estimates
    ]
