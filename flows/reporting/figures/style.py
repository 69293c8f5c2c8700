"""How figures look: colours, fonts, and the parts that several figures have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#22272e", "#6b7480", "#e6e8eb"
ACCENT, BASE = "#2f6fb0", "#b9713a"
KL_AXIS = "KL(policy ‖ base), nats per answer (the axis is √KL)"
STYLE: Any = {
    "figure.dpi": 160, "savefig.bbox": "tight", "savefig.pad_inches": 0.18, "figure.facecolor": "white",
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": MUTED,
    "axes.edgecolor": "#c5cad1", "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 12,
    "legend.frameon": False,
}  # fmt: skip


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height))
    close_figure(figure)
    return figure, axes


def close_figure(figure: Figure) -> Figure:
    """Take the figure out of pyplot's list, so that it is freed when we are done with it."""
    from matplotlib import pyplot as plt

    plt.close(figure)
    return figure


def heading_of(what: str, title: str) -> str:
    return f"{what} · {title}" if title else what


def add_foot(figure: Figure, text: str, *, legend_rows: int = 0) -> None:
    """A line in small letters below all; `legend_rows`: of a legend that stands between."""
    height = -0.1 - 0.25 * legend_rows
    figure.text(0.125, height / figure.get_figheight(), text, color=MUTED, fontsize=7.5, ha="left", va="top")


def draw_base(axes: Axes, score: float) -> None:
    """The base's score, at no distance from itself."""
    axes.plot(0, score, marker="o", ms=8, color=BASE, mec="white", mew=1.4, zorder=6, clip_on=False)
    axes.annotate("base", (0, score), (9, -3), textcoords="offset points", color=BASE, va="top")


def annotate(axes: Axes, text: str, at: tuple[float, float], colour: str) -> None:
    """A short text beside a point, readable over lines."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text, at, (7, -10), textcoords="offset points", color=colour, weight="bold", fontsize=8, zorder=6,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
    )  # fmt: skip


def draw_intervals(
    axes: Axes, x: Sequence[float], intervals: Sequence[tuple[float | None, float | None]], colour: str
) -> None:
    """A pale bar behind each point that has an interval."""
    for at, (low, high) in zip(x, intervals, strict=True):
        if low is not None and high is not None:
            axes.plot([at, at], [low, high], color=colour, lw=2.9, alpha=0.31, solid_capstyle="round", zorder=3)


def sqrt_kl(kl: float) -> float:
    """√KL; 0 for an estimate that noise made negative."""
    return math.sqrt(max(kl, 0.0))


def axis_in_nats(axes: Axes, most: float) -> None:
    """An axis of √KL up to `most` nats, with ticks at even nats and one more below the first, where the root is
    steep."""
    from matplotlib.ticker import MaxNLocator

    even = [t for t in MaxNLocator(4).tick_values(0.0, max(most, 1e-6)) if 0 <= t <= 1.1 * most] or [0.0]
    ticks = [*even[:1], *(t / 4 for t in even[1:2]), *even[1:]]
    end = max(sqrt_kl(most), 1e-3)
    axes.set_xticks([sqrt_kl(t) for t in ticks], [f"{t:.3g}" for t in ticks])
    axes.set_xlim(-0.03 * end, 1.06 * end)
