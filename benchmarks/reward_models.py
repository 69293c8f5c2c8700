"""Learning curves of reward models on the toy world: what decides how well one follows gold.

    python -m benchmarks.reward_models [--artifacts DIR] [GROUP …]

A cell is one setting that differs from the standard one in number of pairs, in their kind (disjoint, or all pairs of a
few answers), epochs, learning rate, batch, centring or the size of the model. Its reward model is trained on labels of
each seed and measured on answers of the base to the prompts of the split `gate`, the same for all
(`benchmarks/reward_models.yaml`):

- accuracy: on 1,280 labels that people drew; `ceiling` is what no model can exceed;
- gold_accuracy: over all pairs of 32 answers to a prompt whose gold scores differ, the share in which the reward
  model prefers the answer with the higher one, so without the noise of labels;
- correlation: of its scores with gold, both less their mean of the prompt;
- best_of_n_gold, best_of_n_proxy: what the answer that the reward model likes best of n (4, 16, 32) has above the mean
  answer, in gold and in the reward model's own scores: a yardstick for what trains by it, at a KL of at most
  log n − (n − 1)/n nats (.64, 1.84, 2.50).

One run has all cells as its rounds, and what is in the store is not computed again, so that an interrupted grid goes
on. The result is a JSON file in `benchmarks/results/` and the figure `docs/reward_models.png`; `--draw FILE` draws a
result again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.record import Row, load_average, now, write_results
from flows.commands.run import run_once
from flows.reporting.figures.style import ACCENT, BASE, INK, MUTED, STYLE, add_foot, close_figure
from flows.reporting.results import read_report
from flows.store.finished import FinishedStep, finished_steps
from flows.store.store import Store
from tasks.best_of import selection_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
HERE = Path(__file__).parent
FILE, FIGURE = HERE / "reward_models.yaml", HERE.parent / "docs" / "reward_models.png"


@dataclass(frozen=True)
class Cell:
    """A setting of a reward model; the defaults are the standard one."""

    num_pairs: int = 3000
    disjoint: bool = True
    epochs: int = 1
    lr: float = 3e-4
    batch: int = 16
    centring: float = 0.01
    hidden: int = 128
    """Width; the inner width of its feed-forward part grows with it."""
    layers: int = 3


STANDARD = Cell()


class Group(NamedTuple):
    """Cells that are measured with the label seeds 0 to `seeds` − 1."""

    seeds: int
    cells: tuple[Cell, ...]


KINDS = (Cell(epochs=3), Cell(), Cell(disjoint=False), Cell(disjoint=False, epochs=3))
"""The setting of `rm-ppo`, and what it has instead of: one epoch, all pairs of a few answers, both."""
GROUPS: Mapping[str, Group] = {
    "chosen": Group(3, KINDS[:1]),
    "kinds": Group(2, KINDS[1:]),
    "sizes": Group(2, tuple(replace(kind, num_pairs=1000) for kind in KINDS[:3])),
    "few": Group(1, tuple(replace(kind, num_pairs=300) for kind in KINDS[:3])),
    "many": Group(1, (Cell(10_000),)),
    "settings": Group(1, (
        *(Cell(epochs=n) for n in (2, 5)), Cell(disjoint=False, epochs=2), Cell(lr=1e-4), Cell(lr=1e-3),
        Cell(epochs=2, lr=1e-3), Cell(lr=1e-3, batch=64), Cell(centring=0.0),
    )),
    "models": Group(2, tuple(Cell(epochs=3, hidden=hidden, layers=layers) for hidden, layers in ((64, 2), (256, 4)))),
}  # fmt: skip
"""What a command measures by name."""
CURVES: Mapping[str, Callable[[Cell], bool]] = {
    "disjoint pairs, 3 epochs": lambda cell: cell == Cell(cell.num_pairs, epochs=3),
    "disjoint pairs, 1 epoch": lambda cell: cell == Cell(cell.num_pairs),
    "all pairs of few answers, 1 epoch": lambda cell: cell == Cell(cell.num_pairs, disjoint=False),
}
"""The learning curves that are drawn: the label, and which cells belong to it."""
COLOURS = (ACCENT, MUTED, BASE)
CURVE, RANKED = "gold_accuracy", "best_of_16_gold"
"""What the two panels of the figure show."""
BEST_OF = (4, 16, 32)


def measured(store: Store, groups: Sequence[Group]) -> Iterator[Row]:
    """A row for each cell and seed, from one run with a round for each. Raises SystemExit where it does not end."""
    rounds = [(cell, seed) for group in groups for cell in group.cells for seed in range(group.seeds)]
    values = parameters_of(rounds)
    run = run_once(FILE, store, "reward-curves", values, Console(stderr=True))
    if run.status != "done":
        raise SystemExit(f"reward-curves: {run.status}")
    steps = finished_steps(store, run)
    by_gold = _scores(store, next(s for s in steps if s.name == "by_gold"))
    for number, (cell, seed) in enumerate(rounds, 1):
        of_round = dict(_of_round(steps, number))
        scores = _scores(store, of_round["by_reward"])
        yield {
            "case": asdict(cell), "name": "disjoint" if cell.disjoint else "all pairs", "seed": seed,
            **_estimates(store, of_round), **agreement(scores, by_gold), **best_of_gains(scores, by_gold),
        }  # fmt: skip


def parameters_of(rounds: Sequence[tuple[Cell, int]]) -> dict[str, str]:
    """The wiring's parameters as a command gives them, with a value for each round: its cell and its seed."""
    columns = {f.name: [getattr(cell, f.name) for cell, _ in rounds] for f in fields(Cell)}
    columns["ffn"] = [cell.hidden * 21 // 8 for cell, _ in rounds]
    return {name: json.dumps(column) for name, column in {**columns, "label_seed": [s for _, s in rounds]}.items()}


def _of_round(steps: Sequence[FinishedStep], number: int) -> Iterator[tuple[str, FinishedStep]]:
    """The steps of one round by name; equal steps of several rounds are one, with an address for each."""
    for step in steps:
        for address in step.addresses:
            name, _, round = address.partition("@")
            if round == str(number):
                yield name, step


def _estimates(store: Store, steps: Mapping[str, FinishedStep]) -> dict[str, float]:
    accuracy = read_report(store, steps["report"].record)
    return {
        "accuracy": accuracy["eval/accuracy"].value, "ceiling": accuracy["eval/accuracy_ceiling"].value,
        "nll": accuracy["eval/nll"].value, "trained_pairs": steps["reward/tokenize"].record.rows or 0,
        "seconds": steps["reward"].record.seconds,
    }  # fmt: skip


def _scores(store: Store, step: FinishedStep) -> Floats:
    """`(N, K)` scores of K answers to each prompt, in the order of the table."""
    from tasks.kinds import Scores

    table = Scores(store.root / step.record.path).table
    prompts = len(set(table.column("prompt_id").to_pylist()))
    return np.asarray(table.column("score"), np.float64).reshape(prompts, -1)


def agreement(scores: Floats, gold: Floats) -> dict[str, float]:
    """How scores follow gold among the answers to one prompt, both `(N, K)`."""
    differ = gold[:, :, None] - gold[:, None, :]
    apart = np.sign(scores[:, :, None] - scores[:, None, :])[differ > 1e-9]
    own, other = (x - x.mean(axis=1, keepdims=True) for x in (scores, gold))
    correlation = (own * other).sum() / np.sqrt((own**2).sum() * (other**2).sum())
    return {"gold_accuracy": float((apart + 1).mean() / 2), "correlation": float(correlation)}


def best_of_gains(scores: Floats, gold: Floats) -> dict[str, float]:
    """Gains over the mean answer, in gold and in the scores, of the answer with the highest score of n; `(N, K)`."""
    gains = {}
    for n in BEST_OF:
        weights = np.stack([selection_weights(row, n) for row in scores])
        for name, values in (("gold", gold), ("proxy", scores)):
            gains[f"best_of_{n}_{name}"] = float(((weights * values).sum(axis=1) - values.mean(axis=1)).mean())
    return gains


def figure_of(rows: Sequence[Row]) -> Figure:
    """Learning curves on the left, settings at the standard number of pairs ranked on the right; a point for a seed."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(1, 1.1))
    figure.subplots_adjust(wspace=0.78)
    for (label, belongs), colour in zip(CURVES.items(), COLOURS, strict=True):
        _draw_curve(left, [row for row in rows if belongs(Cell(**row["case"]))], colour, label)
    left.set_xscale("log")
    sizes = sorted({row["case"]["num_pairs"] for row in rows})
    left.set_xticks(sizes, [f"{n:,}" for n in sizes])
    left.minorticks_off()
    left.set_xlabel("labelled pairs")
    left.set_ylabel("accuracy against gold")
    left.set_title("Learning curves")
    left.margins(y=0.2)
    left.legend(loc="lower right", fontsize=9)
    _draw_settings(right, [row for row in rows if row["case"]["num_pairs"] == STANDARD.num_pairs])
    foot = (
        "Accuracy against gold: share of pairs of answers to a prompt of the split `gate` in which the reward model "
        "prefers the one with the higher gold score.",
        "Settings: what differs from 1 epoch over disjoint pairs (blue; all pairs of few answers: brown), lr 0.0003, "
        "batches of 16, centring 0.01.",
        "Best of 16: the reward model chooses. Points: seeds of labels, head and order of rows; lines and bars: means.",
    )
    add_foot(figure, "\n".join(foot))
    return close_figure(figure)


def _draw_curve(axes: Axes, rows: Sequence[Row], colour: str, label: str) -> None:
    sizes = sorted({row["case"]["num_pairs"] for row in rows})
    means = [np.mean([r[CURVE] for r in rows if r["case"]["num_pairs"] == n]) for n in sizes]
    axes.plot(sizes, means, color=colour, lw=2.2, label=label)
    axes.plot([r["case"]["num_pairs"] for r in rows], [r[CURVE] for r in rows], "o", ms=4, color=colour, alpha=0.6)


def _draw_settings(axes: Axes, rows: Sequence[Row]) -> None:
    """One line of points for each setting, the best at the top."""
    by_cell: dict[Cell, list[float]] = {}
    for row in rows:
        by_cell.setdefault(Cell(**row["case"]), []).append(row[RANKED])
    ranked = sorted(by_cell, key=lambda cell: float(np.mean(by_cell[cell])))
    for place, cell in enumerate(ranked):
        values = by_cell[cell]
        colour = ACCENT if cell.disjoint else BASE
        axes.plot(values, [place] * len(values), "o", ms=4.5, color=colour, alpha=0.6)
        axes.plot(np.mean(values), place, "|", ms=13, mew=2.2, color=colour)
    axes.set_yticks(range(len(ranked)), [words(cell) for cell in ranked], color=INK)
    axes.set_xlabel("gold that the best of 16 answers gains")
    axes.set_title(f"Settings at {STANDARD.num_pairs:,} pairs")


def words(cell: Cell) -> str:
    """What differs from the standard cell, in words: `3 epochs, lr 0.0001`."""
    known = {"epochs": f"{cell.epochs} epochs", "lr": f"lr {cell.lr:g}", "batch": f"batch {cell.batch}"}
    known |= {"centring": f"centring {cell.centring:g}", "disjoint": "all pairs"}
    known |= {"hidden": f"width {cell.hidden}", "layers": f"{cell.layers} layers"}
    parts = [text for name, text in known.items() if getattr(cell, name) != getattr(STANDARD, name)]
    return ", ".join(parts) or "1 epoch"


def draw(file: Path) -> None:
    """Draw the figure of a results file."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        figure_of(json.loads(file.read_text())["rows"]).savefig(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), help=", ".join(GROUPS))
    parser.add_argument("--artifacts", type=Path, default=HERE.parent / "artifacts")
    parser.add_argument("--draw", type=Path, help="a results file to draw again")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    started, load = now(), load_average()
    rows = list(measured(Store(options.artifacts), [GROUPS[name] for name in options.groups]))
    file = write_results(
        "reward_models", rows, settings={"standard": asdict(STANDARD)}, started=started, load=load
    )  # fmt: skip
    draw(file)
    print(f"{file}\n{FIGURE}")


if __name__ == "__main__":
    main()
