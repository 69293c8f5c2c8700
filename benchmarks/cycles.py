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
from flows.reporting.figures.style import ACCENT, BASE, INK, MUTED, STYLE, add_foot, close_figure

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

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.7), sharey=True, width_ratios=(1.25, 1))
    for panel, what, title in zip(
        axes, ("last", "mixture"), ("The last policy", "The mixture of all so far"), strict=True
    ):
        ends = {name: _curve(panel, [r for r in rows if r["name"] == name], what) for name in COLOURS}
        _name_lines(panel, ends)
        panel.axhline(0, color=MUTED, lw=0.8, ls=(0, (4, 3)))
        panel.set_title(title)
        panel.set_xlabel("round of self-play")
        panel.set_ylim(-0.02, 0.86)
    axes[0].axhline(BAR, color=INK, lw=0.8, ls=(0, (1, 2)))
    axes[0].set_ylabel("exploitability, 2·P(best response wins) − 1")
    step, r, moved = (settings[name] for name in ("step", "r", "anchor_rounds"))
    add_foot(
        figure, f"three answers beat each other in a circle with 0.9, four lose to them; π·exp({step:g}·P(y ≻ π)) per "
        f"round, anchor's weight {r:.2g}; COMAL moves the anchor every {moved} rounds.\nLines: the real trainer; dots: "
        "exact updates; dotted: .10",
    )  # fmt: skip
    figure.tight_layout(w_pad=3.0)
    return close_figure(figure)


def _curve(axes: Axes, rows: Sequence[Row], what: str) -> tuple[float, float]:
    colour = COLOURS[rows[0]["name"]]
    x, y = [row["round"] for row in rows], [row[what] for row in rows]
    axes.plot(x, y, color=colour, lw=2.0, zorder=4)
    axes.plot(x, [row[f"exact_{what}"] for row in rows], ls="", marker="o", ms=2.6, color=colour, alpha=0.45, zorder=3)
    return float(x[-1]), float(y[-1])


def _name_lines(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names beside the ends of the lines, apart from each other."""
    least = -1.0
    for name, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        least = max(y, least + 0.06)
        axes.annotate(
            name, (x, least), (7, 0), textcoords="offset points", color=COLOURS[name], va="center", weight="bold",
            fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


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
