"""Log-probabilities of chosen and rejected answers through a training, and the margin between them.

A loss on pairs only asks that the margin grows. It may grow while both answers become less likely: likelihood
displacement (Razin et al., arXiv 2410.08847; Pal et al., arXiv 2402.13228).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean, variance
from typing import TYPE_CHECKING, Literal

from flows.reporting.figures import style
from flows.reporting.figures.training import Curves, draw_curve, foot_of, is_noisy
from tasks.declarations import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Direction = Literal["rise", "fall", "stay"]
ENDS = 5
"""A direction compares the first and the last of so many parts of a curve."""
SURE = 2.0
"""Standard errors that both parts differ by, at least, where a curve rises or falls."""
MEANINGS: Mapping[tuple[Direction, Direction], str] = {
    ("fall", "fall"): "Both fall: chosen answers became less likely, too, and the margin grows only as rejected ones "
    "fall further (likelihood displacement); what both lost went to answers that are in neither column.",
    ("rise", "fall"): "Chosen answers became likelier and rejected ones less likely.",
    ("rise", "rise"): "Both rise: rejected answers became likelier, too, as they resemble chosen ones.",
    ("fall", "rise"): "The order is wrong: chosen answers became less likely and rejected ones likelier.",
    ("stay", "fall"): "Chosen answers stay as likely as they were; rejected ones became less likely.",
    ("fall", "stay"): "Chosen answers became less likely; rejected ones stay as they were.",
    ("rise", "stay"): "Chosen answers became likelier; rejected ones stay as they were.",
    ("stay", "rise"): "Chosen answers stay as likely as they were; rejected ones became likelier.",
    ("stay", "stay"): "Neither moved by more than its noise.",
}
"""What it means that chosen and rejected answers go this way."""


def likelihoods(curves: Mapping[str, Curves], declared: Mapping[str, Curve], title: str) -> Figure | None:
    """Both log-probabilities, one round after another, and beside them the rewards and their margin where they are
    recorded. None for a training without chosen and rejected answers.
    """
    rounds = [_by_role(of_round, declared) for of_round in curves.values()]
    if not any("chosen" in points and "rejected" in points for points in rounds):
        return None
    from matplotlib import pyplot as plt

    rewards = [role for role in _REWARDS if any(role in points for points in rounds)]
    figure, grid = plt.subplots(1, 2 if rewards else 1, figsize=(9.4 if rewards else 5.6, 3.7), squeeze=False)
    _draw(grid[0, 0], rounds, _LOGPS)
    grid[0, 0].set_title("Log-probability", fontsize=9.5, pad=8)
    grid[0, 0].set_ylabel("log π(answer), nats per answer")
    if rewards:
        _draw(grid[0, 1], rounds, _REWARDS)
        grid[0, 1].set_title("Reward: a multiple of log π/π_ref, as the loss has it", fontsize=9.5, pad=8)
        grid[0, 1].set_ylabel("reward")
    style.add_heading(figure, style.heading_of("Chosen and rejected answers", title))
    lines = {label: colour for colour, label in (*_LOGPS.values(), *(_REWARDS[role] for role in rewards))}
    rows = style.add_legend(figure, lines)
    figure.tight_layout(w_pad=2.0)
    style.add_foot(figure, f"{meaning_of(rounds)}\n{_foot(curves, rounds)}", legend_rows=rows)
    return style.close_figure(figure)


_LOGPS = {"chosen": (style.ACCENT, "chosen"), "rejected": (style.BASE, "rejected")}
_REWARDS = {
    "chosen_reward": (style.ACCENT, "chosen"), "rejected_reward": (style.BASE, "rejected"),
    "margin": (style.INK, "margin, chosen − rejected"),
}  # fmt: skip
"""Role of a curve → its colour and label."""

Roles = Mapping[str, Sequence[tuple[int, float]]]
"""Role → the points of the curve that has it."""


def meaning_of(rounds: Sequence[Roles]) -> str:
    """What the last round's directions mean; by rewards where there are any, whose noise is smaller: a reference takes
    from each answer how likely it is anyway."""
    last = rounds[-1]
    names = ("chosen_reward", "rejected_reward") if "rejected_reward" in last else ("chosen", "rejected")
    chosen, rejected = (direction([v for _, v in last.get(name, ())]) for name in names)
    text = MEANINGS[chosen, rejected]
    return f"In the last round, {text[0].lower()}{text[1:]}" if len(rounds) > 1 else text


def direction(values: Sequence[float]) -> Direction:
    """Whether the last fifth of a curve lies above or below its first, by more than twice the error of both means."""
    n = max(2, len(values) // ENDS)
    if len(values) < 2 * n:
        return "stay"
    first, last = values[:n], values[-n:]
    change, error = fmean(last) - fmean(first), ((variance(first) + variance(last)) / n) ** 0.5
    return "stay" if abs(change) <= SURE * error else "rise" if change > 0 else "fall"


def _by_role(curves: Curves, declared: Mapping[str, Curve]) -> Roles:
    return {c.role: curves[name] for name, c in declared.items() if c.role and name in curves}


def _draw(axes: Axes, rounds: Sequence[Roles], lines: Mapping[str, tuple[str, str]]) -> None:
    """Each round's lines behind those of the round before; a hairline where a round begins."""
    lengths = [max((x + 1 for points in r.values() for x, _ in points), default=0) for r in rounds]
    starts = [0, *accumulate(lengths)]
    for start, roles in zip(starts, rounds, strict=False):
        for role, (colour, _) in lines.items():
            points = [(start + x, y) for x, y in roles.get(role, ())]
            draw_curve(axes, points, colour, smooth=is_noisy(points))
    for start in starts[1:-1]:
        axes.axvline(start, color=style.MUTED, lw=0.7, ls=style.DASHES)
    if "margin" in lines:
        axes.axhline(0, color=style.MUTED, lw=0.8)
    axes.set_xlabel("optimizer step" + (", one round after another" if len(rounds) > 1 else ""))
    style.readable_ticks(axes.yaxis)


def _foot(curves: Mapping[str, Curves], rounds: Sequence[Roles]) -> str:
    noisy = any(is_noisy(points) for roles in rounds for points in roles.values())
    between = "; dashed: a round begins" if len(rounds) > 1 else ""
    return f"Values are means over the answers of a batch; {foot_of(curves, smoothed=noisy)}{between}"
