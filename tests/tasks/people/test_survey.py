"""Surveys: what is asked, whom, in which order, and what is kept."""

import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tasks.contract import DataError, SpecError
from tasks.people.survey import Survey, Terms, next_question, on_left, question_id, survey_file, surveys
from tasks.people.upkeep import check_surveys
from tests.tasks.people.asked import IDS, PAIRS, judged, prompt, survey_of


def test_a_question_is_the_same_in_either_order_and_another_one_with_other_words() -> None:
    p, a, b = PAIRS[0]
    assert question_id(p, a, b) == question_id(p, b, a) == question_id([{**p[0], "extra": None}], a, b)  # type: ignore[dict-item]
    assert question_id(p, a, b + "!") != question_id(p, a, b) != question_id(prompt("cats?"), a, b)


def test_questions_keep_their_order_and_a_second_step_asks_none_of_them_again(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    survey.judge(judged(IDS[0], "ana", "x"))
    new = (prompt("eels ?"), "long", "short")
    assert survey.post("step-2", [(p, b, a) for p, a, b in [PAIRS[0], new]], 1, Terms()) == [IDS[0], question_id(*new)]
    questions = survey.questions("ana")
    assert [q.id for q in questions] == [*IDS, question_id(*new)]
    assert [(q.x, q.y) for q in questions[:2]] == [("bad", "good"), ("=1+1", "fine")]
    assert [q.complete for q in questions] == [True, False, False, False]
    assert [q.own for q in questions] == [True, False, False, False]
    assert survey.progress("ana") == (4, 1, 1, 3)
    assert survey.progress("bob") == (4, 1, 0, 3)


def test_more_judgements_are_needed_where_a_later_step_needs_more(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    survey.post("step-2", PAIRS[:1], 3, Terms())
    survey.post("step-3", PAIRS[:1], 2, Terms())
    assert [q.needed for q in survey.questions()] == [3, 1, 1]


def test_the_questions_of_the_latest_step_come_first_then_the_least_judged(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, needed=3)
    survey.post("step-2", PAIRS[1:], 3, Terms())
    survey.judge(judged(IDS[1], "bob", "x"))
    order = []
    while question := next_question(survey, "ana"):
        order.append(question.id)
        survey.judge(judged(question.id, "ana", "tie"))
    assert order == [IDS[2], IDS[1], IDS[0]]


def test_two_people_at_once_get_different_questions_where_one_judgement_is_enough(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    first = next_question(survey, "ana")
    assert first
    second = next_question(survey, "bob", {first.id: 1})
    assert second
    assert second.id != first.id
    everywhere = dict.fromkeys(IDS, 1)
    assert next_question(survey, "bob", everywhere) is not None, "rather twice than not at all"


def test_orders_and_sides_belong_to_the_person_and_the_question() -> None:
    questions = [question_id(prompt(str(i)), "a", "b") for i in range(400)]
    ana = [on_left(q, "ana") for q in questions]
    assert ana == [on_left(q, "ana") for q in questions]
    assert 160 < Counter(ana)["x"] < 240
    assert 160 < sum(a == on_left(q, "bob") for a, q in zip(ana, questions, strict=True)) < 240


def test_a_judgement_is_kept_once_and_undone_only_by_its_person(tmp_path: Path) -> None:
    survey = survey_of(tmp_path)
    survey.judge(judged(IDS[0], "ana", "x", at=1.0))
    survey.judge(judged(IDS[0], "ana", "x", at=2.0))  # the page repeats a request whose answer it did not get
    survey.judge(judged(IDS[1], "ana", "skip", at=3.0))
    survey.judge(judged(IDS[0], "bob", "y", at=4.0))
    with pytest.raises(DataError, match="before, and differently"):
        survey.judge(judged(IDS[0], "ana", "y"))
    assert [(j.annotator, j.choice, j.at) for j in survey.judgements()] == [
        ("ana", "x", 1.0), ("ana", "skip", 3.0), ("bob", "y", 4.0)
    ]  # fmt: skip
    assert [survey.undo("ana"), survey.undo("ana"), survey.undo("ana")] == [IDS[1], IDS[0], None]
    assert [j.annotator for j in survey.judgements()] == ["bob"]


@pytest.mark.parametrize(
    ("question", "annotator", "choice", "match"),
    [
        ("nought", "ana", "x", "no question nought"), (IDS[0], "ana", "tie", "not offered"),
        (IDS[0], "ana", "left", "not offered"), (IDS[0], "=cmd()", "x", "cannot be a person's name"),
        (IDS[0], "a" * 41, "x", "at most 40"), (IDS[0], "", "x", "begin with a letter"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_and_nothing_with_it(
    tmp_path: Path, question: str, annotator: str, choice: str, match: str
) -> None:
    survey = survey_of(tmp_path, ties=False)
    with pytest.raises(DataError, match=match):
        survey.judge_all([judged(IDS[1], "bob", "x"), judged(question, annotator, choice)])
    assert survey.judgements() == []


@pytest.mark.parametrize("name", ["", "../up", "Round1", "a/b", "-a", "a" * 64])
def test_a_survey_has_a_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="cannot name a survey"):
        Survey(tmp_path, name)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    survey_of(tmp_path).close()
    assert surveys(tmp_path) == ["round1"]
    survey_file(tmp_path, "round1").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"round1\.db is not a survey"):
        Survey(tmp_path, "round1")


def _judge_until_killed(folder: Path, ready: object) -> None:
    survey = Survey(folder, "round1")
    for i in range(10_000):
        survey.judge(judged(IDS[i % 3], f"p{i}", "x"))
        (folder / "last").write_text(str(i))
        if i == 30:
            os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_judged_survives_a_kill_while_another_process_judges(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, needed=1000)
    process = multiprocessing.get_context("fork").Process(target=_judge_until_killed, args=(tmp_path, None))
    process.start()
    for i in range(20):
        survey.judge(judged(IDS[0], f"here{i}", "y"))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = {j.annotator for j in survey.judgements()}
    assert {f"p{i}" for i in range(31)} | {f"here{i}" for i in range(20)} == kept


def test_a_damaged_survey_is_found_and_left_where_it_is(tmp_path: Path) -> None:
    survey = Survey(tmp_path, "large")
    survey.post("step", [(prompt(str(i)), "a" * 500, "b" * 500) for i in range(200)], 1, Terms())
    survey.close()
    survey_of(tmp_path).close()
    assert list(check_surveys(tmp_path)) == []
    file = survey_file(tmp_path, "large")
    content = bytearray(file.read_bytes())
    content[20_000:24_000] = b"x" * 4000
    file.write_bytes(content)
    [trouble] = check_surveys(tmp_path)
    assert "large.db is damaged (" in trouble
    assert ".recover` may save its judgements" in trouble
    assert file.exists()
