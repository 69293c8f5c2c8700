"""Agreement of annotators as two matrices: how often each two give the same verdict, and how far beyond chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, estimate_text, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = Mapping[tuple[str, str], Estimate]
MOST_NUMBERS = 12
"""Annotators whose numbers fit into a matrix."""
MOST_LETTERS = 18
"""Letters of an annotator's name; longer ones are cut."""
DARK = 0.57
"""Values above have a dark colour."""


def agreement_figure(results: RunResults, title: str) -> Figure | None:
    """Accuracies and kappas of the last report on agreement; None where a run has none."""
    rows = [row for row in (*results.others, *results.rows) if metric_of(row.metrics, "same_verdict")]
    if not rows:
        return None
    from matplotlib import pyplot as plt

    row = rows[-1]
    same, kappa = (_matrix(row, role) for role in ("same_verdict", "kappa"))
    names = list(dict.fromkeys(name for couple in same for name in couple))
    side = max(3.2, 0.62 * len(names) + 1.4)
    figure, (left, right) = plt.subplots(1, 2, figsize=(1.8 * side + 0.8, side))
    _draw(left, same, names, "Blues", 0.0)
    _draw(right, kappa, names, "PuOr", -1.0)
    left.set_title("Share of pairs with the same verdict", fontsize=9.5, pad=8)
    right.set_title("Cohen's kappa", fontsize=9.5, pad=8)
    right.set_yticklabels([])
    heading = style.heading_of("Agreement", f"{title}, {row.label}" if title else row.label)
    style.add_heading(figure, heading)
    figure.tight_layout(w_pad=1.6)
    style.add_foot(figure, _summary(row))
    return style.close_figure(figure)


def _matrix(row: ResultRow, role: str) -> dict[tuple[str, str], Estimate]:
    """`eval/kappa/kim/lee` → (kim, lee), for the metrics of a role."""
    named = ((name.split("/")[-2:], e) for name, e in row.metrics.items() if e.metric.role == role)
    return {(a, b): e for (a, b), e in named}


def _draw(axes: Axes, matrix: Matrix, names: Sequence[str], colours: str, low: float) -> None:
    """Each value in both its cells; an annotator's own cell is empty."""
    values = [[_value(matrix, a, b) for b in names] for a in names]
    axes.imshow(values, cmap=colours, vmin=low, vmax=1, aspect="equal")
    if len(names) <= MOST_NUMBERS:
        for i, of_row in enumerate(values):
            for j, value in enumerate(of_row):
                if not math.isnan(value):
                    colour = "white" if abs(value) > DARK else style.INK
                    axes.text(j, i, _short(value), ha="center", va="center", fontsize=8, color=colour)
    labels = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), labels)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _value(matrix: Matrix, a: str, b: str) -> float:
    estimate = matrix.get((a, b)) or matrix.get((b, a))
    return math.nan if estimate is None else estimate.value


def _short(value: float) -> str:
    """Two decimals without the zero before them, with the typographer's minus."""
    text = f"{abs(value):.2f}"
    return f"{'−' if value < 0 and text != '0.00' else ''}{text.removeprefix('0') if value < 1 else text}"


def _summary(row: ResultRow) -> str:
    """The report's other numbers in words, with the prompts behind them."""
    shown = {n: e for n, e in row.metrics.items() if e.metric.column and not math.isnan(e.value)}
    parts = [
        f"{e.metric.column.splitlines()[0]} {estimate_text(e.value, e.low, e.high, e.metric.format)}"
        for e in shown.values()
    ]
    return "; ".join([*parts, f"{row.n} prompts"])
