from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.answers.store import Answer
from tasks.contract import SpecError
from tasks.judge import compare
from tasks.judging.opening import open_oracle, session_of
from tasks.judging.session import Session, Usage
from tasks.kinds import Oracle, Scorer
from tests.answers import completions, rows
from tests.workspace import Workspace

PROMPTS = [[{"role": "user", "content": "which ?"}]]


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
    Session(Workspace(tmp_path)).answers("judge", ["a", "bb"], server.ask(["a", "bb"]))
    session = Session(Workspace(tmp_path))
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
        work = Workspace(tmp_path / folder)
        work.answers = tmp_path / "answers"
        oracle = Scorer.scoring(score, stored_as="by length, version 1")
        return [row["p"] for row in rows(compare(completions({"x": texts}), oracle, work))]

    first = judged("first", "a", "none", "ccc")
    second = judged("second", "ccc", "a", "none", "dddd")
    assert asked == ["a", "none", "ccc", "dddd"]
    assert first[1] == pytest.approx(1 - second[0])  # type: ignore[operator]
    assert second[1] is None
