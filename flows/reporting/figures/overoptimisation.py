"""Gold and proxy along one training: where more of what the policy is trained by is no longer what was wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.reporting.figures.run_figures import ACCENT, BASE, MUTED, add_foot, heading_of, new_figure
from flows.reporting.results import ResultRow, RunResults

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = npt.NDArray[np.float64]

NEEDED = ("eval/kl", "eval/gold", "eval/baseline_gold", "eval/proxy", "eval/baseline_proxy")
FEWEST_ROUNDS = 3
FITS = 0.9
"""Share of the variance that the law must explain to be drawn."""
FEWEST_POINTS = 4
"""Evaluations that two constants are fitted to."""


class Law(NamedTuple):
    """R(d) = d·(α − β·log d), the gain of gold at distance d = √KL."""

    alpha: float
    beta: float
    explained: float
    """R²: 1 − squared residuals / squared differences from the mean."""

    def at(self, d: Floats) -> Floats:
        import numpy as np

        return d * (self.alpha - self.beta * np.log(d))

    @property
    def peak(self) -> float:
        """The distance with the highest gain, exp(α/β − 1); infinite where the law only rises."""
        return math.exp(min(self.alpha / self.beta - 1, 50.0)) if self.beta > 0 else math.inf


def law_of(d: Sequence[float], gains: Sequence[float]) -> Law:
    """α and β by least squares; the law is linear in both.

    Source: Gao et al., arXiv 2210.10760, R_RL (d = √KL, R(0) = 0). Distances must be above 0.
    """
    import numpy as np

    x, y = np.asarray(d, np.float64), np.asarray(gains, np.float64)
    design = np.stack([x, -x * np.log(x)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, y, rcond=None)
    rest, spread = float(((y - design @ (alpha, beta)) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return Law(float(alpha), float(beta), 1 - rest / spread if spread else 0.0)


def overoptimised(found: RunResults, title: str) -> Figure | None:
    """What gold and proxy gained over the base against √KL, nats, and the law of gold's gain where it holds.

    Differences from the base on the same prompts, for a reward is known up to a constant per prompt. None below three
    rounds that have both.
    """
    rows = [r for r in found.rows if all(m in r.metrics and not math.isnan(r.metrics[m].value) for m in NEEDED)]
    rows = sorted(rows, key=_distance)
    if len(rows) < FEWEST_ROUNDS:
        return None
    figure, axes = new_figure(5.8, 3.9)
    axes.axhline(0, color=MUTED, lw=0.8)
    _line(axes, rows, "proxy", BASE, "proxy, which trained")
    _line(axes, rows, "gold", ACCENT, "gold")
    law = _fitted(rows)
    if law:
        _draw_law(axes, law, _distance(rows[-1]))
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.set_title(heading_of("Gold and proxy by distance", title))
    axes.set_xlabel("distance from the base, √KL(policy ‖ base), KL in nats per answer")
    axes.set_ylabel("mean score above the base's")
    axes.legend(loc="best", fontsize=8.5)
    told = (
        f"\ndashes: R = d(α − β log d), α = {law.alpha:.2f}, β = {law.beta:.2f}, R² = {law.explained:.2f}"
        if law
        else ""
    )
    add_foot(figure, f"bars: 95% interval of the policy's mean over prompts (the base's is not in them){told}")
    return figure


def _distance(row: ResultRow) -> float:
    """√KL; an estimate below zero is none."""
    return math.sqrt(max(0.0, row.metrics["eval/kl"].value))


def _gain(row: ResultRow, what: str) -> float:
    return row.metrics[f"eval/{what}"].value - row.metrics[f"eval/baseline_{what}"].value


def _line(axes: Axes, rows: Sequence[ResultRow], what: str, colour: str, label: str) -> None:
    x, y = [_distance(r) for r in rows], [_gain(r, what) for r in rows]
    axes.plot([0, *x], [0, *y], color=colour, lw=2, marker="o", ms=5, mec="white", mew=1, label=label, zorder=3)
    for at, row in zip(x, rows, strict=True):
        e, base = row.metrics[f"eval/{what}"], row.metrics[f"eval/baseline_{what}"].value
        if e.low is not None and e.high is not None:
            bar: Any = {"color": colour, "lw": 3, "alpha": 0.3, "solid_capstyle": "round", "zorder": 2}
            axes.plot([at, at], [e.low - base, e.high - base], **bar)


def _fitted(rows: Sequence[ResultRow]) -> Law | None:
    """The law of gold's gain, if there are points enough and it explains them."""
    points = [(d, _gain(r, "gold")) for r in rows if (d := _distance(r)) > 0]
    if len({d for d, _ in points}) < FEWEST_POINTS:
        return None
    law = law_of(*zip(*points, strict=True))
    return law if law.explained >= FITS else None


def _draw_law(axes: Axes, law: Law, furthest: float) -> None:
    import numpy as np

    d = np.linspace(furthest / 200, furthest, 200)
    axes.plot(d, law.at(d), color=ACCENT, lw=1.4, ls=(0, (4, 3)), alpha=0.8, zorder=2)
    if law.peak < furthest:
        axes.axvline(law.peak, color=MUTED, lw=0.9, ls=(0, (2, 3)))
        axes.annotate(
            f"best at KL {law.peak**2:.1f}", (law.peak, 0.03), (5, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8.5, color=MUTED,
        )  # fmt: skip
