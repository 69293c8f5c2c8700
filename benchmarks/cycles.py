"""Self-play on a game without a best answer: how far the last policy and the mixture of all can be beaten, by round.

    python -m benchmarks.cycles [--rounds 36] [--steps 100]

SPPO, INPO and COMAL from one uneven start, each by exact updates and by the real trainer (`tests/cyclic_games.py`). The
result is a JSON file in `benchmarks/results/` and the figure `docs/last_iterates.png`; `--draw FILE` draws a result
again. A row is one round of one method.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import Row, load_average, now, write_results
from flows.reporting.figures.style import ACCENT, BASE, MUTED, STYLE, add_foot, close_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = Path(__file__).parent.parent / "docs" / "last_iterates.png"
COLOURS = {"SPPO": BASE, "INPO": MUTED, "COMAL": ACCENT}
BAR = 0.1
"""Exploitability below which COMAL's last policies are expected to stay."""


def measured(rounds: int, steps: int) -> Iterator[Row]:
    """One row per method and round, the start included."""
    import numpy as np

    from tests.cyclic_games import COMAL, GROUP, INPO, SPPO, cycle, exact_rounds, gap, trained_rounds
    from tests.enumerable import closed_world_in

    p = cycle(GROUP)
    with tempfile.TemporaryDirectory() as folder:
        world = closed_world_in(Path(folder))
        for method in (COMAL, SPPO, INPO):
            exact = [np.exp(x) for x in exact_rounds(p, world.log_ref, method, rounds)]
            policies, began = [], time.perf_counter()
            played = trained_rounds(world, method, rounds, Path(folder) / method.name, steps)
            for t, (log_policy, missed) in enumerate(played):
                policies.append(np.exp(log_policy))
                yield {
                    "case": {"method": method.name, "round": t}, "name": method.name, "round": t,
                    "last": gap(p, policies[-1]), "mixture": gap(p, np.mean(policies, axis=0)),
                    "exact_last": gap(p, exact[t]), "exact_mixture": gap(p, np.mean(exact[: t + 1], axis=0)),
                    "missed_nats": missed, "seconds": time.perf_counter() - began,
                }  # fmt: skip


def figure_of(rows: Sequence[Row], settings: dict[str, Any]) -> Figure:
    """Last policies on the left, mixtures on the right, one line for each method."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.2), sharey=True, width_ratios=(1.35, 1))
    figure.subplots_adjust(wspace=0.36)
    titles = {"last": "The last policy", "mixture": "The mixture of all policies so far"}
    for axes, (what, title) in zip(panels, titles.items(), strict=True):
        ends = {name: _curve(axes, [r for r in rows if r["name"] == name], what) for name in COLOURS}
        _name_lines(axes, ends)
        axes.axhspan(0, BAR, color=ACCENT, alpha=0.07, lw=0, zorder=0)
        axes.set_title(title)
        axes.set_xlabel("round of self-play")
        axes.set_xticks(range(0, settings["rounds"] + 1, settings["anchor_rounds"]))
        axes.set_xlim(-0.6, settings["rounds"] + 0.4)
        axes.set_ylim(0, 0.84)
    panels[0].set_ylabel("exploitability")
    panels[0].text(0.2, BAR / 2, f"at most {BAR:g}", color=ACCENT, fontsize=8, va="center")
    step, r, moved = (settings[name] for name in ("step", "r", "anchor_rounds"))
    foot = (
        "Exploitability: 2·P(the best response wins) − 1. Three answers beat each other in a circle with probability "
        "0.9; the four others lose to them.",
        f"Each round tilts the policy π by exp({step:g}·P(y ≻ π)); INPO and COMAL mix it with an anchor of weight "
        f"{r:.2g}, the base at first, which COMAL moves every {moved} rounds.",
        "Lines: policies trained by fit, each from the one before. Circles: exact updates.",
    )
    add_foot(figure, "\n".join(foot))
    return close_figure(figure)


def _curve(axes: Axes, rows: Sequence[Row], what: str) -> tuple[float, float]:
    """Where the line ends; the real trainer's line runs through the circles of exact updates if it reaches them."""
    colour = COLOURS[rows[0]["name"]]
    x, y = [row["round"] for row in rows], [row[what] for row in rows]
    axes.plot(x, y, color=colour, lw=2.0, zorder=4, clip_on=False)
    axes.plot(
        x, [row[f"exact_{what}"] for row in rows], ls="", marker="o", ms=3.8, mfc="white", mec=colour, mew=1.1,
        zorder=5, clip_on=False,
    )  # fmt: skip
    return float(x[-1]), float(y[-1])


def _name_lines(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names and last values beside the ends of the lines, apart from each other."""
    least = 0.0
    for name, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        at = max(y, least)
        axes.annotate(
            f"{name} {y:.2f}", (x, at), (9, 0), textcoords="offset points", color=COLOURS[name], va="center",
            weight="bold", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
        least = at + 0.05


def draw(file: Path) -> None:
    """Draw the figure of a results file."""
    import matplotlib

    matplotlib.use("Agg")
    record = json.loads(file.read_text())
    with matplotlib.rc_context(STYLE):
        figure_of(record["rows"], record["settings"]).savefig(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=36)
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of a round")
    parser.add_argument("--draw", type=Path, help="a results file to draw again")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    import torch

    from tests.cyclic_games import COMAL

    torch.set_num_threads(1)  # so small a model gains nothing from a second one, and loses much on a loaded machine
    started, load = now(), load_average()
    settings = {"rounds": options.rounds, "steps": options.steps, **COMAL._asdict()}
    rows: list[Row] = []
    for row in measured(options.rounds, options.steps):
        rows.append(row)  # written after each row, so that an interrupted run keeps what it measured
        file = write_results("cycles", rows, settings=settings, started=started, load=load)
        print(f"{row['name']:6} {row['round']:3}  last {row['last']:.3f}  mixture {row['mixture']:.3f}", flush=True)
    draw(file)
    print(f"\n{file}\n{FIGURE}")


if __name__ == "__main__":
    main()
