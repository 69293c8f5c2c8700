"""How figures look: colours, fonts, and the parts that several figures have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#22272e", "#6b7480", "#e6e8eb"
ACCENT, BASE = "#2f6fb0", "#b9713a"
COLOURS = (ACCENT, "#b5432f", "#3d8a4e", "#7b52a3", "#c08a1e", "#2a8c8c", "#a3477f", "#5d6670")
"""Of lines in their order, distinct with colour blindness as well."""
DASHES = (0, (4, 3))
LETTERS_PER_INCH = 18.5
"""Of the foot."""
LEFT = 0.01
"""Where headings, legends and feet of figures with several panels begin, as a share of the width."""
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


def add_heading(figure: Figure, text: str) -> None:
    """The title above several panels."""
    figure.suptitle(text, x=LEFT, ha="left", weight="bold", fontsize=11)


def add_foot(figure: Figure, text: str, *, legend_rows: int = 0) -> None:
    """What lines, bands and colours are, in small letters below all, as wide as the figure; `legend_rows`: of a legend
    that stands between."""
    from textwrap import wrap

    height = -0.1 - 0.25 * legend_rows
    left = LEFT if figure.get_suptitle() else 0.125
    width = int(LETTERS_PER_INCH * (0.98 - left) * figure.get_figwidth())
    lines = [line for part in text.split("\n") for line in wrap(part, width)]
    figure.text(left, height / figure.get_figheight(), "\n".join(lines), color=MUTED, fontsize=7.5, ha="left",
                va="top", linespacing=1.35)  # fmt: skip


def add_legend(figure: Figure, colours: Mapping[str, Any], columns: int = 5) -> int:
    """A legend of lines below all panels; returns its rows, which the foot must leave room for."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=2.4, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(LEFT - 0.01, 0.0), ncols=columns, fontsize=8.5)
    return math.ceil(len(handles) / columns)


def shades(n: int) -> list[Any]:
    """Colours of `n` rounds, later ones darker."""
    from matplotlib import colormaps

    return [colormaps["YlGnBu"](0.35 + 0.6 * (i + 1) / n) for i in range(n)]


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


def readable_ticks(axis: Axis) -> None:
    """Ticks whose numbers are whole: no offset or power of ten that stands apart from them."""
    from matplotlib.ticker import Formatter

    class Readable(Formatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return tick_texts([x])[0]

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            return tick_texts(list(values))

    axis.set_major_formatter(Readable())


def tick_texts(values: Sequence[float]) -> list[str]:
    """The numbers of an axis with as few decimals as tell them apart; very small and large ones as 5×10⁻⁷."""
    most = max((abs(v) for v in values), default=0.0)
    if most and not 1e-3 <= most < 1e6:
        power = math.floor(math.log10(most))
        scaled = tick_texts([v / 10.0**power for v in values])
        exponent = str(power).translate(_RAISED)
        return [text if text == "0" else f"{text}×10{exponent}" for text in scaled]
    apart = min((abs(b - a) for a, b in pairwise(values)), default=most) or most
    decimals = next((d for d in range(8) if all(abs(round(v, d) - v) <= 0.02 * apart for v in values)), 8)
    return ["0" if not round(v, decimals) else f"{v:,.{decimals}f}".replace("-", "−") for v in values]


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
