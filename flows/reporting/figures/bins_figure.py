"""Histograms, and what was measured bin by bin, that Reports declare: a panel or a line for each round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.reporting.bins import Bin
from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, estimate_text
from tasks.declarations import Binned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Histograms or lines of a figure; of more, so many are shown, the first and the last among them."""


class Histogram(NamedTuple):
    """The bins of one name of one Report."""

    label: str
    bins: tuple[Bin, ...]
    mean: Estimate | None
    """The Report's estimate of the mean of what is binned."""


def histograms_of(results: RunResults) -> dict[Binned, list[Histogram]]:
    """What is declared of the bins of a run's Reports → those bins, in the order of the Reports."""
    found: dict[Binned, list[Histogram]] = {}
    for row in results.all_rows:
        for name in dict.fromkeys(b.name for b in row.bins if b.shown):
            bins = tuple(b for b in row.bins if b.name == name)
            if bins[0].shown is not None:
                found.setdefault(bins[0].shown, []).append(Histogram(_label(row, name), bins, _mean(row, bins[0])))
    return found


def _label(row: ResultRow, name: str) -> str:
    """The Report's, and what the name has behind that of the declaration."""
    return " · ".join([row.label, *name.split("/")[1:]])


def _mean(row: ResultRow, bin: Bin) -> Estimate | None:
    if bin.shown is None or not bin.shown.metric:
        return None
    return row.metrics.get("/".join([bin.shown.metric, *bin.name.split("/")[1:]]))


def bins_figure(shown: Binned, histograms: Sequence[Histogram], title: str) -> Figure | None:
    """One line for each Report where something was measured in each bin, else one panel for each."""
    some = _spread(histograms, MOST)
    return _lines(shown, some, title) if shown.value else _panels(shown, some, title)


def _spread(several: Sequence[Histogram], most: int) -> list[Histogram]:
    """At most so many, evenly spread from the first to the last."""
    if len(several) <= most:
        return [*several]
    return [several[round(i * (len(several) - 1) / (most - 1))] for i in range(most)]


def _panels(shown: Binned, histograms: Sequence[Histogram], title: str) -> Figure:
    """Histograms one above the other, on one axis, as shares, so that their forms can be compared."""
    from matplotlib import pyplot as plt

    n = len(histograms)
    figure, grid = plt.subplots(n, 1, figsize=(5.8, 1.5 + 0.95 * n), sharex=True, sharey=True, squeeze=False)
    for axes, colour, histogram in zip(grid.flat, style.shades(n), histograms, strict=True):
        _bars(axes, histogram.bins, colour)
        if shown.reference is not None:
            axes.axvline(shown.reference, color=style.MUTED, lw=0.9, ls=style.DASHES)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.annotate(_caption(histogram), (0.0, 1.0), (4, 3), xycoords="axes fraction", textcoords="offset points",
                      fontsize=8, color=style.INK, va="bottom")  # fmt: skip
    grid.flat[-1].set_xlabel(shown.axis)
    figure.supylabel(f"share of {shown.of}", fontsize=9.5, color=style.MUTED)
    style.add_heading(figure, style.heading_of(shown.title, title))
    figure.tight_layout(h_pad=0.9)
    dashed = "" if shown.reference is None else f"; dashed: {style.tick_texts([shown.reference])[0]}"
    means = "; in brackets: 95% interval over prompts" if shown.metric else ""
    style.add_foot(figure, f"{_counts(shown, histograms)}{means}{dashed}")
    return style.close_figure(figure)


def _bars(axes: Axes, bins: Sequence[Bin], colour: Any, *, by_width: bool = False) -> None:
    """The share that is in each bin; `by_width`: divided by its width, as bins of several widths are compared."""
    widths, total = [b.high - b.low for b in bins], sum(b.count for b in bins) or 1
    heights = [b.count / total / (b.high - b.low if by_width else 1) for b in bins]
    axes.bar([b.low for b in bins], heights, widths, align="edge", color=colour, alpha=0.75, edgecolor="white", lw=0.6)
    axes.grid(axis="x", visible=False)


def _counts(shown: Binned, histograms: Sequence[Histogram]) -> str:
    totals = [sum(b.count for b in h.bins) for h in histograms]
    where = " each" if len({*totals}) == 1 else " in the last"
    return f"{totals[-1]:,} {shown.of}{where if len(totals) > 1 else ''}"


def _caption(histogram: Histogram) -> str:
    mean = histogram.mean
    if mean is None or math.isnan(mean.value):
        return histogram.label
    return f"{histogram.label}: mean {estimate_text(mean.value, mean.low, mean.high, '+.2f')}"


def _lines(shown: Binned, histograms: Sequence[Histogram], title: str) -> Figure:
    """What was measured at the mean of each bin with its interval, and below how many are in it."""
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(5.8, 4.3), sharex=True, height_ratios=(4.2, 1))
    colours = dict(zip((h.label for h in histograms), style.shades(len(histograms)), strict=True))
    for histogram in histograms:
        _line(upper, histogram, colours[histogram.label])
    if shown.reference is not None:
        upper.axhline(shown.reference, color=style.MUTED, lw=0.9, ls=style.DASHES)
    upper.set_ylabel(shown.value)
    style.readable_ticks(upper.yaxis)
    last = histograms[-1]
    _bars(lower, last.bins, colours[last.label], by_width=True)
    lower.set_ylabel(shown.of)
    lower.set_yticks([])
    lower.set_xlabel(shown.axis)
    style.add_heading(figure, style.heading_of(shown.title, title))
    rows = style.add_legend(figure, colours, 3) if len(histograms) > 1 else 0
    figure.tight_layout(h_pad=0.8)
    of_last = f" of {last.label}" if len(histograms) > 1 else ""
    style.add_foot(
        figure, f"bars: 95% interval over prompts; below: how the {shown.of}{of_last} are distributed", legend_rows=rows
    )
    return style.close_figure(figure)


def _line(axes: Axes, histogram: Histogram, colour: str) -> None:
    known = [b for b in histogram.bins if b.value is not None]
    x = [(b.low + b.high) / 2 if b.mean is None else b.mean for b in known]
    axes.plot(x, [b.value for b in known], color=colour, lw=1.9, marker="o", ms=5.4, mec="white", mew=1.0, zorder=4)  # type: ignore[arg-type]
    style.draw_intervals(axes, x, [(b.ci_low, b.ci_high) for b in known], colour)


def names_of_figures(found: Mapping[Binned, Sequence[Histogram]]) -> dict[str, Binned]:
    """A file's name for each: that of its bins."""
    return {histograms[0].bins[0].name.split("/")[0]: shown for shown, histograms in found.items()}
