"""Matrices whose rows and columns are the same things: win rates, agreement, correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Matrix = Mapping[tuple[str, str], Estimate]
MOST_NUMBERS = 12
"""Rows whose numbers fit into a matrix."""
MOST_INTERVALS = 6
"""Rows whose intervals fit as well."""
MOST_LETTERS = 18
"""Letters of a name; longer ones are cut."""
DARK = 0.45
"""Luminance below which the numbers on a colour are white."""


def matrix_of(row: ResultRow, role: str) -> dict[tuple[str, str], Estimate]:
    """`eval/kappa/kim/lee` → (kim, lee), for the metrics of a role."""
    named = ((name.split("/")[-2:], e) for name, e in row.metrics.items() if e.metric.role == role)
    return {(a, b): e for (a, b), e in named}


def matrix_names(matrix: Matrix) -> list[str]:
    """Of its rows, in the order of the report."""
    return list(dict.fromkeys(name for couple in matrix for name in couple))


def draw_matrix(
    axes: Axes, matrix: Matrix, names: Sequence[str], colours: str, low: float, *, complement: bool = False,
    intervals: bool = False,
) -> None:  # fmt: skip
    """Each value in both its cells, or with `complement` one minus it in the mirrored one; a thing's own cell is empty.

    colours: a map that runs from `low` to 1; intervals: write them below the numbers where they fit.
    """
    from matplotlib import colormaps

    size, of_value = len(names), colormaps[colours]
    cells = [[_cell(matrix, a, b, complement=complement) for b in names] for a in names]
    values = [[math.nan if e is None else e.value for e in row] for row in cells]
    axes.imshow(values, cmap=colours, vmin=low, vmax=1, aspect="equal")
    for i, row in enumerate(cells if size <= MOST_NUMBERS else []):
        for j, e in enumerate(row):
            if e is not None and not math.isnan(e.value):
                red, green, blue, _ = of_value((e.value - low) / (1 - low))
                colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < DARK else style.INK
                shown = intervals and size <= MOST_INTERVALS and e.low is not None and e.high is not None
                axes.text(j, i - (0.11 if shown else 0), short(e.value), ha="center", va="center", color=colour,
                          fontsize=8.5 if size <= MOST_INTERVALS else 7.5)  # fmt: skip
                if shown:
                    axes.text(j, i + 0.2, f"{short(e.low or 0)} to {short(e.high or 0)}", ha="center", va="center",
                              fontsize=5.8, color=colour)  # fmt: skip
    labels = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in names]
    turned = max(map(len, labels), default=0) > 4
    axes.set_xticks(range(size), labels, rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(size), labels)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _cell(matrix: Matrix, a: str, b: str, *, complement: bool) -> Estimate | None:
    if (a, b) in matrix:
        return matrix[a, b]
    mirrored = matrix.get((b, a))
    if mirrored is None or not complement:
        return mirrored
    low, high = (None if end is None else 1 - end for end in (mirrored.high, mirrored.low))
    return Estimate(1 - mirrored.value, low, high, mirrored.n, mirrored.unit, mirrored.metric)


def short(value: float) -> str:
    """Two decimals without the zero before them, with the typographer's minus."""
    text = f"{abs(value):.2f}"
    return f"{'−' if value < 0 and text != '0.00' else ''}{text.removeprefix('0') if abs(value) < 1 else text}"
