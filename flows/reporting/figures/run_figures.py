"""Figures of a run, drawn from its reports and curves: win rate by round, gold against KL, training curves.

Only data that records hold goes in, so a cached run has the same figures as a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.reporting.figures.exploitability_figure import exploitability_figures, first_is_base
from flows.reporting.figures.overoptimisation import overoptimised
from flows.reporting.figures.saving import Drawing, figure_cache, save_figures
from flows.reporting.figures.style import (
    ACCENT,
    BASE,
    INK,
    KL_AXIS,
    MUTED,
    add_foot,
    annotate,
    axis_in_nats,
    close_figure,
    draw_base,
    heading_of,
    new_figure,
    sqrt_kl,
)
from flows.reporting.results import Estimate, ResultRow, RunResults, metric_in
from flows.store.finished import FinishedStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flows.store.store import Store

Curves = dict[str, list[tuple[int, float]]]
"""Metric → (optimizer step, value) pairs."""


def draw_figures(
    store: Store, found: RunResults, steps: Sequence[FinishedStep], directory: Path, title: str
) -> list[Path]:
    """Draw what the results allow into `directory` as PNG and return the files; fewer when there is less to show."""
    by_round = {name: e.metric for row in found.rows for name, e in row.metrics.items() if e.metric.figure}
    drawings: dict[str, Drawing] = {
        **{name.rpartition("/")[2]: partial(metric_by_round, found, name, title) for name in by_round},
        "gold_vs_kl": partial(gold_against_kl, found, title),
        "gold_vs_proxy": partial(overoptimised, found, title),
        "exploitability": partial(exploitability_figures, found, title, base_first=first_is_base(store, steps)),
    }
    for name, curves in curves_of(steps).items():
        task = next(s.record.task for s in steps if s.name == name)
        names = store.declared.of_task(task, "curves") or {}
        drawings[f"training_{name.replace('/', '_')}"] = partial(training, curves, names, f"{name} · {title}")
    return save_figures(drawings, directory, figure_cache(store))


def curves_of(steps: Sequence[FinishedStep]) -> dict[str, dict[str, Curves]]:
    """Name of each step that trained → title (one for each round) → its curves."""
    found: dict[str, dict[str, Curves]] = {}
    for step in steps:
        if step.trained:
            found.setdefault(step.name, {})[step.title] = _columns(step.record.curves)
    return found


def _columns(rows: Sequence[Mapping[str, float]]) -> Curves:
    """Rows with `step` and metrics → metric → (step, value) pairs."""
    columns: Curves = {}
    for row in rows:
        for metric, value in row.items():
            if metric != "step":
                columns.setdefault(metric, []).append((int(row["step"]), value))
    return columns


def metric_by_round(found: RunResults, name: str, title: str) -> Figure | None:
    """A metric by round with its 95% interval; base against base as a band to compare with."""
    rows = _having(found.rows, name)
    if not rows:
        return None
    figure, axes = new_figure(5.6, 3.7)
    last, floor = rows[-1].metrics[name], found.floor.metrics.get(name) if found.floor else None
    if floor and floor.low is not None and floor.high is not None:
        axes.axhspan(floor.low, floor.high, color=BASE, alpha=0.14, lw=0)
        axes.axhline(floor.value, color=BASE, lw=1.4)
    if last.unit == "probability":
        axes.axhline(0.5, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    x = [r.round or 1 for r in rows]
    y = [r.metrics[name].value for r in rows]
    axes.plot(x, y, color=ACCENT, lw=2.2, marker="o", ms=6.5, mec="white", mew=1.4, zorder=3)
    _intervals(axes, x, rows, name)
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        top = rows[i].metrics[name].high or b
        axes.annotate(f"{b:{last.metric.format}}", (a, top), (0, 5), textcoords="offset points", ha="center", color=INK,
                      weight="bold")  # fmt: skip
    _rounds(axes, x, rows)
    axes.set_ylim(*_limits([floor] if floor else [], [r.metrics[name] for r in rows]))
    if floor:
        axes.annotate(f"base vs. base  {floor.value:.3f}", (1, floor.low), (-6, -4), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=BASE, ha="right", va="top", fontsize=8.5)  # fmt: skip
    axes.set_title(heading_of(last.metric.figure, title))
    axes.set_ylabel(last.metric.axis or name)
    add_foot(figure, f"{last.n} prompts; bars and band: 95% interval over prompts")
    return figure


def gold_against_kl(found: RunResults, title: str) -> Figure | None:
    """The gold score against the KL from the base: what each nat bought, and where more of it no longer helped.

    The axis is √KL (Gao et al., arXiv 2210.10760, section 3.1, whose laws are in √KL), with ticks in nats.
    """
    kl, gold = metric_in(found.rows, "distance"), metric_in(found.rows, "score")
    rows = [r for r in _having(found.rows, kl) if r.metrics.get(gold)]
    start = found.floor.metrics.get(gold) if found.floor else None
    if not rows:
        return None
    figure, axes = new_figure(5.6, 3.7)
    x = [sqrt_kl(r.metrics[kl].value) for r in rows]
    y = [r.metrics[gold].value for r in rows]
    if start and not math.isnan(start.value):
        axes.plot([0, x[0]], [start.value, y[0]], color=ACCENT, lw=1.8, alpha=0.45, ls=(0, (3, 2)))
        draw_base(axes, start.value)
    axes.plot(x, y, color=ACCENT, lw=2.2, marker="o", ms=6.5, mec="white", mew=1.4, zorder=3)
    _intervals(axes, x, rows, gold)
    for a, b, row in zip(x, y, rows, strict=True):
        annotate(axes, str(row.round or row.label), (a, b), ACCENT)
    axis_in_nats(axes, max(r.metrics[kl].value for r in rows))
    axes.margins(y=0.16)
    axes.set_title(heading_of("Gold score against distance from the base", title))
    axes.set_xlabel(KL_AXIS)
    axes.set_ylabel(rows[-1].metrics[gold].metric.axis or gold)
    numbers = "numbers: rounds; " if any(r.round for r in rows) else ""
    n = rows[-1].metrics[gold].n
    add_foot(figure, f"{numbers}{n} prompts; bars: 95% interval over prompts")
    return figure


def training(curves: Mapping[str, Curves], names: Mapping[str, str], title: str) -> Figure | None:
    """Small multiples of the training curves with these names, at most six, one line per step that trained, later
    rounds darker."""
    shown = [m for m in names if any(m in c for c in curves.values())][:6]
    if not shown:
        return None
    from matplotlib import colormaps
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    columns = min(3, len(shown))
    height = math.ceil(len(shown) / columns)
    figure, grid = plt.subplots(height, columns, figsize=(3.5 * columns, 2.5 * height), squeeze=False)
    colours = [colormaps["YlGnBu"](0.35 + 0.6 * (i + 1) / len(curves)) for i in range(len(curves))]
    for axes, metric in zip(grid.flat, shown, strict=False):
        for colour, (_, metrics) in zip(colours, curves.items(), strict=True):
            _curve(axes, metrics.get(metric, ()), colour, smooth=_is_noisy(metrics.get(metric, ())))
        axes.set_title(names[metric], fontsize=9.5, pad=6)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(shown) - columns) : len(shown)]:  # the lowest that is shown in each column
        axes.set_xlabel("optimizer step")
    handles = [Line2D([], [], color=c, lw=2.4) for c in colours]
    figure.suptitle(heading_of("Training", title), x=0.01, ha="left", weight="bold", fontsize=11)
    if len(curves) > 1:
        figure.legend(handles, curves, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=5, fontsize=8.5)
    figure.tight_layout(h_pad=1.6, w_pad=1.4)
    return close_figure(figure)


def _curve(axes: Axes, points: Sequence[tuple[int, float]], colour: Any, *, smooth: bool) -> None:
    """The values; to be smooth, pale, with their running mean over them."""
    if not points:
        return
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=colour, lw=0.9 if smooth else 1.8, alpha=0.35 if smooth else 1.0)
    if smooth:
        axes.plot(steps, running_mean(values, len(values) // 20), color=colour, lw=1.8)


def _is_noisy(points: Sequence[tuple[int, float]]) -> bool:
    """Whether a curve turns more often than a schedule does."""
    steps = [b - a for (_, a), (_, b) in pairwise(points)]
    return sum(a * b < 0 for a, b in pairwise(steps)) > 2


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean over `reach` values to either side; over fewer near the ends, as many to both, so that a curve that
    falls begins where its values begin."""
    last = len(values) - 1
    around = ((i, min(reach, i, last - i)) for i in range(len(values)))
    return [sum(values[i - r : i + r + 1]) / (2 * r + 1) for i, r in around]


def _having(rows: Sequence[ResultRow], metric: str) -> list[ResultRow]:
    return [r for r in rows if (e := r.metrics.get(metric)) and not math.isnan(e.value)]


def _intervals(axes: Axes, x: Sequence[Any], rows: Sequence[ResultRow], metric: str) -> None:
    for a, row in zip(x, rows, strict=True):
        e = row.metrics[metric]
        if e.low is not None and e.high is not None:
            axes.plot([a, a], [e.low, e.high], color=ACCENT, lw=3.2, alpha=0.3, solid_capstyle="round", zorder=2)


def _rounds(axes: Axes, x: Sequence[int], rows: Sequence[ResultRow]) -> None:
    every = max(1, len(x) // 12)
    axes.set_xticks(list(x)[::every], [r.label for r in rows][::every] if len(x) < 6 else [str(a) for a in x][::every])
    axes.set_xlim(min(x) - 0.4, max(x) + 0.6)
    axes.grid(axis="x", visible=False)


def _limits(floor: Sequence[Estimate], rows: Sequence[Estimate]) -> tuple[float, float]:
    """Around all intervals; around one half and within [0, 1.04] for probabilities."""
    share = rows[0].unit == "probability"
    middle = 0.5 if share else rows[0].value
    low = min([middle, *(e.low if e.low is not None else e.value for e in [*floor, *rows])])
    high = max([middle, *(e.high if e.high is not None else e.value for e in [*floor, *rows])])
    room = 0.16 * (high - low) + 0.01
    return (max(0.0, low - room), min(1.04, high + room)) if share else (low - room, high + room)
