"""Gold and proxy along one training: where a higher proxy, which trains the policy, no longer raises gold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flows.reporting.figures import style
from flows.reporting.results import Estimate, ResultRow, RunResults, metric_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = npt.NDArray[np.float64]

FEWEST_ROUNDS = 3
FITS = 0.9
"""Share of the variance that the law must explain to be drawn."""
FEWEST_POINTS = 4
"""Evaluations that two constants are fitted to."""


class Law(NamedTuple):
    """The gain of gold at distance d = √KL: R(d) = d·(α − β·log d), or d·(α − β·d) of the best of n samples."""

    alpha: float
    beta: float
    explained: float
    """R²: 1 − squared residuals / squared differences from the mean."""
    best_of_n: bool = False

    def at(self, d: Floats) -> Floats:
        return d * (self.alpha - self.beta * _price(d, self.best_of_n))

    @property
    def peak(self) -> float:
        """The distance with the highest gain, exp(α/β − 1), or α/(2β); infinite where the law only rises."""
        if self.beta <= 0:
            return math.inf
        return self.alpha / (2 * self.beta) if self.best_of_n else math.exp(min(self.alpha / self.beta - 1, 50.0))

    def __str__(self) -> str:
        price = "d" if self.best_of_n else "log d"
        return f"R = d(α − β {price}), α = {self.alpha:.2f}, β = {self.beta:.2f}, R² = {self.explained:.2f}"


def _price(d: Floats, best_of_n: bool) -> Floats:
    import numpy as np

    return d if best_of_n else np.log(d)


def law_of(d: Sequence[float], gains: Sequence[float], *, best_of_n: bool = False) -> Law:
    """α and β by least squares; the law is linear in both.

    Source: Gao et al., arXiv 2210.10760, R_RL and R_bon (d = √KL, R(0) = 0). Distances must be above 0.
    """
    import numpy as np

    x, y = np.asarray(d, np.float64), np.asarray(gains, np.float64)
    design = np.stack([x, -x * _price(x, best_of_n)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, y, rcond=None)
    rest, spread = float(((y - design @ (alpha, beta)) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return Law(float(alpha), float(beta), 1 - rest / spread if spread else 0.0, best_of_n)


def overoptimised(results: RunResults, title: str) -> Figure | None:
    """What gold and proxy gained over the base against √KL, nats, and the law of gold's gain where it holds.

    Differences from the base on the same prompts, for a reward is known up to a constant per prompt. None below three
    rounds that have both.
    """
    points = [p for p in (_point(row) for row in results.rows) if p]
    points.sort(key=lambda p: p.distance)
    if len(points) < FEWEST_ROUNDS:
        return None
    best_of_n = any(p.best_of_n for p in points)
    done = "chose" if best_of_n else "trained"
    figure, axes = style.new_figure(5.8, 3.9)
    axes.axhline(0, color=style.MUTED, lw=0.8)
    _line(axes, [(p.distance, p.proxy) for p in points], style.BASE, f"proxy, which {done}")
    _line(axes, [(p.distance, p.gold) for p in points], style.ACCENT, "gold")
    law = _fitted(points)
    if law:
        _draw_law(axes, law, points[-1].distance)
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.set_title(style.heading_of("Gold and proxy by distance", title))
    which = "√KL(best of n ‖ base), KL in nats, at most" if best_of_n else "√KL(policy ‖ base), KL in nats per answer"
    axes.set_xlabel(f"distance from the base, {which}")
    axes.set_ylabel("mean score above the base's")
    axes.legend(loc="best", fontsize=8.5)
    foot = "bars: 95% interval of the policy's mean over prompts (the base's is not in them)"
    if law:
        foot += f"\ndashes: {law}"
    style.add_foot(figure, foot)
    return figure


class Gain(NamedTuple):
    """A score above the base's, with the ends of its interval."""

    value: float
    low: float | None
    high: float | None


class Point(NamedTuple):
    """An evaluation: √KL, and what gold and proxy gained."""

    distance: float
    gold: Gain
    proxy: Gain
    best_of_n: bool = False


def _point(row: ResultRow) -> Point | None:
    """None where a number is missing. An estimate of KL below zero is no distance."""
    kl, gold, proxy = (row.metrics.get(metric_of(row.metrics, role)) for role in ("distance", "score", "proxy"))
    gains = [_gain(row, e) for e in (gold, proxy)]
    if kl is None or math.isnan(kl.value) or gains[0] is None or gains[1] is None:
        return None
    return Point(style.sqrt_kl(kl.value), gains[0], gains[1], kl.metric.best_of_n)


def _gain(row: ResultRow, score: Estimate | None) -> Gain | None:
    base = row.metrics.get(score.metric.baseline) if score else None
    if score is None or base is None or math.isnan(score.value) or math.isnan(base.value):
        return None
    low, high = (None if end is None else end - base.value for end in (score.low, score.high))
    return Gain(score.value - base.value, low, high)


def _line(axes: Axes, points: Sequence[tuple[float, Gain]], colour: str, label: str) -> None:
    x, y = [at for at, _ in points], [gain.value for _, gain in points]
    axes.plot([0, *x], [0, *y], color=colour, lw=2, marker="o", ms=5, mec="white", mew=1, label=label, zorder=3)
    style.draw_intervals(axes, x, [(gain.low, gain.high) for _, gain in points], colour)


def _fitted(points: Sequence[Point]) -> Law | None:
    """The law of gold's gain, if there are points enough and it explains them."""
    moved = [(p.distance, p.gold.value) for p in points if p.distance > 0]
    if len({d for d, _ in moved}) < FEWEST_POINTS:
        return None
    law = law_of(*zip(*moved, strict=True), best_of_n=any(p.best_of_n for p in points))
    return law if law.explained >= FITS else None


def _draw_law(axes: Axes, law: Law, furthest: float) -> None:
    import numpy as np

    d = np.linspace(furthest / 200, furthest, 200)
    axes.plot(d, law.at(d), color=style.ACCENT, lw=1.4, ls=(0, (4, 3)), alpha=0.8, zorder=2)
    if law.peak < furthest:
        axes.axvline(law.peak, color=style.MUTED, lw=0.9, ls=(0, (2, 3)))
        axes.annotate(
            f"best at KL {law.peak**2:.1f}", (law.peak, 0.03), (5, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8.5, color=style.MUTED,
        )  # fmt: skip
