"""The law of over-optimisation (arXiv 2210.10760) on the toy world: gold and proxy against √KL, by size of the data.

    python -m benchmarks.overoptimisation [--pairs 300,1000,3000] [--seeds 0,1,2,3,4] [--artifacts DIR]

The pipeline `rm-ppo-overoptimised` for each number of people's pairs and each seed, which draws labels, reward model,
rollouts and evaluations anew; the base is the same. A row is one checkpoint of one training. Gains are over the base on
the same held-out prompts. What is in the store is not computed again, and the results are written after each training,
so that an interrupted grid goes on. The result is a JSON file in `benchmarks/results/` and the figure
`docs/overoptimisation.png`; `--draw FILE` draws a result again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.record import Row, load_average, now, write_results
from flows.commands.run import run_once
from flows.reporting.figures.overoptimisation import Law, law_of
from flows.reporting.figures.style import MUTED, STYLE, add_foot, close_figure, sqrt_kl
from flows.reporting.results import run_results
from flows.store.finished import finished_steps
from flows.store.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "overoptimisation.png"
PIPELINE = "rm-ppo-overoptimised"
COLOURS = ("#d08a3e", "#6b8fb5", "#1f4e79")
"""From the fewest pairs to the most."""


def measured(store: Store, num_pairs: int, seed: int) -> Iterator[Row]:
    """The checkpoints of one training. Raises SystemExit where the run does not end."""
    run = run_once(
        ROOT / "pipelines.yaml", store, PIPELINE, {"num_pairs": str(num_pairs), "seed": str(seed)}, Console(stderr=True)
    )
    if run.status != "done":
        raise SystemExit(f"{PIPELINE} num_pairs={num_pairs} seed={seed}: {run.status}")
    for row in run_results(store, finished_steps(store, run)).rows:
        of = {name.removeprefix("eval/"): estimate.value for name, estimate in row.metrics.items()}
        yield {
            "case": {"num_pairs": num_pairs, "checkpoint": row.round}, "name": f"{num_pairs:,} pairs", "seed": seed,
            "num_pairs": num_pairs, "kl_nats": of["kl"], "distance": sqrt_kl(of["kl"]),
            "gold_gain": of["gold"] - of["baseline_gold"], "proxy_gain": of["proxy"] - of["baseline_proxy"],
            "win_rate": of["win_rate"],
        }  # fmt: skip


def curves_of(rows: Sequence[Row], gain: str, points: int = 120) -> tuple[Floats, Floats]:
    """Distances `(P,)` and gains `(S, P)` of S seeds, each interpolated between its checkpoints, from 0 at the base.

    The distances end where the first of the seeds ends.
    """
    seeds = sorted({row["seed"] for row in rows})
    each = [sorted((row["distance"], row[gain]) for row in rows if row["seed"] == seed) for seed in seeds]
    grid = np.linspace(0, min(points[-1][0] for points in each), points)
    return grid, np.array([np.interp(grid, *zip((0.0, 0.0), *points, strict=True)) for points in each])


def law_by_pairs(rows: Sequence[Row]) -> dict[int, Law]:
    """The law of gold's gain by number of pairs, fitted to the means over seeds of distance and gain at a checkpoint.

    So R² is about the form of the curve, not about how much labels of another seed change it, which the bands show.
    """
    seeds: dict[int, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        seeds[row["num_pairs"]][row["case"]["checkpoint"]].append((row["distance"], row["gold_gain"]))
    means = {size: [np.mean(points, axis=0) for points in at.values()] for size, at in sorted(seeds.items())}
    return {size: law_of(*np.transpose([m for m in points if m[0] > 0]).tolist()) for size, points in means.items()}


def figure_of(rows: Sequence[Row]) -> Figure:
    """Gold on the left with its law, the proxy that trained on the right; a colour for each number of pairs."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(1.35, 1))
    laws = law_by_pairs(rows)
    for (size, law), colour in zip(laws.items(), COLOURS, strict=False):
        of_size = [row for row in rows if row["num_pairs"] == size]
        end = _curve(left, of_size, "gold_gain", colour, f"{size:,} pairs")
        d = np.linspace(end / 200, end, 200)
        left.plot(d, law.at(d), color=colour, lw=1.5, ls=(0, (4, 3)), label=_words(law))
        _curve(right, of_size, "proxy_gain", colour, f"{size:,} pairs")
    for axes, title in ((left, "Gold, which measures"), (right, "The proxy, which trains")):
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_xlim(left=0)
        axes.set_title(title)
        axes.set_xlabel("√KL(policy ‖ base), KL in nats per answer")
    left.set_ylabel("mean score above the base's")
    left.legend(loc="best", fontsize=9.5, ncols=1)
    right.legend(loc="best", fontsize=9.5)
    foot = f"Lines: means over {_seeds(rows)} seeds of labels, reward model and PPO; bands: lowest to highest seed."
    law = "Dashes: R(d) = d(α − β log d), fitted to the means of the eight checkpoints (arXiv 2210.10760)."
    add_foot(figure, f"{foot}\n{law}")
    return close_figure(figure)


def _seeds(rows: Sequence[Row]) -> str:
    """How many seeds each number of pairs has: `5`, or `3 to 5` where a grid is not complete."""
    of_size = Counter(size for size, _ in {(row["num_pairs"], row["seed"]) for row in rows})
    least, most = min(of_size.values()), max(of_size.values())
    return f"{least} to {most}" if least < most else str(most)


def _words(law: Law) -> str:
    peak = f", best at KL {law.peak**2:.1f}" if law.peak < 30 else ""
    return f"α {law.alpha:.2f}, β {law.beta:.2f}, R² {law.explained:.2f}{peak}"


def _curve(axes: Axes, rows: Sequence[Row], gain: str, colour: str, label: str) -> float:
    """Mean and range over the seeds; returns the distance at which they end."""
    grid, gains = curves_of(rows, gain)
    axes.fill_between(grid, gains.min(axis=0), gains.max(axis=0), color=colour, alpha=0.16, lw=0)
    axes.plot(grid, gains.mean(axis=0), color=colour, lw=2.2, label=label)
    return float(grid[-1])


def settings_of(rows: Sequence[Row]) -> Mapping[str, Any]:
    return {
        "pipeline": PIPELINE,
        "laws": {
            str(n): {"alpha": law.alpha, "beta": law.beta, "r_squared": law.explained, "peak_kl_nats": law.peak**2}
            for n, law in law_by_pairs(rows).items()
        },
    }  # fmt: skip


def draw(file: Path) -> None:
    """Draw the figure of a results file."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        figure_of(json.loads(file.read_text())["rows"]).savefig(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="300,1000,3000")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts")
    parser.add_argument("--draw", type=Path, help="a results file to draw again")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    sizes, seeds = ([int(n) for n in text.split(",")] for text in (options.pairs, options.seeds))
    started, load, store = now(), load_average(), Store(options.artifacts)
    rows: list[Row] = []
    for seed in seeds:
        for size in sizes:
            rows += measured(store, size, seed)
            file = write_results(
                "overoptimisation", rows, settings=settings_of(rows), started=started, load=load
            )  # fmt: skip
    draw(file)
    print(f"{file}\n{FIGURE}")


if __name__ == "__main__":
    main()
