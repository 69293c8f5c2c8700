"""DPO on alignflow's tasks beside TRL's trainer, a hand-written loop, and the matrix products that all of them need.

    python -m benchmarks.training                                     # 64 pairs, the 20-million-parameter shape
    python -m benchmarks.training --pairs 512 --sides alignflow,trl
    python -m benchmarks.training --shape smollm-135m --prompt 500 --pairs 8 --sides alignflow,hand-written,floor

All sides of a cell train on the same pairs in the same order, from the same weights, with batches of 8 pairs and equal
learning rates, in float32, for one epoch; each in a process of its own. Lists (`--prompt 50,500`) measure every
combination. TRL is left out where it is not installed: `pip install --no-deps trl==1.16.0`.

The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`); its table is printed. CPU seconds suffer
less from other work on the machine than wall seconds do.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.inputs import SHAPES, Lengths, count_tokens, read_pairs, write_pairs, write_policy
from benchmarks.processes import in_process
from benchmarks.record import Row, load_average, now, write_results
from benchmarks.table import table_of_file

PEER, FLOOR = "TRL", "floor: matrix products alone"
ANSWER = 67
"""Median length of an answer, in tokens."""


class Side(NamedTuple):
    module: str
    arguments: dict[str, Any]


def _trl(**arguments: Any) -> Side:
    return Side("trl_trainer", arguments)


SIDES = {
    "trl": (PEER, _trl()),
    "trl-precomputed": ("TRL, reference precomputed", _trl(precompute=True)),
    "trl-plain": ("TRL, no gradient checkpointing", _trl(checkpointing=False)),
    "trl-1x8": ("TRL, batch 1 × 8 (no padding)", _trl(rows_per_pass=1, precompute=True, checkpointing=False)),
    "trl-1x8-checkpointing": ("TRL, batch 1 × 8, checkpointing", _trl(rows_per_pass=1, precompute=True)),
    "trl-pages": ("TRL, freed memory kept", _trl(keep_pages=True)),
    "trl-1x8-pages": (
        "TRL, batch 1 × 8, freed memory kept",
        _trl(rows_per_pass=1, precompute=True, checkpointing=False, keep_pages=True),
    ),
    "hand-written-pages": ("hand-written loop, freed memory kept", Side("hand_written", {"keep_pages": True})),
    "hand-written": ("hand-written loop", Side("hand_written", {})),
    "alignflow": ("alignflow", Side("alignflow_tasks", {})),
    "floor": (FLOOR, Side("gemm_floor", {})),
}
DEFAULT = "trl,trl-precomputed,trl-1x8,hand-written,alignflow,floor"


def make_inputs(folder: str, shape: str, pairs: int, prompt: int, answer: int) -> dict[str, Any]:
    """The policy and the pairs of a cell, and how many tokens they have."""
    root, sizes = Path(folder), SHAPES[shape]
    write_policy(root / "policy", sizes)
    write_pairs(root / "pairs.json", pairs, Lengths(prompt, answer), sizes.vocab)
    return {"tokens": count_tokens(read_pairs(root / "pairs.json"))._asdict()}


def measure(side: str, case: dict[str, Any], folder: Path, options: argparse.Namespace) -> Row:
    """One side of one cell."""
    name, (module, arguments) = SIDES[side]
    arguments = {"folder": str(folder), **arguments}
    if side == "alignflow":
        arguments["limit"] = options.limit
    if side == "floor":
        arguments["shape"] = case["shape"]
    if module == "trl_trainer" and not importlib.util.find_spec("trl"):
        return {"case": case, "name": name, "skipped": "TRL is not installed"}
    result = in_process(
        f"benchmarks.sides.{module}:train",
        arguments,
        limit=options.limit,
        environment={"OMP_NUM_THREADS": str(options.threads)},
    )
    return {"case": case, "name": name, **result}


def with_speeds(row: Row, tokens: dict[str, int], pairs: int) -> Row:
    """The row with tokens per second, counted alike for all: every pair's prompt twice, its two answers."""
    if "seconds" not in row:
        return row
    row = {**row, "tokens": tokens["read"], "all_tokens_per_second": tokens["read"] / row["seconds"]}
    if "step_seconds" in row:
        steps = -(-pairs // 8)
        read = tokens["read"] * (steps - 1) / steps  # the first step is not in step_seconds
        row["step_tokens_per_second"] = read / row["step_seconds"]
    return row


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = product(options.shape.split(","), map(int, options.prompt.split(",")), map(int, options.pairs.split(",")))
    return [{"shape": shape, "prompt": prompt, "pairs": pairs} for shape, prompt, pairs in found]


def measured_rows(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of all cells, each as soon as it is measured."""
    for case in cells(options):
        with tempfile.TemporaryDirectory() as temporary:
            arguments = {"folder": temporary, **case, "answer": options.answer}
            made = in_process("benchmarks.training:make_inputs", arguments, limit=options.limit)
            if "error" in made:
                raise SystemExit(f"{case}: {made['error']}")
            for side in options.sides.split(",") * options.repeat:
                yield with_speeds(measure(side, case, Path(temporary), options), made["tokens"], case["pairs"])


def largest_difference(rows: list[Row]) -> float | None:
    """Between the losses of any two sides of a cell, over all cells; None if no two sides trained."""
    apart: list[float] = []
    for case in {str(row["case"]): row["case"] for row in rows}.values():
        losses = [row["losses"] for row in rows if row["case"] == case and row.get("losses")]
        apart += [abs(a - b) for other in losses[1:] for a, b in zip(losses[0], other, strict=True)]
    return max(apart, default=None)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="20m", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--prompt", default="50", help="median length of prompts, tokens")
    parser.add_argument("--answer", type=int, default=ANSWER, help="median length of answers, tokens")
    parser.add_argument("--pairs", default="64")
    parser.add_argument("--sides", default=DEFAULT, help=f"of {', '.join(SIDES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="times that each side is measured, in turns")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one side")
    parser.add_argument("--note", default="", help="conditions, for the record: what else the machine did")
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/training-<date>.json")
    options = parser.parse_args(arguments)
    for name, allowed in (("shape", SHAPES), ("sides", SIDES)):
        if unknown := set(getattr(options, name).split(",")) - set(allowed):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is unknown; choose from {', '.join(allowed)}")
    return options


def main() -> None:
    options = options_of()
    started, load = now(), load_average()
    settings = {name: value for name, value in vars(options).items() if name not in ("note", "out")}
    rows: list[Row] = []
    for row in measured_rows(options):
        rows.append(row)
        print({name: value for name, value in row.items() if name != "losses"}, flush=True)
        settings |= {"peer": PEER, "floor": FLOOR, "largest_difference_of_losses": largest_difference(rows)}
        file = write_results(  # after each row, so that an interrupted run keeps what it measured
            "training", rows, settings=settings, started=started, load=load, note=options.note, file=options.out
        )
    print(f"\n{file}\n\n{table_of_file(file)}")


if __name__ == "__main__":
    main()
