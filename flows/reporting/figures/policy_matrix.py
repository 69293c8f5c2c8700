"""Policies against policies: how often each beats each other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.figures.matrix import draw_matrix, matrix_names, matrix_of
from flows.reporting.results import RunResults, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def policy_matrix(results: RunResults, title: str) -> Figure | None:
    """The win rates of the last report that has any between policies, but for games, whose figure has them; None where
    a run has none."""
    rows = [
        row
        for row in (*results.others, *results.rows)
        if metric_of(row.metrics, "beats") and not metric_of(row.metrics, "mixture_gap")
    ]
    if not rows:
        return None
    beats = matrix_of(rows[-1], "beats")
    names = matrix_names(beats)
    side = max(3.0, 0.66 * len(names) + 1.2)
    figure, axes = style.new_figure(side + 0.8, side)
    draw_matrix(axes, beats, names, "PuOr", 0.0, complement=True, intervals=True)
    axes.set_title(style.heading_of("P(row beats column)", title), x=-0.25)
    prompts = max(e.n for e in beats.values())
    style.add_foot(figure, f"mean over {prompts:,} prompts; violet: the row's policy wins; in small figures: 95% "
                           "interval over prompts")  # fmt: skip
    return figure
