"""Figures of several runs: the win rate by round, and what each nat of KL bought in gold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.reporting.comparison import ComparedRun, Comparison
from flows.reporting.figures.saving import Drawing, save_figures
from flows.reporting.figures.style import (
    BASE,
    INK,
    KL_AXIS,
    MUTED,
    add_foot,
    annotate,
    axis_in_nats,
    draw_base,
    new_figure,
    sqrt_kl,
)
from flows.reporting.results import Estimate, ResultRow, metric_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6fb0", "#b5432f", "#3d8a4e", "#7b52a3", "#c08a1e", "#2a8c8c", "#a3477f", "#5d6670")
"""Told apart by people who see colours differently as well; the ninth run has the first's again, and other marks."""
MARKS = ("o", "s", "D", "^", "v", "P", "X", "h")
DODGE = 0.05
"""Rounds that runs stand apart, so that their intervals can be read."""


class Line(NamedTuple):
    """A run as it is drawn."""

    label: str
    rows: tuple[ResultRow, ...]
    colour: str
    mark: str


def draw_comparison(found: Comparison, directory: Path, *, cache: Path) -> list[Path]:
    """Draw `win_rate_per_round.png` and `gold_vs_kl.png` into `directory`, those that there are numbers for."""
    drawings: dict[str, Drawing] = {
        "win_rate_per_round": partial(by_round, found.entries),
        "gold_vs_kl": partial(compare_gold_against_kl, found.entries),
    }
    return save_figures(drawings, directory, cache)


def by_round(entries: Sequence[ComparedRun]) -> Figure | None:
    """The metric that ranks, by round, one line for each run with its 95% intervals; base against base as a band."""
    metric = next((e.metric for e in entries if e.metric), "")
    lines = _lines(entries, metric)
    if not metric or not lines:
        return None
    figure, axes = new_figure(6.8, 4.2)
    floors = [f.metrics[metric] for e in entries if (f := e.found.floor) and metric in f.metrics]
    _floor(axes, floors)
    for number, line in enumerate(lines):
        shift = DODGE * (number - (len(lines) - 1) / 2)
        x = [(row.round or 1) + shift for row in line.rows]
        _line(axes, line, x, [row.metrics[metric] for row in line.rows])
    last = max(row.round or 1 for line in lines for row in line.rows)
    every = max(1, last // 12)
    axes.set_xticks(range(1, last + 1, every))
    axes.set_xlim(0.6, last + 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("round (1 for a run without rounds)" if last > 1 else "")
    about = lines[0].rows[-1].metrics[metric].metric
    axes.set_ylabel(about.axis or metric)
    axes.set_title(f"{about.figure or metric.rpartition('/')[2].replace('_', ' ').capitalize()}, by round")
    _legend(axes, lines)
    n = lines[0].rows[-1].metrics[metric].n
    band = " and band" if floors else ""
    _foot(figure, lines, f"{n} prompts; bars{band}: 95% interval over prompts, one training each")
    return figure


def compare_gold_against_kl(entries: Sequence[ComparedRun]) -> Figure | None:
    """The gold score against √KL from the base (Gao et al., arXiv 2210.10760, section 3.1, whose laws are in √KL)."""
    rows = [row for entry in entries for row in entry.found.rows]
    kl, gold = metric_in(rows, "distance"), metric_in(rows, "score")
    lines = [line for line in _lines(entries, kl) if all(gold in r.metrics for r in line.rows)]
    if not lines:
        return None
    figure, axes = new_figure(6.8, 4.2)
    base = next((f.metrics[gold] for e in entries if (f := e.found.floor) and gold in f.metrics), None)
    for line in lines:
        x = [sqrt_kl(row.metrics[kl].value) for row in line.rows]
        scores = [row.metrics[gold] for row in line.rows]
        if base and not math.isnan(base.value):
            axes.plot([0, x[0]], [base.value, scores[0].value], color=line.colour, lw=1.2, alpha=0.45, ls=(0, (3, 2)))
        _line(axes, line, x, scores)
        for a, row in zip(x, line.rows, strict=True):
            if row.round:
                annotate(axes, str(row.round), (a, row.metrics[gold].value), line.colour)
    if base and not math.isnan(base.value):
        draw_base(axes, base.value)
    axis_in_nats(axes, max(row.metrics[kl].value for line in lines for row in line.rows))
    axes.margins(y=0.14)
    axes.set_title("Gold score against distance from the base")
    axes.set_xlabel(KL_AXIS)
    axes.set_ylabel(lines[0].rows[-1].metrics[gold].metric.axis or gold)
    _legend(axes, lines)
    n = lines[0].rows[-1].metrics[gold].n
    _foot(figure, lines, f"numbers: rounds; {n} prompts; bars: 95% interval over prompts, one training each")
    return figure


def _lines(entries: Sequence[ComparedRun], metric: str) -> list[Line]:
    """The runs that have the metric; a run keeps its colour in every figure."""
    found = []
    for number, entry in enumerate(entries):
        rows = tuple(r for r in entry.found.rows if (e := r.metrics.get(metric)) and not math.isnan(e.value))
        if rows:
            mark = MARKS[(number + number // len(COLOURS)) % len(MARKS)]
            found.append(Line(entry.label, rows, COLOURS[number % len(COLOURS)], mark))
    return found


def _line(axes: Axes, line: Line, x: Sequence[float], estimates: Sequence[Estimate]) -> None:
    y = [e.value for e in estimates]
    axes.plot(x, y, color=line.colour, lw=2, marker=line.mark, ms=6, mec="white", mew=1.1, zorder=4)
    for a, e in zip(x, estimates, strict=True):
        if e.low is not None and e.high is not None:
            axes.plot([a, a], [e.low, e.high], color=line.colour, lw=2.6, alpha=0.32, solid_capstyle="round", zorder=3)


def _floor(axes: Axes, floors: Sequence[Estimate]) -> None:
    axes.axhline(0.5, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    if floors and floors[0].low is not None and floors[0].high is not None:
        axes.axhspan(floors[0].low, floors[0].high, color=BASE, alpha=0.14, lw=0)
        axes.annotate(f"base vs. base  {floors[0].value:.3f}", (1, floors[0].high), (-6, 2), color=BASE, ha="right",
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8.5)  # fmt: skip


def _columns(lines: Sequence[Line]) -> int:
    """Of the legend."""
    return 1 if len(lines) < 4 else 2


def _foot(figure: Figure, lines: Sequence[Line], text: str) -> None:
    add_foot(figure, text, legend_rows=math.ceil(len(lines) / _columns(lines)))


def _legend(axes: Axes, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=line.colour, lw=2, marker=line.mark, ms=6, mec="white", label=line.label) for line in lines
    ]
    below = (0.0, -0.16)
    axes.legend(
        handles=handles, labelcolor=INK, fontsize=8.5, loc="upper left", bbox_to_anchor=below, ncols=_columns(lines)
    )  # fmt: skip
