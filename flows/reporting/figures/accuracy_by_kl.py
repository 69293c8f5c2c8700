"""Accuracy of an oracle on pairs of policies at growing KL from the base: how far its preference can be trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_by_kl(results: RunResults, title: str) -> Figure | None:
    """The accuracy with its 95% interval against √KL, and the farthest KL to which it is above the bound.

    None where no Report has accuracies by distance.
    """
    row = next((row for row in results.all_rows if metric_of(row.metrics, "accuracy_at")), None)
    if row is None:
        return None
    accuracies, distances = (_bins(row, role) for role in ("accuracy_at", "distance_at"))
    x = [style.sqrt_kl(e.value) for e in distances]
    figure, axes = style.new_figure(5.8, 3.9)
    axes.plot(
        x, [e.value for e in accuracies], color=style.ACCENT, lw=2, marker="o", ms=5, mec="white", mew=1, zorder=3
    )
    style.draw_intervals(axes, x, [(e.low, e.high) for e in accuracies], style.ACCENT)
    axes.axhline(0.5, color=style.MUTED, lw=0.8)
    _draw_bound(axes, row)
    axes.margins(y=0.12)
    style.axis_in_nats(axes, max(e.value for e in distances))
    axes.set_xlabel(style.KL_AXIS)
    axes.set_title(style.heading_of("Accuracy by distance from the base", title))
    axes.set_ylabel("accuracy, pairs of the policy's answers")
    style.add_foot(figure, "bars: 95% interval over prompts; solid line: chance; dashes: the bound, and the farthest "
                           "KL to which the accuracy is above it")  # fmt: skip
    return figure


def _bins(row: ResultRow, role: str) -> list[Estimate]:
    """The metrics of a role in the order of their numbers."""
    numbered = {int(name.rpartition("/")[2]): e for name, e in row.metrics.items() if e.metric.role == role}
    return [numbered[i] for i in sorted(numbered)]


def _draw_bound(axes: Axes, row: ResultRow) -> None:
    bound, farthest = (row.metrics.get(metric_of(row.metrics, role)) for role in ("accuracy_bound", "farthest"))
    if bound is not None:
        axes.axhline(bound.value, color=style.BASE, lw=1.1, ls=style.DASHES)
    if farthest is not None and not math.isnan(farthest.value):
        x = style.sqrt_kl(farthest.value)
        axes.axvline(x, color=style.BASE, lw=1.1, ls=style.DASHES)
        axes.annotate(
            f"accurate to KL {farthest.value:.2g}", (x, 0.03), (5, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8.5, color=style.MUTED,
        )  # fmt: skip
