"""How long it takes to look answers up: N questions in the store of answers, beside a plain loop over SQLite.

    python -m benchmarks.answers [--questions 100000]

The store has N answers, half of the N questions are among them, and each answer has a raw text of 360 characters, as
judges write them. The peer is what one would write first: one `select` for each question on a table
with the same key. It also times a dictionary in memory, the floor of any look-up, and the store in calls of 64
questions, as a step with a local model makes them. The result is a JSON file in `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Row, load_average, now, write_results
from benchmarks.table import table_of_file
from tasks.answers.store import Answer, AnswerStore
from tasks.ids import digest

ORACLE = "a judge, version 1"
RAW = "The first answer names the animal and where it lives; the second one repeats the question. " * 4
CALL = 64
"""Questions in one call of a local model."""


def filled(folder: Path, questions: int) -> list[str]:
    """A store with n answers, and the digests of n questions, half of which it has; a table for the peer, too."""
    known = [digest("known", str(i)) for i in range(questions)]
    store = AnswerStore(folder / "answers")
    for start in range(0, len(known), 10_000):
        store.add(ORACLE, {q: Answer(0.5, RAW, 300, 40, 0.8, 0.001) for q in known[start : start + 10_000]})
    store.close()
    with sqlite3.connect(folder / "plain.db") as db:
        db.execute("create table answers (question text primary key, value text, raw text)")
        db.executemany("insert into answers values (?, '0.5', ?)", ((q, RAW) for q in known))
    db.close()
    unknown = [digest("unknown", str(i)) for i in range(questions // 2)]
    return [q for two in zip(known[::2], unknown, strict=True) for q in two]


def by_store(folder: Path, questions: Sequence[str], call: int) -> int:
    store = AnswerStore(folder / "answers")
    found = sum(len(store.find(ORACLE, questions[i : i + call])) for i in range(0, len(questions), call))
    store.close()
    return found


def by_loop(folder: Path, questions: Sequence[str]) -> int:
    db = sqlite3.connect(folder / "plain.db")
    rows = (db.execute("select value, raw from answers where question = ?", (q,)).fetchone() for q in questions)
    found = sum(json.loads(row[0]) is not None for row in rows if row)
    db.close()
    return found


def by_dictionary(known: dict[str, str], questions: Sequence[str]) -> int:
    return sum(q in known for q in questions)


def measured(name: str, case: Row, work: Callable[[], int]) -> Row:
    started = time.perf_counter()
    found = work()
    row: dict[str, Any] = {"case": case, "name": name, "seconds": time.perf_counter() - started, "found": found}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/answers-<date>.json")
    options = parser.parse_args()
    started, load, case = now(), load_average(), {"questions": options.questions}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        questions = filled(folder, options.questions)
        known = dict.fromkeys(questions[::2], RAW)
        rows = [
            measured("store of answers", case, lambda: by_store(folder, questions, len(questions))),
            measured(f"store of answers, {CALL} a call", case, lambda: by_store(folder, questions, CALL)),
            measured("one select per question", case, lambda: by_loop(folder, questions)),
            measured("dictionary in memory", case, lambda: by_dictionary(known, questions)),
        ]
    print(f"store / loop over SQLite: {rows[0]['seconds'] / rows[2]['seconds']:.2f}")
    file = write_results("answers", rows, settings=case, started=started, load=load, file=options.out)
    print(f"\n{file}\n\n{table_of_file(file)}")


if __name__ == "__main__":
    main()
