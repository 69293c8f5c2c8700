"""Curves of trainings: what the records hold of every optimizer step, in small panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flows.reporting.figures import style
from flows.store.finished import FinishedStep
from tasks.declarations import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flows.store.store import Store

Points = Sequence[tuple[int, float]]
Curves = dict[str, list[tuple[int, float]]]
"""Metric → (optimizer step, value) pairs."""
MOST_PANELS = 6
REACH = 20
"""A running mean covers one in so many of a curve's values to either side."""


def curves_of(steps: Sequence[FinishedStep]) -> dict[str, dict[str, Curves]]:
    """Name of each step that trained → title (one for each round) → its curves."""
    curves: dict[str, dict[str, Curves]] = {}
    for step in steps:
        if step.trained:
            of_step = curves.setdefault(step.name, {})[step.title] = Curves()
            for row in step.record.curves:
                for metric in (m for m in row if m != "step"):  # in order, which the digest of a figure depends on
                    of_step.setdefault(metric, []).append((int(row["step"]), row[metric]))
    return curves


def declared_curves(store: Store, task: str) -> dict[str, Curve]:
    """The curves that a task declares, in the order of the figures."""
    return dict(store.declared.of_task(task, "curves") or {})


def training(curves: Mapping[str, Curves], declared: Mapping[str, Curve], title: str) -> Figure | None:
    """The first six of the declared curves that were recorded, a panel each, with a line for each round, later ones
    darker."""
    shown = [m for m in declared if any(m in c for c in curves.values())][:MOST_PANELS]
    if not shown:
        return None
    from matplotlib import pyplot as plt

    columns = min(3, len(shown))
    height = math.ceil(len(shown) / columns)
    figure, grid = plt.subplots(height, columns, figsize=(3.7 * columns, 2.6 * height), squeeze=False)
    colours = style.shades(len(curves))
    smoothed = False
    for axes, metric in zip(grid.flat, shown, strict=False):
        for colour, (_, metrics) in zip(colours, curves.items(), strict=True):
            points = metrics.get(metric, ())
            noisy = not declared[metric].exact and is_noisy(points)
            draw_curve(axes, points, colour, smooth=noisy)
            smoothed |= noisy
        axes.set_title(f"{declared[metric].title[0].upper()}{declared[metric].title[1:]}", fontsize=9.5, pad=6)
        axes.set_ylabel(declared[metric].unit)
        _limit(axes, [y for c in curves.values() for _, y in c.get(metric, ())])
        style.readable_ticks(axes.yaxis)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(shown) - columns) : len(shown)]:  # the lowest that is shown in each column
        axes.set_xlabel("optimizer step")
    style.add_heading(figure, style.heading_of("Training", title))
    rows = style.add_legend(figure, dict(zip(curves, colours, strict=True))) if len(curves) > 1 else 0
    figure.tight_layout(h_pad=1.6, w_pad=1.4)
    style.add_foot(figure, foot_of(curves, smoothed=smoothed), legend_rows=rows)
    return style.close_figure(figure)


def _limit(axes: Axes, values: Sequence[float]) -> None:
    """Show a value that never changes on an axis from 0 on, and not as the middle of a tiny range."""
    if min(values) == max(values):
        axes.set_ylim(*sorted((0.0, 2 * values[0])) if values[0] else (-0.02, 1.0))


def foot_of(curves: Mapping[str, Curves], *, smoothed: bool) -> str:
    """What the lines are."""
    longest = max((len(points) for c in curves.values() for points in c.values()), default=0)
    if not smoothed:
        return "lines: the value of every optimizer step"
    return (
        f"pale: the value of every optimizer step; thick: running mean over ±{longest // REACH} steps; "
        "a line without a pale one is not smoothed"
    )


def draw_curve(axes: Axes, points: Points, colour: Any, *, smooth: bool) -> None:
    """The values; to be smooth, pale, with their running mean over them."""
    if not points:
        return
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=colour, lw=0.8 if smooth else 1.8, alpha=0.3 if smooth else 1.0)
    if smooth:
        axes.plot(steps, running_mean(values, len(values) // REACH), color=colour, lw=1.9)


def is_noisy(points: Points) -> bool:
    """Whether a curve turns more often than a schedule does, and has values enough for a mean over some of them."""
    steps = [b - a for (_, a), (_, b) in pairwise(points)]
    return len(points) >= REACH and sum(a * b < 0 for a, b in pairwise(steps)) > 2


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean over `reach` values to either side. Near the ends, where fewer are on one side, the value of the
    straight line through them: the mean of a curve that falls would begin too low."""
    last = len(values) - 1
    windows = ((i, max(0, i - reach), min(last, i + reach)) for i in range(len(values)))
    return [_line_at(i, start, values[start : end + 1]) for i, start, end in windows]


def _line_at(i: int, start: int, values: Sequence[float]) -> float:
    """The least-squares line through values at `start`, `start` + 1, … at `i`; in their middle it is their mean."""
    n = len(values)
    middle, mean = start + (n - 1) / 2, sum(values) / n
    if i == middle:
        return mean
    slope = sum((start + j - middle) * v for j, v in enumerate(values)) * 12 / (n * (n * n - 1))
    return mean + slope * (i - middle)
