"""A game between the policies of a run: how far each, and the mixture of all so far, can be beaten; who beats whom."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.tracking.figures import ACCENT, BASE, INK, MUTED, _released, add_foot, heading_of
from flows.tracking.table import Done, Estimate, Results, Row, headlines, parent_contents, sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS = 12
"""Policies whose win rates fit into the matrix as numbers."""


def first_is_base(steps: Sequence[Done]) -> bool:
    """Whether the first policy of the run's last game is what its headline measures against, as far as steps show."""
    made = {s.record.content: s for s in steps}
    games = [s.record for s in steps if s.record.task == "exploitability"]
    baselines = [baseline for report in headlines(steps) if (baseline := sides(report, made)[1])]
    first = made.get(next(iter(parent_contents(games[-1], "completions")), "")) if games else None
    if first is None or not baselines:
        return False
    policy = parent_contents(first.record, "policy")
    return bool(policy) and policy == parent_contents(baselines[-1].record, "policy")


def exploited(found: Results, title: str, *, base_first: bool = False) -> Figure | None:
    """The curves and the matrix of the last report on exploitability; None where a run has none. `base_first`: its
    first policy is the base, and called so."""
    games = [r for r in (*found.rows, *found.others) if "eval/exploitability_mixture" in r.metrics]
    if not games:
        return None
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), width_ratios=(1.35, 1))
    names = {1: "base"} if base_first else {}
    _curves(left, games[-1], names)
    _matrix(right, games[-1], names)
    left.set_title(heading_of("How far a policy can be beaten", title))
    add_foot(
        figure, "lower bounds: best answers known, chosen and measured on different draws; bands: 95% over prompts"
    )
    figure.tight_layout(w_pad=2.0)
    return _released(figure)


def _curves(axes: Axes, game: Row, names: Mapping[int, str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for name, colour, label in (
        ("exploitability", BASE, "policy alone"), ("exploitability_mixture", ACCENT, "uniform mixture of all so far"),
    ):  # fmt: skip
        points = _numbered(game.metrics, name)
        known = [(at, e) for (at,), e in sorted(points.items()) if not math.isnan(e.value)]
        x = [at for at, _ in known]
        axes.plot(
            x, [e.value for _, e in known], color=colour, lw=2.2, marker="o", ms=6, mec="white", mew=1.3, label=label
        )
        ends = [(at, e.low, e.high) for at, e in known if e.low is not None and e.high is not None]
        if ends:
            at, low, high = zip(*ends, strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    axes.axhline(0, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    axes.set_ylim(top=min(1.04, axes.get_ylim()[1] + 0.05))
    axes.set_xlabel("policy, in the order of the list")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: names.get(at, f"{at:.0f}")))
    axes.set_ylabel("exploitability, 2·P(best response wins) − 1")
    axes.legend(loc="lower left", fontsize=8.5, frameon=True, facecolor="white", edgecolor="none")


def _matrix(axes: Axes, game: Row, names: Mapping[int, str]) -> None:
    """P(row beats column); above the diagonal one minus what is below."""
    beats = {pair: e.value for pair, e in _numbered(game.metrics, "beats").items()}
    size = max((i for i, _ in beats), default=1)
    p = [[_p(beats, i, j) for j in range(1, size + 1)] for i in range(1, size + 1)]
    axes.imshow(p, cmap="PuOr", vmin=0, vmax=1, aspect="equal")
    if size <= MOST_NUMBERS:
        for i, row in enumerate(p):
            for j, value in enumerate(row):
                if i != j and not math.isnan(value):
                    colour = "white" if abs(value - 0.5) > 0.32 else INK
                    axes.text(j, i, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=colour)
    axes.grid(visible=False)
    said = [names.get(i, str(i)) for i in range(1, size + 1)]
    axes.set_xticks(range(size), said)
    axes.set_yticks(range(size), said)
    axes.set_title("P(row beats column)", fontsize=9.5, pad=8)


def _p(beats: Mapping[tuple[int, ...], float], i: int, j: int) -> float:
    if i == j:
        return 0.5
    return beats.get((i, j), math.nan) if i > j else 1 - beats.get((j, i), math.nan)


def _numbered(metrics: Mapping[str, Estimate], name: str) -> dict[tuple[int, ...], Estimate]:
    """`eval/beats/3/1` → (3, 1), for the metrics of that name."""
    pattern = re.compile(rf"eval/{name}((?:/\d+)+)")
    found = ((pattern.fullmatch(metric), e) for metric, e in metrics.items())
    return {tuple(map(int, m[1][1:].split("/"))): e for m, e in found if m}
