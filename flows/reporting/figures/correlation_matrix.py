"""Rank correlations of objectives, oracles and length: over all answers, and among the answers to one prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.figures.matrix import draw_matrix, matrix_names, matrix_of
from flows.reporting.results import RunResults, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3
"""Quantities that make a matrix."""
TITLES = {"correlation": "Over all answers", "correlation_within": "Among the answers to a prompt"}


def correlation_figure(results: RunResults, title: str) -> Figure | None:
    """Both matrices of the last report on correlations, the second where prompts have several answers; None where a run
    has no such report, or two quantities, whose histogram says more."""
    rows = [row for row in (*results.others, *results.rows) if metric_of(row.metrics, "correlation")]
    if not rows:
        return None
    row = rows[-1]
    matrices = {role: matrix for role in TITLES if (matrix := matrix_of(row, role))}
    names = matrix_names(matrices["correlation"])
    if len(names) < FEWEST:
        return None
    from matplotlib import pyplot as plt

    side = max(3.0, 0.66 * len(names) + 1.3)
    figure, grid = plt.subplots(
        1, len(matrices), figsize=((side + 0.3) * len(matrices) + 0.6, side + 0.4), squeeze=False
    )
    for axes, (role, matrix) in zip(grid.flat, matrices.items(), strict=True):
        draw_matrix(axes, matrix, names, "PuOr", -1.0, intervals=True)
        axes.set_title(TITLES[role], fontsize=9.5, pad=8)
    for axes in grid.flat[1:]:
        axes.set_yticklabels([])
    style.add_heading(
        figure, style.heading_of("Spearman correlations", f"{title}, {row.label}" if title else row.label)
    )
    figure.tight_layout(w_pad=1.6)
    style.add_foot(
        figure, f"{row.n:,} prompts; in small figures: 95% interval over prompts; where the left number is larger, "
        "it comes from differences between prompts",
    )  # fmt: skip
    return style.close_figure(figure)
