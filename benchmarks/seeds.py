"""The README's table of expected numbers: pipelines of the toy world over several training seeds.

    python -m benchmarks.seeds [--seeds 0,1,2] [PIPELINE …]

One row per pipeline: the headline by round with its 95% interval for the first seed, the mean and range of the last
round over all seeds, and what the first seed's results cost when they were made. The world, and so the base policy, is
the same for every seed; samples, judgements, trainings and evaluations are drawn anew. What is in the store is not
computed again.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from rich.console import Console

from flows.commands.run import run_once
from flows.reporting.results import Estimate, ResultRow, costs, estimate_text, main_metric, run_results
from flows.store.finished import finished_steps
from flows.store.store import Store

FILE = Path(__file__).parent.parent / "pipelines.yaml"
PIPELINES = (
    "offline-dpo", "iterative-dpo", "sppo", "sppo-lora", "sppo-reward-model", "rm-ppo", "rm-ppo-lora",
    "rm-grpo", "rm-rloo", "online-dpo", "xpo", "nash-md", "apo", "apo-raft", "apo-rrhf", "reward-model",
)  # fmt: skip
BESIDE = ("eval/gold", "eval/kl", "eval/length")
SPENT = ("cost/samples", "cost/oracle_queries", "cost/seconds")


class Seeded(NamedTuple):
    """A run with one seed: its headline by round, and what its results cost."""

    rows: tuple[ResultRow, ...]
    costs: dict[str, float]


def run_with(store: Store, name: str, seed: int) -> Seeded:
    """Run a pipeline with one seed. Raises SystemExit where it does not end."""
    run = run_once(FILE, store, name, {"seed": str(seed)}, Console(stderr=True))
    if run.status != "done":
        raise SystemExit(f"{name} seed={seed}: {run.status}")
    steps = finished_steps(store, run)
    return Seeded(run_results(store, steps).rows, costs(steps))


def columns(seeded: Sequence[Seeded]) -> Iterator[str]:
    """Cells of one pipeline's row."""
    runs = [one.rows for one in seeded]
    first, metric = runs[0], main_metric(runs[0][-1].metrics)
    last = first[-1].metrics[metric]
    earlier = [f"{row.metrics[metric].value:.3f}" for row in first[:-1]]
    yield " / ".join([*earlier, estimate_text(last.value, last.low, last.high)])
    yield over_seeds([rows[-1].metrics[metric] for rows in runs], 3) if len(runs) > 1 else ""
    for name in BESIDE:
        estimates = [rows[-1].metrics[name] for rows in runs if name in rows[-1].metrics]
        yield over_seeds(estimates, 2) if estimates else "–"
    for name in SPENT:
        yield f"{seeded[0].costs[name]:,.0f}" if name in seeded[0].costs else "–"


def over_seeds(estimates: Sequence[Estimate], digits: int) -> str:
    """`0.781 (0.776–0.791)`: the mean, the smallest and the largest value; of one estimate its value."""
    values = [estimate.value for estimate in estimates]
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipelines", nargs="*", default=PIPELINES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--artifacts", type=Path, default=FILE.parent / "artifacts")
    options = parser.parse_args()
    seeds = [int(s) for s in options.seeds.split(",")]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    head = ["pipeline", f"seed {seeds[0]} by round", f"last round, seeds {options.seeds}", "gold", "KL, nats", "length",
            "samples", "queries", "seconds"]  # fmt: skip
    print("\n|", " | ".join(head), "|\n|", "---|" * len(head))
    for name in options.pipelines:
        runs = [run_with(Store(options.artifacts), name, seed) for seed in seeds]
        print("|", " | ".join([f"`{name}`", *columns(runs)]), "|", flush=True)


if __name__ == "__main__":
    main()
