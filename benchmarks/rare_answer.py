"""An answer of 0.7% that is worth a third of the optimum: which trainings lose it, and why.

    python -m benchmarks.rare_answer [--runs 20] [--rows "ppo, 16 samples,…"] [--out FILE]

Every row trains `--runs` times from one reference on the enumerable world of letters (`tests/tasks/rollouts/rare.py`),
200 iterations (RLOO: 600) of 16 samples to each of 4 prompts unless its name says otherwise, and counts the runs that
end below a tenth of the answer's probability under the optimum. `task ppo` is the product; all other rows are written
by hand and share no line with it, so that what they lose too is not the product's fault. Rows that `--out` already has
are kept.

The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`); its table is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.record import Row, load_average, now, write_results

if TYPE_CHECKING:
    from tests.tasks.rollouts.rare import Course, RareWorld


class Case(NamedTuple):
    """A row: settings by hand, or those of the task where `task` is set."""

    changed: dict[str, Any]
    task: bool = False


_RLOO: dict[str, Any] = {"method": "rloo", "critic": False, "lr": 2e-3, "iterations": 600}
CASES = {
    "task ppo": Case({}, task=True),
    "ppo": Case({}),
    "ppo, table": Case({"policy": "table"}),
    "ppo, table, 600 iterations": Case({"policy": "table", "iterations": 600}),
    "ppo, table, 5 times the lr": Case({"policy": "table", "lr": 5e-3}),
    "ppo, network per prompt": Case({"policy": "network per prompt"}),
    "ppo, network and table": Case({"policy": "network and table"}),
    "ppo, 64 samples": Case({"k": 64}),
    "ppo, 256 samples": Case({"k": 256}),
    "ppo, 256, 50 iterations": Case({"k": 256, "iterations": 50}),
    "ppo, no critic": Case({"critic": False}),
    "ppo, no clipping": Case({"clip": math.inf}),
    "ppo, no whitening": Case({"whiten": False}),
    "ppo, lr 3e-4": Case({"lr": 3e-4}),
    "rloo": Case(_RLOO),
    "rloo, table": Case({**_RLOO, "policy": "table"}),
    "rloo, 64 samples": Case({**_RLOO, "k": 64}),
    "rloo, 256 samples": Case({**_RLOO, "k": 256}),
}


def wilson(k: int, n: int) -> tuple[float, float]:
    """95% interval of a share of k in n. Source: Wilson, JASA 22 (1927)."""
    z = 1.959964
    centre, half = k / n + z * z / (2 * n), z * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def row_of(name: str, runs: int, world: RareWorld) -> Row:
    """Train and summarise one row. `lowest` and `missed_nats` are medians over runs."""
    from tests.tasks.rollouts.rare import Settings, train_by_hand, train_by_task

    case, begun = CASES[name], time.process_time()
    settings = Settings(**case.changed)
    courses = train_by_task(world, settings, runs) if case.task else train_by_hand(world, settings, runs)
    lost = sum(course.lost(world) for course in courses)
    return {
        "case": {"name": name}, "name": name, "runs": runs, "lost": lost, "lost_interval": wilson(lost, runs),
        "missed_nats": sum(course.missed for course in courses) / runs,
        "missed_nats_of_kept": _mean([course.missed for course in courses if not course.lost(world)]),
        **_of_probabilities(courses), "cpu_seconds": time.process_time() - begun,
        "courses": [{"end": c.probabilities[-1], "missed": c.missed} for c in courses],
    }  # fmt: skip


def _of_probabilities(courses: Sequence[Course]) -> Row:
    """How low the answer fell, when it was drawn first and how often in all, as medians over runs, and its probability
    at 20 moments of each run; nothing of the task, which does not show them."""
    if not courses[0].drawn:
        return {}
    first = [next((i for i, n in enumerate(c.drawn) if n), len(c.drawn)) for c in courses]
    at_first = [c.probabilities[i] for c, i in zip(courses, first, strict=True)]
    return {
        "lowest": median(min(c.probabilities) for c in courses), "first_drawn": median(first),
        "probability_when_first_drawn": median(at_first), "draws": median(sum(c.drawn) for c in courses),
        "probabilities": [[float(f"{p:.2e}") for p in c.probabilities[:: len(c.drawn) // 20]] for c in courses],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def table_of(rows: Sequence[Row]) -> str:
    lines = [f"{'':26} {'lost':>8} {'(95% CI)':>13} {'KL to optimum':>14} {'lowest':>9} {'first drawn':>12}"]
    for row in rows:
        low, high = row["lost_interval"]
        lowest, first = (f"{row[n]:{f}}" if n in row else "" for n, f in (("lowest", ".1e"), ("first_drawn", ".0f")))
        lines.append(
            f"{row['name']:26} {row['lost']:>3} of {row['runs']} {low:>7.2f}–{high:.2f} {row['missed_nats']:>14.3f} "
            f"{lowest:>9} {first:>12}"
        )
    return "\n".join(lines)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="trainings per row")
    parser.add_argument("--rows", default=";".join(CASES), help=f"separated by `;`, of: {'; '.join(CASES)}")
    parser.add_argument("--note", default="", help="conditions, for the record: what else the machine did")
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/rare_answer-<date>.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows.split(";")) - set(CASES):
        parser.error(f"--rows: {'; '.join(sorted(unknown))} is unknown; choose from {'; '.join(CASES)}")
    return options


def main() -> None:
    import torch

    from tests.tasks.rollouts.rare import rare_world

    torch.set_num_threads(1)
    options, started, load = options_of(), now(), load_average()
    kept = options.out is not None and options.out.exists()
    rows: list[Row] = json.loads(options.out.read_text())["rows"] if kept else []
    with tempfile.TemporaryDirectory() as folder:
        world = rare_world(Path(folder))
        for name in options.rows.split(";"):
            if name in {row["name"] for row in rows}:
                continue
            rows.append(row_of(name, options.runs, world))
            settings = {"runs": options.runs}
            file = write_results(
                "rare_answer", rows, settings=settings, started=started, load=load, note=options.note, file=options.out
            )
            print(table_of(rows[-1:]), flush=True)
    print(f"\n{table_of(rows)}" + (f"\n\n{file}" if rows else ""))


if __name__ == "__main__":
    main()
