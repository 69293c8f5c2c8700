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

from flows.reporting.figures import style
from flows.reporting.figures.agreement_matrix import agreement_figure
from flows.reporting.figures.exploitability_figure import exploitability_figures, first_is_base
from flows.reporting.figures.lines import gold_against_kl, metric_by_round
from flows.reporting.figures.overoptimisation import overoptimised
from flows.reporting.figures.reliability import reliability_figure
from flows.reporting.figures.saving import Drawing, figure_cache, save_figures
from flows.reporting.results import RunResults
from flows.store.finished import FinishedStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flows.store.store import Store

Curves = dict[str, list[tuple[int, float]]]
"""Metric → (optimizer step, value) pairs."""


def draw_figures(
    store: Store, results: RunResults, steps: Sequence[FinishedStep], directory: Path, title: str
) -> list[Path]:
    """Draw what the results allow into `directory` and return the files; fewer when there is less to show."""
    return save_figures(drawings_of(store, results, steps, title), directory, figure_cache(store))


def drawings_of(store: Store, results: RunResults, steps: Sequence[FinishedStep], title: str) -> dict[str, Drawing]:
    """Every figure that a run may have, by its name and in the order in which people should see them.

    A drawing draws nothing where the run has not what the figure shows.
    """
    by_round = dict.fromkeys(name for row in results.rows for name, e in row.metrics.items() if e.metric.figure)
    drawings: dict[str, Drawing] = {
        **{name.rpartition("/")[2]: partial(metric_by_round, {"": results}, name, title) for name in by_round},
        "gold_vs_kl": partial(gold_against_kl, {"": results}, title),
        "gold_vs_proxy": partial(overoptimised, results, title),
        "reliability": partial(reliability_figure, results, title),
        "agreement_matrix": partial(agreement_figure, results, title),
        "exploitability": partial(exploitability_figures, results, title, base_first=first_is_base(store, steps)),
    }
    for name, curves in curves_of(steps).items():
        task = next(s.record.task for s in steps if s.name == name)
        names = store.declared.of_task(task, "curves") or {}
        drawings[f"training_{name.replace('/', '_')}"] = partial(training, curves, names, f"{name} · {title}")
    return drawings


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
    figure.suptitle(style.heading_of("Training", title), x=0.01, ha="left", weight="bold", fontsize=11)
    if len(curves) > 1:
        figure.legend(handles, curves, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=5, fontsize=8.5)
    figure.tight_layout(h_pad=1.6, w_pad=1.4)
    return style.close_figure(figure)


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
