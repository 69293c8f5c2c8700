"""Lines of one run or of several: a metric by round, and what each nat of KL bought in gold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, metric_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = ("o", "s", "D", "^", "v", "P", "X", "h")
"""The ninth run has the first colour again, and another mark."""
DODGE = 0.05
"""Distance in rounds between the points of two runs, so that their intervals can be read."""
FEW_ROUNDS = 5
"""Up to so many rounds of one run have their labels under them; more have numbers."""

RunsByLabel = Mapping[str, RunResults]
"""The runs of a figure; a run that stands alone has the label ''."""


class Line(NamedTuple):
    """A run as it is drawn: its rows that have the metric."""

    label: str
    rows: tuple[ResultRow, ...]
    colour: str
    mark: str

    def of(self, metric: str) -> list[Estimate]:
        return [row.metrics[metric] for row in self.rows]


def metric_by_round(runs: RunsByLabel, metric: str, title: str = "") -> Figure | None:
    """A metric by round with its 95% intervals, one line for each run; base against base as a band."""
    lines = _lines(runs, metric)
    if not lines:
        return None
    figure, axes = style.new_figure(*_size(runs))
    last, base = lines[0].of(metric)[-1], next(_bases(runs, metric), None)
    if last.unit == "probability":
        axes.axhline(0.5, color=style.MUTED, lw=0.8, ls=(0, (4, 3)))
    if base and base.low is not None and base.high is not None:
        axes.axhspan(base.low, base.high, color=style.BASE, alpha=0.14, lw=0)
        axes.axhline(base.value, color=style.BASE, lw=1.4)
        axes.annotate(f"base vs. base  {base.value:.3f}", (1, base.low), (-6, -4), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=style.BASE, ha="right", va="top", fontsize=8.5)  # fmt: skip
    for number, line in enumerate(lines):
        shift = DODGE * (number - (len(lines) - 1) / 2)
        _draw(axes, line, [(row.round or 1) + shift for row in line.rows], line.of(metric))
    if "" in runs:
        _write_values(axes, lines[0], metric)
    _round_ticks(axes, lines, alone="" in runs)
    axes.set_ylim(*_limits([*([base] if base else []), *(e for line in lines for e in line.of(metric))]))
    axes.set_ylabel(last.metric.axis or metric)
    what = last.metric.figure or metric.rpartition("/")[2].replace("_", " ").capitalize()
    axes.set_title(style.heading_of(what, title) if "" in runs else f"{what}, by round")
    band = " and band" if base else ""
    _finish(figure, axes, lines, f"{last.n} prompts; bars{band}: 95% interval over prompts")
    return figure


def gold_against_kl(runs: RunsByLabel, title: str = "") -> Figure | None:
    """The gold score against the KL from the base: what each nat bought, and where more of it no longer helped.

    The axis is √KL (Gao et al., arXiv 2210.10760, section 3.1, whose laws are in √KL), with ticks in nats.
    """
    rows = [row for results in runs.values() for row in results.rows]
    kl, gold = metric_in(rows, "distance"), metric_in(rows, "score")
    lines = [line for line in _lines(runs, kl) if all(gold in row.metrics for row in line.rows)]
    if not lines:
        return None
    figure, axes = style.new_figure(*_size(runs))
    base = next((e for e in _bases(runs, gold) if not math.isnan(e.value)), None)
    for line in lines:
        x = [style.sqrt_kl(e.value) for e in line.of(kl)]
        scores = line.of(gold)
        if base:
            axes.plot([0, x[0]], [base.value, scores[0].value], color=line.colour, lw=1.4, alpha=0.45, ls=(0, (3, 2)))
        _draw(axes, line, x, scores)
        for at, row, score in zip(x, line.rows, scores, strict=True):
            if row.round or "" in runs:
                style.annotate(axes, str(row.round or row.label), (at, score.value), line.colour)
    if base:
        style.draw_base(axes, base.value)
    style.axis_in_nats(axes, max(e.value for line in lines for e in line.of(kl)))
    axes.margins(y=0.15)
    axes.set_title(style.heading_of("Gold score against distance from the base", title))
    axes.set_xlabel(style.KL_AXIS)
    last = lines[0].of(gold)[-1]
    axes.set_ylabel(last.metric.axis or gold)
    numbers = "numbers: rounds; " if any(row.round for row in rows) else ""
    _finish(figure, axes, lines, f"{numbers}{last.n} prompts; bars: 95% interval over prompts")
    return figure


def _lines(runs: RunsByLabel, metric: str) -> list[Line]:
    """The runs that have the metric; a run keeps its colour in every figure."""
    lines = []
    for number, (label, results) in enumerate(runs.items()):
        rows = tuple(r for r in results.rows if (e := r.metrics.get(metric)) and not math.isnan(e.value))
        if rows:
            mark = MARKS[(number + number // len(style.COLOURS)) % len(MARKS)]
            lines.append(Line(label, rows, style.COLOURS[number % len(style.COLOURS)], mark))
    return lines


def _bases(runs: RunsByLabel, metric: str) -> Iterator[Estimate]:
    """The metric in every run's evaluation of base against base."""
    checks = (results.base_check for results in runs.values())
    yield from (check.metrics[metric] for check in checks if check and metric in check.metrics)


def _size(runs: RunsByLabel) -> tuple[float, float]:
    return (5.6, 3.7) if "" in runs else (6.8, 4.2)


def _draw(axes: Axes, line: Line, x: Sequence[float], estimates: Sequence[Estimate]) -> None:
    y = [e.value for e in estimates]
    axes.plot(x, y, color=line.colour, lw=2.1, marker=line.mark, ms=6.2, mec="white", mew=1.2, zorder=4)
    style.draw_intervals(axes, x, [(e.low, e.high) for e in estimates], line.colour)


def _write_values(axes: Axes, line: Line, metric: str) -> None:
    for row, e in zip(line.rows, line.of(metric), strict=True):
        axes.annotate(f"{e.value:{e.metric.format}}", (row.round or 1, e.high or e.value), (0, 5), color=style.INK,
                      textcoords="offset points", ha="center", weight="bold")  # fmt: skip


def _round_ticks(axes: Axes, lines: Sequence[Line], *, alone: bool) -> None:
    last = max(row.round or 1 for line in lines for row in line.rows)
    labels = {row.round or 1: row.label for row in lines[0].rows} if alone and last <= FEW_ROUNDS else {}
    ticks = range(1, last + 1, max(1, last // 12))
    axes.set_xticks(ticks, [labels.get(at, str(at)) for at in ticks])
    axes.set_xlim(0.6, last + (0.6 if alone else 0.4))
    axes.grid(axis="x", visible=False)
    if last > 1 and not labels:
        axes.set_xlabel("round" if alone else "round (1 for a run without rounds)")


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Around all intervals; around one half and within [0, 1.04] for probabilities."""
    is_probability = estimates[-1].unit == "probability"
    middle = 0.5 if is_probability else estimates[-1].value
    low = min([middle, *(e.value if e.low is None else e.low for e in estimates)])
    high = max([middle, *(e.value if e.high is None else e.high for e in estimates)])
    room = 0.16 * (high - low) + 0.01
    return (max(0.0, low - room), min(1.04, high + room)) if is_probability else (low - room, high + room)


def _finish(figure: Figure, axes: Axes, lines: Sequence[Line], text: str) -> None:
    """A legend for labelled lines, and a line of text below."""
    if not lines[0].label:
        style.add_foot(figure, text)
        return
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=line.colour, lw=2, marker=line.mark, ms=6, mec="white", label=line.label) for line in lines
    ]
    columns = 1 if len(lines) < 4 else 2
    axes.legend(handles=handles, labelcolor=style.INK, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, -0.16),
                ncols=columns)  # fmt: skip
    style.add_foot(figure, f"{text}, one training each", legend_rows=math.ceil(len(lines) / columns))
