"""A step that is killed while its oracle asks: no question is asked again but those that were in flight.

A step here is a journal and a session, as in `compare`, without tables: polars cannot be used in a fork.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tasks.answers.store import Answer
from tasks.ids import digest
from tasks.judging.journal import Journal
from tasks.judging.opening import open_oracle
from tasks.judging.oracle_report import report_paid, report_queries
from tasks.judging.session import Session
from tasks.kinds import Oracle
from tests.workspace import Workspace


def asking(log: Path, kill_at: int = 0, per_call: int = 8) -> Oracle:
    """Writes down what it asks; kills its process in flight once so many were asked, by all attempts together."""

    def judge(prompts: Any, a: Sequence[str], b: Sequence[str], truths: Any, session: Session) -> list[float | None]:
        questions = [digest(*two) for two in zip(a, b, strict=True)]

        def ask(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
            for i in numbers:
                with log.open("a") as file:
                    file.write(questions[i] + "\n")
                if 0 < kill_at <= len(log.read_text().splitlines()):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield i, Answer(0.75, "A", 10, 1, cost=0.5)

        return [a and a.value for a in session.answers("fake judge", questions, ask)]

    oracle = Oracle.asking(compare=judge)
    oracle.questions_per_call = per_call
    return oracle


def killed(function: Any) -> bool:
    """Run it in a fork; returns whether that was killed."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def judged(folder: Path, name: str, oracle: Oracle, texts: Sequence[str]) -> tuple[Workspace, list[float]]:
    """One attempt at a step that compares every two texts, in both orders."""
    work = Workspace(folder / name, folder / "answers")
    live, pairs = open_oracle(oracle, "auto", work), [*permutations(texts, 2)]

    def query(shard: slice) -> Sequence[float | None]:
        a, b = zip(*pairs[shard], strict=True)
        return live.compare([[]] * len(a), a, b, [None] * len(a))

    with Journal(work.path / "answers.jsonl", work, live) as journal:
        found = journal.answers(len(pairs), query)
        report_queries(work, journal)
        report_paid(work)
    return work, found.tolist()


def test_killed_again_and_again_a_step_asks_only_what_was_in_flight_twice(tmp_path: Path) -> None:
    texts, log = [str(i) for i in range(8)], tmp_path / "asked"
    log.touch()
    kills = [3, 11, 12, 30, 57]
    for at in kills:
        assert killed(partial(judged, tmp_path, "step", asking(log, at), texts))
    work, found = judged(tmp_path, "step", asking(log), texts)
    assert found == [0.75] * 56
    counts = Counter(log.read_text().split())
    assert len(counts) == 56
    assert sum(counts.values()) == 56 + len(kills)
    assert {"queries": 56, "queries_asked": 56, "queries_reused": 0, "cost": 28.0}.items() <= work.totals.items()


def test_a_second_step_asks_nothing(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    judged(tmp_path, "first", asking(log), "abc")
    work, found = judged(tmp_path, "second", asking(log, per_call=1), "abc")
    assert found == [0.75] * 6
    assert len(log.read_text().split()) == 6
    assert {"queries_asked": 0, "queries_reused": 6}.items() <= work.totals.items()
    assert "cost" not in work.totals


@pytest.mark.slow
def test_three_steps_at_once_killed_at_random_ask_each_question_once_but_for_what_was_in_flight(tmp_path: Path) -> None:
    """Three processes with overlapping questions; each is killed and begun anew until it has finished."""
    random.seed(0)
    log, kills = tmp_path / "asked", 0
    log.touch()
    texts = [[str(i) for i in range(first, first + 24)] for first in (0, 8, 16)]
    running: dict[int, int] = {}
    left = [0, 1, 2]
    while left or running:
        for n in [n for n in left if n not in running.values()]:
            at = len(log.read_text().split()) + random.randrange(5, 300)
            child = os.fork()
            if child == 0:
                try:
                    judged(tmp_path, str(n), asking(log, at, per_call=64), texts[n])
                finally:
                    os._exit(0)
            running[child] = n
        child, status = os.wait()
        n = running.pop(child)
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            left.remove(n)
    counts = Counter(log.read_text().split())
    pairs = {two for first in (0, 8, 16) for two in permutations(range(first, first + 24), 2)}
    assert len(counts) == len(pairs)
    assert kills > 3
    assert sum(counts.values()) <= len(pairs) + kills
