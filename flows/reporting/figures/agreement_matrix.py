"""Agreement of annotators as two matrices: how often each two give the same verdict, and how far beyond chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.figures.matrix import draw_matrix, matrix_names, matrix_of
from flows.reporting.results import ResultRow, RunResults, estimate_text, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def agreement_figure(results: RunResults, title: str) -> Figure | None:
    """Accuracies and kappas of the last report on agreement; None where a run has none."""
    rows = [row for row in (*results.others, *results.rows) if metric_of(row.metrics, "same_verdict")]
    if not rows:
        return None
    from matplotlib import pyplot as plt

    row = rows[-1]
    same, kappa = (matrix_of(row, role) for role in ("same_verdict", "kappa"))
    names = matrix_names(same)
    side = max(3.2, 0.62 * len(names) + 1.4)
    figure, (left, right) = plt.subplots(1, 2, figsize=(1.8 * side + 0.8, side + 0.4))
    draw_matrix(left, same, names, "Blues", 0.0)
    draw_matrix(right, kappa, names, "PuOr", -1.0)
    left.set_title("Share of pairs with the same verdict", fontsize=9.5, pad=8)
    right.set_title("Cohen's kappa", fontsize=9.5, pad=8)
    right.set_yticklabels([])
    style.add_heading(figure, style.heading_of("Agreement", f"{title}, {row.label}" if title else row.label))
    figure.tight_layout(w_pad=1.6)
    style.add_foot(figure, _summary(row))
    return style.close_figure(figure)


def _summary(row: ResultRow) -> str:
    """The report's other numbers in words, with the prompts behind them."""
    shown = {n: e for n, e in row.metrics.items() if e.metric.column and not math.isnan(e.value)}
    parts = [
        f"{e.metric.column.splitlines()[0]} {estimate_text(e.value, e.low, e.high, e.metric.format)}"
        for e in shown.values()
    ]
    return "; ".join([*parts, f"{row.n} prompts"])
