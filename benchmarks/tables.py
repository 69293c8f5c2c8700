"""How long it takes to turn judgements into training data: win rates and preference pairs of N prompts × K answers.

    python -m benchmarks.tables [--prompts 60000] [--k 5] [--times 10]

The peer is the loop over rows that published codes have (SPPO's `compute_prob.py`: a matrix per prompt, argmax,
argmin), writing the same columns as JSON. Both read their input from disk and write their result; each runs in a
process of its own. Memory is the growth of the process's own pages (RssAnon: mapped files, which the kernel takes
back as it likes, are not in it) from before the work to its peak. The longer table has `--times` as many prompts.
The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`); its table is printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import in_process
from benchmarks.record import Row, load_average, now, write_results
from benchmarks.table import table_of_file

LIMIT = 600.0
"""Seconds for one measurement."""


def write_input(folder: str, prompts: int, k: int) -> dict[str, Any]:
    """Completions of about 15 words and the judgements of all their pairs, block by block."""
    import numpy as np
    import pyarrow as pa

    from tasks.judging.pairing import pairs_within
    from tasks.kinds import Completions, WinProbs

    words = "the swan lives in the swamp . it eats roots . certainly , good question !".split()  # noqa: SIM905

    def answers(start: int, stop: int) -> Any:
        rng = np.random.default_rng(start)
        n = (stop - start) * k
        ids = np.repeat([f"{i:032x}" for i in range(start, stop)], k)
        lengths = rng.integers(8, 30, n)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        tokens = pa.array(rng.integers(0, 512, offsets[-1]), pa.int32())
        logps = pa.array(rng.random(offsets[-1]).astype(np.float32))
        texts = [" ".join(words[j % 16] for j in range(i % 7, i % 7 + m // 2)) for i, m in enumerate(lengths)]
        one = pa.array([[{"role": "user", "content": "where does the swan live and what does it eat ?"}]])
        return pa.table({
            "prompt_id": ids, "prompt": one.take(pa.array(np.zeros(n, np.int64))),
            "completion_id": [f"{i:032x}" for i in range(start * k + 2**64, stop * k + 2**64)], "completion": texts,
            "prompt_tokens": pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * 20), _ints(n * 20)),
            "completion_tokens": pa.ListArray.from_arrays(pa.array(offsets), tokens),
            "stream": np.zeros(n, np.int64), "k": np.tile(np.arange(k, dtype=np.int32), stop - start),
            "token_logps": pa.ListArray.from_arrays(pa.array(offsets), logps), "finish_reason": ["stop"] * n,
        })  # fmt: skip

    def judged(start: int, stop: int) -> Any:
        a, b = pairs_within(np.full(stop - start, k))
        ids = np.array([f"{i:032x}" for i in range(start * k + 2**64, stop * k + 2**64)])
        prompts_of = np.array([f"{i:032x}" for i in range(start, stop)])
        p = np.random.default_rng(start + 1).random(len(a))
        return pa.table({"prompt_id": prompts_of[a // k], "a_id": ids[a], "b_id": ids[b], "p": p})

    def blocks(make: Any) -> Any:
        return (b for i in range(0, prompts, 5000) for b in make(i, min(i + 5000, prompts)).to_batches())

    for name, kind, make in (("completions", Completions, answers), ("win_probs", WinProbs, judged)):
        (Path(folder) / name).mkdir(parents=True)
        kind.of(blocks(make)).save(Path(folder) / name)
    return {}


def _ints(n: int) -> Any:
    import pyarrow as pa

    return pa.array([1] * n, pa.int32())


def ours(folder: str, keep: str) -> Row:
    """`win_rates` and `pairs` as the pipelines call them: files in, files out."""
    return measured(_our_tables, Path(folder), keep)


def peer(folder: str, keep: str) -> Row:
    """The same two tables by a loop over prompts, in pure Python."""
    return measured(_tables_by_loop, Path(folder), keep)


def measured(work: Callable[[Path, str], Row], folder: Path, keep: str) -> Row:
    """What the work returns, its seconds, and the growth of memory."""
    import polars  # noqa: F401 - imports are no part of the work
    import pyarrow.compute  # noqa: F401
    import scipy.special  # noqa: F401

    import tasks.select  # noqa: F401

    peak = Peak()
    peak.start()
    begun = time.perf_counter()
    counted = work(folder, keep)
    return {"seconds": time.perf_counter() - begun, **counted, "memory_growth_mb": peak.peak_mb - peak.start_mb}


def _our_tables(folder: Path, keep: str) -> Row:
    from tasks.contract import Chosen
    from tasks.kinds import Completions, WinProbs
    from tasks.select import pairs, win_rates
    from tasks.workspace import LocalWorkspace

    answers, judged = Completions(folder / "completions"), WinProbs(folder / "win_probs")
    started = time.perf_counter()
    rates = win_rates(judged, answers, LocalWorkspace(folder / "1"), keep=keep)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    made = pairs(answers, judged, LocalWorkspace(folder / "2"), rule=Chosen("pair_rules", "best_and_worst", {}))
    return {"win_rates_seconds": seconds, "rows": len(rates), "pairs_made": len(made)}


def _tables_by_loop(folder: Path, keep: str) -> Row:
    from tasks.kinds import Completions, WinProbs

    answers: dict[str, list[dict[str, Any]]] = {}
    for row in Completions(folder / "completions").table.to_pylist():
        answers.setdefault(row["prompt_id"], []).append(row)
    p = {(r["a_id"], r["b_id"]): r["p"] for r in WinProbs(folder / "win_probs").table.to_pylist()}
    made = {"rows": 0, "pairs_made": 0}
    with (folder / "rates.jsonl").open("w") as rates, (folder / "pairs.jsonl").open("w") as pairs:
        for rows in answers.values():
            ids = [r["completion_id"] for r in rows]
            matrix = [[0.5 if a == b else p[a, b] if (a, b) in p else 1 - p[b, a] for b in ids] for a in ids]
            means = [sum(row) / len(row) for row in matrix]
            best, worst = means.index(max(means)), means.index(min(means))
            for i, row in enumerate(rows):
                if keep == "all" or i in (best, worst):
                    rates.write(json.dumps({**row, "win_rate": means[i], "prompt_win_rates": means}) + "\n")
                    made["rows"] += 1
            if best != worst:
                sides = {"chosen": rows[best]["completion"], "rejected": rows[worst]["completion"]}
                pairs.write(json.dumps({"prompt": rows[0]["prompt"], **sides, "p": matrix[best][worst]}) + "\n")
                made["pairs_made"] += 1
    return made


def own_memory() -> float:
    """The process's own pages, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


class Peak(threading.Thread):
    """Watches the process's own pages."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mb = self.peak_mb = own_memory()

    def run(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, own_memory())
            time.sleep(0.005)


def measure(folder: Path, prompts: int, k: int, keep: str, names: tuple[str, ...]) -> list[Row]:
    """Make the input and measure each of `names` on it, each time in a process of its own."""
    case = {"prompts": prompts, "k": k, "keep": keep}
    made = in_process("benchmarks.tables:write_input", {"folder": str(folder), "prompts": prompts, "k": k}, limit=LIMIT)
    if "error" in made:
        raise SystemExit(f"the input could not be written: {made['error']}")
    rows = []
    for name in names:
        result = in_process(f"benchmarks.tables:{name}", {"folder": str(folder), "keep": keep}, limit=LIMIT)
        rows.append({"case": case, "name": {"ours": "alignflow", "peer": "loop in Python"}[name], **result})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=60_000)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--keep", default="all", choices=["all", "best_and_worst"])
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/tables-<date>.json")
    options = parser.parse_args()
    started, load, long = now(), load_average(), options.prompts * options.times
    with tempfile.TemporaryDirectory() as scratch:
        root, k, keep = Path(scratch), options.k, options.keep
        rows = measure(root / "short", options.prompts, k, keep, ("ours", "ours", "ours", "peer"))
        rows += measure(root / "long", long, k, keep, ("ours",))
    settings = {"prompts": options.prompts, "k": k, "times": options.times, "keep": keep, "peer": "loop in Python"}
    file = write_results("tables", rows, settings=settings, started=started, load=load, file=options.out)
    print(f"\n{file}\n\n{table_of_file(file)}")


if __name__ == "__main__":
    main()
