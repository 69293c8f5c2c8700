import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.answers.store import Answer
from tasks.contract import DataError, SpecError
from tasks.judge import compare
from tasks.judging.opening import open_oracle, session_of
from tasks.judging.session import Session, Usage
from tasks.kinds import Oracle, Scorer
from tests.answers import completions, rows
from tests.workspace import Workspace

PROMPTS = [[{"role": "user", "content": "which ?"}]]


def step(folder: Path, name: str) -> Workspace:
    """The workspace of one of several steps with a common store of answers."""
    return Workspace(folder / name, folder / "answers")


class Server:
    """Answers with the length of a question, and writes down what it is asked."""

    def __init__(self, *fails: str) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def ask(self, questions: Sequence[str]) -> Any:
        def answers(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
            self.asked += [questions[i] for i in numbers]
            for i in reversed(numbers):
                if questions[i] not in self._fails:
                    yield i, Answer(len(questions[i]), questions[i], tokens_in=10, tokens_out=1, cost=0.5)

        return answers


def test_equal_questions_are_asked_once_and_answers_keep_the_order_of_the_questions(tmp_path: Path) -> None:
    server, session = Server(), Session(Workspace(tmp_path))
    questions = ["a", "bb", "a", "ccc"]
    found = session.answers("judge", questions, server.ask(questions))
    assert [a and a.value for a in found] == [1, 2, 1, 3]
    assert server.asked == ["a", "bb", "ccc"]
    assert session.usage == Usage(asked=3, tokens_in=30, tokens_out=3, cost=1.5)


def test_another_step_reuses_the_answers_and_asks_only_the_others(tmp_path: Path) -> None:
    server = Server()
    Session(step(tmp_path, "first")).answers("judge", ["a", "bb"], server.ask(["a", "bb"]))
    session = Session(step(tmp_path, "second"))
    found = session.answers("judge", ["ccc", "bb", "a"], server.ask(["ccc", "bb", "a"]))
    assert [a and a.raw for a in found] == ["ccc", "bb", "a"]
    assert server.asked == ["a", "bb", "ccc"]
    assert (session.usage.asked, session.usage.reused) == (1, 2)


def test_a_failed_question_is_none_and_is_asked_again_next_time(tmp_path: Path) -> None:
    session = Session(Workspace(tmp_path))
    assert session.answers("judge", ["a", "bb"], Server("a").ask(["a", "bb"]))[0] is None
    assert session.usage.failed == 1
    again = Server()
    assert session.answers("judge", ["a", "bb"], again.ask(["a", "bb"]))[0] == Answer(1, "a", 10, 1, 0.0, 0.5)
    assert again.asked == ["a"]


def test_a_later_attempt_at_a_step_counts_what_the_earlier_one_paid_and_reuses_only_what_others_did(
    tmp_path: Path,
) -> None:
    server = Server()
    Session(step(tmp_path, "other")).answers("judge", ["a"], server.ask(["a"]))
    Session(step(tmp_path, "killed")).answers("judge", ["a", "bb"], server.ask(["a", "bb"]))
    again = Session(step(tmp_path, "killed"))
    again.answers("judge", ["bb", "ccc"], server.ask(["bb", "ccc"]))
    assert server.asked == ["a", "bb", "ccc"]
    assert again.usage == Usage(asked=2, reused=1, tokens_in=20, tokens_out=2, cost=1.0)


def test_what_a_request_without_an_answer_cost_is_counted(tmp_path: Path) -> None:
    session = Session(Workspace(tmp_path))
    session.pay(tokens_in=7, cost=0.25)
    assert Session(Workspace(tmp_path)).usage == session.usage == Usage(tokens_in=7, cost=0.25)


def test_a_step_that_stops_in_the_middle_keeps_what_was_answered(tmp_path: Path) -> None:
    def stops(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        yield 1, Answer(0.5)
        raise DataError("max_cost is used up")

    with pytest.raises(DataError, match="used up"):
        Session(step(tmp_path, "stopped")).answers("judge", ["a", "bb", "ccc"], stops)
    server = Server()
    session = Session(step(tmp_path, "next"))
    assert session.answers("judge", ["a", "bb", "ccc"], server.ask(["a", "bb", "ccc"]))[1] == Answer(0.5)
    assert server.asked == ["a", "ccc"]


def test_what_another_session_is_asking_is_waited_for_and_not_asked(tmp_path: Path) -> None:
    slow, quick = Server(), Server()
    begun = threading.Event()

    def slowly(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        begun.set()
        time.sleep(0.3)
        yield from slow.ask(["a", "bb"])(numbers)

    first = threading.Thread(target=Session(step(tmp_path, "first")).answers, args=("judge", ["a", "bb"], slowly))
    first.start()
    begun.wait()
    second = Session(step(tmp_path, "second"))
    found = second.answers("judge", ["ccc", "a"], quick.ask(["ccc", "a"]))
    first.join()
    assert [a and a.value for a in found] == [3, 1]
    assert (slow.asked, quick.asked) == (["a", "bb"], ["ccc"])
    assert (second.usage.asked, second.usage.reused) == (1, 1)


def test_what_failed_for_another_session_is_asked_here(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def fails(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        begun.set()
        may_end.wait()
        yield from ()

    first = threading.Thread(target=Session(step(tmp_path, "first")).answers, args=("judge", ["a"], fails))
    first.start()
    begun.wait()
    threading.Timer(0.1, may_end.set).start()
    server = Server()
    assert Session(step(tmp_path, "second")).answers("judge", ["a"], server.ask(["a"])) == [
        Answer(1, "a", 10, 1, 0.0, 0.5)
    ]
    first.join()


def test_an_oracle_that_asks_gets_the_session_of_the_step(tmp_path: Path) -> None:
    def compare(prompts: Any, a: Any, b: Any, truths: Any, session: Session) -> list[float]:
        session.usage.asked += len(a)
        return [0.75] * len(a)

    oracle = Oracle.asking(compare=compare)
    assert not oracle.antisymmetric
    with pytest.raises(SpecError, match="open_oracle"):
        oracle.compare(PROMPTS, ["x"], ["y"], [None])
    live = open_oracle(oracle, "auto", Workspace(tmp_path))
    assert live.compare(PROMPTS, ["x"], ["y"], [None]) == [0.75]
    assert session_of(live).usage.asked == 1


def test_a_scorer_that_asks_gets_the_session_too(tmp_path: Path) -> None:
    scorer = Scorer.asking(score=lambda prompts, texts, truths, session: [session.usage.asked for _ in texts], scale=2)
    assert scorer.scale == 2
    assert open_oracle(scorer, "auto", Workspace(tmp_path)).score(PROMPTS, ["x"], [None]) == [0]  # type: ignore[attr-defined]


def test_an_oracle_with_an_identity_is_queried_only_for_answers_that_no_step_has(tmp_path: Path) -> None:
    asked: list[str] = []

    def score(prompts: Any, texts: Sequence[str], truths: Any) -> list[float | None]:
        asked.extend(texts)
        return [None if text == "none" else float(len(text)) for text in texts]

    def judged(folder: str, *texts: str) -> list[float | None]:
        work = step(tmp_path, folder)
        oracle = Scorer.scoring(score, stored_as="by length, version 1")
        return [row["p"] for row in rows(compare(completions({"x": texts}), oracle, work))]

    first = judged("first", "a", "none", "ccc")
    second = judged("second", "ccc", "a", "none", "dddd")
    assert asked == ["a", "none", "ccc", "dddd"]
    assert first[1] == pytest.approx(1 - second[0])  # type: ignore[operator]
    assert second[1] is None
