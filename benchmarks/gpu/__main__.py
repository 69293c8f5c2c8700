"""Run all parts and write `benchmarks/results/gpu-<date>.json`.

    python -m benchmarks.gpu                            # everything, on the GPU
    python -m benchmarks.gpu --parts ceilings,dpo-0.6b
    python -m benchmarks.gpu --tiny                     # tiny sizes, on any machine: does the script itself work?

Each part prints one line of JSON as soon as it ends. Afterwards the table is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.processes import in_process
from benchmarks.record import Row, load_average, now, write_results
from benchmarks.table import table_of_file

TOTAL_SECONDS = 480.0
TINY_LIMIT = 300.0
"""Seconds for one part, where a test machine may do much else."""


class Part(NamedTuple):
    """A function of this package, and the seconds that it may take."""

    function: str
    limit: float
    arguments: Mapping[str, Any] = MappingProxyType({})


PARTS = {
    "ceilings": Part("ceilings", 40),
    "dpo-0.6b": Part("dpo", 110, {"shape": "qwen3-0.6b"}),
    "trl-0.6b": Part("trl_peer", 100, {"shape": "qwen3-0.6b"}),
    "lora-8b": Part("lora", 110, {"shape": "llama3-8b"}),
    "parity": Part("parity", 60),
    "dpo-1.5b": Part("dpo", 100, {"shape": "qwen2.5-1.5b", "memory": True}),
    "sampling": Part("sampling", 70, {"shape": "qwen3-0.6b"}),
    "resume": Part("resume", 80),
    "attention": Part("attention", 60),
    "head": Part("head", 40),
}
"""In the order of their worth: what comes last is left out first where time runs out."""


def run_part(name: str, part: Part, *, tiny: bool, ceiling: float | None, left: float) -> dict[str, Any]:
    """A part's result as a JSON object: `part`, and `rows` or `error` or `skipped`."""
    if left <= 0:
        return {"part": name, "skipped": f"the {TOTAL_SECONDS:.0f} s of all parts together were used up"}
    arguments = {"function": f"{part.function}:run", "tiny": tiny, "ceiling": ceiling, **part.arguments}
    limit, environment = (TINY_LIMIT, {"OMP_NUM_THREADS": "1"}) if tiny else (part.limit, {})
    result = in_process("benchmarks.gpu.bare:run", arguments, limit=min(limit, left), environment=environment)
    return {"part": name, **result}


def rows_of(result: dict[str, Any]) -> list[Row]:
    """The result's rows, or one row that has the error."""
    case = {"part": result["part"]}
    if "rows" in result:
        return [{"case": case, **row} for row in result["rows"]]
    return [{"case": case, "name": result["part"], **{k: result[k] for k in ("error", "skipped") if k in result}}]


def measured(names: list[str], *, tiny: bool, seconds: float) -> list[dict[str, Any]]:
    """The results of the parts, in order. Each is printed when it is there."""
    started, ceiling = time.perf_counter(), None
    results = []
    for name in names:
        left = seconds - (time.perf_counter() - started)
        result = run_part(name, PARTS[name], tiny=tiny, ceiling=ceiling, left=left)
        ceiling = result.get("ceiling", ceiling)
        print(json.dumps(result), flush=True)
        results.append(result)
    return results


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes; without a GPU on the CPU")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all parts together")
    parser.add_argument("--note", default="", help="conditions, for the record")
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/gpu-<date>.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is unknown; choose from {', '.join(PARTS)}")
    return options


def main() -> None:
    options = options_of()
    if not options.tiny:
        _check_device()
    started, load = now(), load_average()
    results = measured(options.parts.split(","), tiny=options.tiny, seconds=options.seconds)
    rows = [row for result in results for row in rows_of(result)]
    settings = {"parts": options.parts, "tiny": options.tiny, "seconds": options.seconds}
    file = write_results(
        "gpu", rows, settings=settings, started=started, load=load, note=options.note, file=options.out
    )
    print(f"\n{file}\n\n{table_of_file(file)}")


def _check_device() -> None:
    found = in_process("benchmarks.gpu.bare:device", {}, limit=120)
    if found.get("device") != "cuda":
        reason = found.get("error", "torch sees no GPU")
        raise SystemExit(f"{reason}: the full sizes need one. `--tiny` runs every part on a CPU")


if __name__ == "__main__":
    main()
