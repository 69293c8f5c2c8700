"""A probe along a training: how likely several kinds of answers are, and how much each changed since the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, Mapping[int, Estimate]]
"""Kind of answer → optimizer step → its estimate."""


def series_of(row: ResultRow, role: str) -> dict[str, dict[int, Estimate]]:
    """`eval/probe/8/gold` → the estimate of gold at step 8, for the metrics of a role."""
    series: dict[str, dict[int, Estimate]] = {}
    for name, e in row.metrics.items():
        if e.metric.role == role:
            *_, step, kind = name.split("/")
            series.setdefault(kind, {})[int(step)] = e
    return series


def probe_figure(results: RunResults, title: str) -> Figure | None:
    """The last report on a probe; None where a run has none."""
    rows = [row for row in (*results.others, *results.rows) if metric_of(row.metrics, "probe")]
    if not rows:
        return None
    from matplotlib import pyplot as plt

    levels, changes = (series_of(rows[-1], role) for role in ("probe", "probe_change"))
    changes = {kind: {0: replace(e[min(e)], value=0.0, low=None, high=None), **e} for kind, e in changes.items()}
    colours = dict(zip(levels, style.COLOURS, strict=False))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9))
    _draw(left, levels, colours)
    left.set_title("Log-probability", fontsize=9.5, pad=8)
    left.set_ylabel("log π, nats per token")
    right.axhline(0, color=style.MUTED, lw=0.8)
    _draw(right, changes, colours)
    right.set_title("Change since the start", fontsize=9.5, pad=8)
    right.set_ylabel("Δ log π, nats per answer")
    style.add_heading(figure, style.heading_of("What else a training makes likelier", title))
    legend = style.add_legend(figure, colours)
    figure.tight_layout(w_pad=2.0)
    style.add_foot(
        figure, f"answers of each kind to {rows[-1].n:,} prompts; points: evaluated steps; bands: 95% interval over "
        "prompts, on the right of paired differences", legend_rows=legend,
    )  # fmt: skip
    return style.close_figure(figure)


def _draw(axes: Axes, series: Series, colours: Mapping[str, str]) -> None:
    steps = sorted({step for of_kind in series.values() for step in of_kind})
    for kind, of_kind in reversed([*series.items()]):  # the first, which is learnt, above all others
        points = sorted(of_kind.items())
        x = [step for step, _ in points]
        axes.plot(
            x, [e.value for _, e in points], color=colours[kind], lw=1.9, marker="o", ms=4.6, mec="white", mew=0.9
        )
        ends = [(step, e.low, e.high) for step, e in points if e.low is not None and e.high is not None]
        if ends:
            at, low, high = zip(*ends, strict=True)
            axes.fill_between(at, low, high, color=colours[kind], alpha=0.16, lw=0)
    _step_axis(axes, steps)
    style.readable_ticks(axes.yaxis)


def _step_axis(axes: Axes, steps: list[int]) -> None:
    """Logarithmic from the first step on where the last is far away, as checkpoints usually double."""
    moved = [step for step in steps if step > 0]
    if moved and moved[-1] > 12 * moved[0]:
        axes.set_xscale("symlog", linthresh=moved[0], linscale=0.3)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
    axes.set_xlabel("optimizer step")
