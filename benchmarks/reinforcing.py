"""A step of GRPO on alignflow's task beside one of TRL's trainer: sample, score, read, update.

    python -m benchmarks.reinforcing                                # both shapes, 64 answers a step
    python -m benchmarks.reinforcing --shape toy --betas 0 --repeat 1

Both sides start from the same random weights and draw `--k` answers of up to `--answer` tokens to each of `--prompts`
prompts per step, in float32, score them by one rule and take one optimizer step; each in a process of its own, in
turns. Answers end by chance, at about `--ending` tokens in the mean, or go on to the longest (`--ending 0`); both sides
draw from the same distribution, and `mean_length` is what they drew. With a price (`--betas`) both also read the
reference. TRL has no gradient checkpointing here, which is its default, and samples by transformers' `generate`, its
way without vLLM. TRL is left out where it is not installed: `pip install --no-deps trl==1.16.0`.

The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`); its table is printed, and where the time of
a step goes. Speeds are answer tokens per second, from the end of the first step to the end of the last.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.inputs import SHAPES, Lengths, write_pairs, write_policy
from benchmarks.processes import in_process
from benchmarks.record import Row, load_average, now, write_results
from benchmarks.sides.grpo import Work
from benchmarks.table import table_of_file

PEER = "TRL"
SIDES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "alignflow": ("alignflow", "grpo_task", {}),
    "trl": (PEER, "grpo_trl", {}),
    "trl-defaults": ("TRL, gradient checkpointing", "grpo_trl", {"checkpointing": True}),
    "trl-accumulated": ("TRL, 4 passes", "grpo_trl", {"passes": 4}),
}


def make_inputs(folder: str, shape: str, ending: int, prompts: int, prompt: int) -> dict[str, Any]:
    """The policy, and prompts of random words."""
    root, sizes = Path(folder), SHAPES[shape]
    write_policy(root / "policy", sizes, ending=ending or None)
    write_pairs(root / "pairs.json", prompts, Lengths(prompt, 1), sizes.vocab)
    return {}


def measure(side: str, case: dict[str, Any], folder: Path, options: argparse.Namespace) -> Row:
    """One side of one cell."""
    name, module, arguments = SIDES[side]
    if module == "grpo_trl" and not importlib.util.find_spec("trl"):
        return {"case": case, "name": name, "skipped": "TRL is not installed"}
    work = Work(options.prompts, options.k, options.answer, options.steps)
    result = in_process(
        f"benchmarks.sides.{module}:train",
        {"folder": str(folder), "work": work._asdict(), "beta": case["beta"], **arguments},
        limit=options.limit,
        environment={"OMP_NUM_THREADS": str(options.threads)},
    )
    return with_speed({"case": case, "name": name, **result}, work)


def with_speed(row: Row, work: Work) -> Row:
    """The row with answer tokens per second and per CPU second."""
    if "step_seconds" not in row:
        return row
    tokens = work.prompts * work.k * row["mean_length"]
    return {
        **row, "tokens_per_second": tokens / row["step_seconds"],
        "tokens_per_cpu_second": tokens / row["step_cpu_seconds"],
    }  # fmt: skip


def measured_rows(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of all cells, each as soon as it is measured; the order of sides turns round from turn to turn."""
    sides = options.sides.split(",")
    shapes, endings, betas = options.shape.split(","), map(int, options.ending.split(",")), options.betas.split(",")
    for shape, ending, beta in product(shapes, endings, map(float, betas)):
        case = {"shape": shape, "ending": ending, "beta": beta}
        with tempfile.TemporaryDirectory() as temporary:
            prompts = {"prompts": options.prompts, "prompt": options.prompt}
            arguments = {"folder": temporary, "shape": shape, "ending": ending, **prompts}
            made = in_process("benchmarks.reinforcing:make_inputs", arguments, limit=options.limit)
            if "error" in made:
                raise SystemExit(f"{case}: {made['error']}")
            for turn in range(options.repeat):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    yield measure(side, case, Path(temporary), options)


def parts_of(rows: list[Row]) -> str:
    """Where the time of a step goes, a line per row; what no part counts is the rest."""
    lines = []
    for row in rows:
        if shares := row.get("shares"):
            named = {**shares, "rest": 1 - sum(shares.values())}
            case = " ".join(f"{name} {value}" for name, value in row["case"].items())
            parts = ", ".join(f"{part} {share:.0%}" for part, share in sorted(named.items(), key=lambda x: -x[1]))
            lines.append(f"{case:28} {row['name']:28} {row['step_seconds']:7.2f} s: {parts}")
    return "\n".join(lines)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="toy,20m", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--betas", default="0,0.04", help="prices of a nat")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per step")
    parser.add_argument("--prompt", type=int, default=64, help="median length of prompts, tokens")
    parser.add_argument("--k", type=int, default=8, help="answers per prompt")
    parser.add_argument("--answer", type=int, default=64, help="longest answer, tokens")
    parser.add_argument("--ending", default="32,0", help="mean length of answers that nothing cuts; 0: they do not end")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sides", default="alignflow,trl", help=f"of {', '.join(SIDES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2, help="times that each side is measured, in turns")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one side")
    parser.add_argument("--note", default="", help="conditions, for the record: what else the machine did")
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/reinforcing-<date>.json")
    options = parser.parse_args(arguments)
    for name, allowed in (("shape", SHAPES), ("sides", SIDES)):
        if unknown := set(getattr(options, name).split(",")) - set(allowed):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is unknown; choose from {', '.join(allowed)}")
    return options


def main() -> None:
    options = options_of()
    started, load = now(), load_average()
    settings = {name: value for name, value in vars(options).items() if name not in ("note", "out")} | {"peer": PEER}
    rows: list[Row] = []
    for row in measured_rows(options):
        rows.append(row)
        print({name: value for name, value in row.items() if name not in ("rewards", "shares")}, flush=True)
        file = write_results(  # after each row, so that an interrupted run keeps what it measured
            "reinforcing", rows, settings=settings, started=started, load=load, note=options.note, file=options.out
        )
    print(f"\n{file}\n\n{table_of_file(file)}\n\n{parts_of(rows)}")


if __name__ == "__main__":
    main()
