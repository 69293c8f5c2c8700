"""Reliability of an oracle: accuracy against confidence, how sure it is, and the accuracy of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.reporting.bins import Bin
from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, main_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_GROUPS = 14
"""Groups that fit beside each other, the largest ones."""


def reliability_figure(results: RunResults, title: str) -> Figure | None:
    """The reliability diagram of the last report with bins of confidence; beside it the margins and any groups."""
    rows = [row for row in (*results.others, *results.rows) if any(b.name == "confidence" for b in row.bins)]
    if not rows:
        return None
    from matplotlib import pyplot as plt

    row = rows[-1]
    groups = _groups(row)
    widths = (1.05, 1.05, 1.0) if groups else (1.0, 1.0)
    figure = plt.figure(figsize=(12.2 if groups else 7.9, 3.9))
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, height_ratios=(3.6, 1.0), hspace=0.1, wspace=0.34)
    upper = figure.add_subplot(grid[0, 0])
    sure = [b for b in row.bins if b.name == "confidence"]
    _diagram(upper, sure)
    _counts(figure.add_subplot(grid[1, 0], sharex=upper), sure)
    whole = row.metrics.get(main_metric(row.metrics))
    _margins(figure.add_subplot(grid[:, 1]), [b for b in row.bins if b.name == "margin"], whole)
    if groups:
        _draw_groups(figure.add_subplot(grid[:, 2]), groups, whole)
    heading = style.heading_of("Reliability", f"{title}, {row.label}" if title else row.label)
    style.add_heading(figure, heading)
    figure.subplots_adjust(left=0.06 if groups else 0.09, right=0.98, top=0.82)
    pairs = sum(b.count for b in sure)
    style.add_foot(
        figure,
        f"{pairs:,} pairs of {row.n:,} prompts; bars: 95% interval over prompts; dashed: right as often as sure",
    )
    return style.close_figure(figure)


def _diagram(axes: Axes, bins: Sequence[Bin]) -> None:
    """Accuracy of each bin at its mean confidence; on the diagonal an oracle is as often right as it is sure."""
    x, y = zip(*((b.mean or 0.0, b.value or 0.0) for b in bins), strict=True)
    lowest = min(0.5, *(b.value if b.ci_low is None else b.ci_low for b in bins if b.value is not None))
    axes.plot([0.5, 1], [0.5, 1], color=style.MUTED, lw=0.9, ls=(0, (4, 3)), zorder=2)
    style.draw_intervals(axes, x, [(b.ci_low, b.ci_high) for b in bins], style.ACCENT)
    axes.plot(x, y, color=style.ACCENT, lw=0, marker="o", ms=6.2, mec="white", mew=1.2, zorder=4)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(max(0.0, lowest - 0.03), 1.03)
    axes.set_title("Accuracy by confidence", fontsize=9.5, pad=8)
    axes.set_ylabel("share of pairs where it is right")
    axes.tick_params(labelbottom=False)


def _counts(axes: Axes, bins: Sequence[Bin]) -> None:
    for b in bins:
        axes.bar(b.low, b.count, b.high - b.low, align="edge", color=style.ACCENT, alpha=0.55, edgecolor="white")
        axes.annotate(f"{b.count:,}", ((b.low + b.high) / 2, b.count), (0, 1.5), textcoords="offset points",
                      ha="center", va="bottom", fontsize=6.5, color=style.MUTED)  # fmt: skip
    axes.set_ylim(0, 1.35 * max(b.count for b in bins))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("confidence in the winner, max(P, 1 − P)")


def _margins(axes: Axes, bins: Sequence[Bin], whole: Estimate | None) -> None:
    """How many pairs have which margin; right of 0 the oracle agrees with the label."""
    for b in bins:
        colour = style.ACCENT if b.low >= 0 else style.BASE
        axes.bar(b.low, b.count, b.high - b.low, align="edge", color=colour, alpha=0.75, edgecolor="white", lw=0.6)
    axes.axvline(0, color=style.INK, lw=0.8)
    top = 1.28 * max(b.count for b in bins)
    axes.set_ylim(0, top)
    for text, colour, side in (("against\nthe label", style.BASE, "right"), ("with\nthe label", style.ACCENT, "left")):
        share = whole and (whole.value if side == "left" else 1 - whole.value)
        shown = text if share is None else f"{text}\n{share:.1%}"
        axes.annotate(shown, (0, top), (-6 if side == "right" else 6, -2), color=colour, ha=side, va="top",
                      textcoords="offset points", fontsize=8.5, weight="bold")  # fmt: skip
    axes.set_title("Margins", fontsize=9.5, pad=8)
    axes.set_xlabel("log-odds that chosen beats rejected")
    axes.set_ylabel("pairs")
    axes.grid(axis="x", visible=False)


def _groups(row: ResultRow) -> list[tuple[str, Estimate]]:
    """Each group and its estimate, the largest first."""
    named = [(name, e) for name, e in row.metrics.items() if e.metric.role == "group"]
    return [(name.split("/", 2)[2], e) for name, e in named[:MOST_GROUPS]]


def _draw_groups(axes: Axes, groups: Sequence[tuple[str, Estimate]], whole: Estimate | None) -> None:
    """The main metric of each group with its interval, and that of all rows as a line."""
    if whole is not None:
        axes.axvline(whole.value, color=style.MUTED, lw=0.9, ls=(0, (4, 3)))
    for at, (_, e) in enumerate(groups):
        if e.low is not None and e.high is not None:
            axes.plot([e.low, e.high], [at, at], color=style.ACCENT, lw=2.9, alpha=0.31, solid_capstyle="round")
        axes.plot(e.value, at, marker="o", ms=6.2, color=style.ACCENT, mec="white", mew=1.2)
    axes.set_yticks(range(len(groups)), [f"{name}\n{e.n} prompts" for name, e in groups], fontsize=7.5)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_title("By group", fontsize=9.5, pad=8)
    axes.set_xlabel("share of pairs where it is right")
    axes.grid(axis="y", visible=False)
