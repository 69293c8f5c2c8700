"""People as an oracle: the step waits for them, and then has what they answered."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contract import SpecError, Waiting
from tasks.judge import compare
from tasks.judging.opening import open_oracle, session_of
from tasks.oracles.people import identity, people
from tasks.people.survey import Survey, Terms, next_question
from tasks.people.votes import preference
from tests.answers import completions
from tests.tasks.people.asked import judged
from tests.workspace import Workspace


@pytest.mark.parametrize(
    ("choices", "mean", "majority"),
    [
        (["x"], 1.0, 1.0), (["y"], 0.0, 0.0), (["tie"], 0.5, 0.5), (["skip"], None, None), ([], None, None),
        (["x", "x", "tie"], 5 / 6, 1.0), (["x", "y"], 0.5, 0.5), (["y", "tie", "skip"], 0.25, 0.0),
    ],
)  # fmt: skip
def test_votes_become_a_probability(choices: list[str], mean: float | None, majority: float | None) -> None:
    assert (preference(choices, "mean"), preference(choices, "majority")) == (mean, majority)


def _compare(folder: Path, step: str, texts: list[str], **how: Any) -> list[dict[str, Any]]:
    """The rows that `compare` makes of the answers to one prompt, as the step of a run."""
    work = Workspace(folder / step)
    work.answers = folder / "answers"
    table = completions({"p": texts})
    made = compare(table, people(survey="round1", **how), work)
    return made.table.to_pylist()


def _answer_all(folder: Path, annotator: str, winner: str) -> int:
    """Let a person prefer one text wherever it is, and call all other pairs a tie."""
    survey, count = Survey(folder / "answers", "round1"), 0
    while question := next_question(survey, annotator):
        choice = {question.x: "x", question.y: "y"}.get(winner, "tie")
        survey.judge(judged(question.id, annotator, choice, at=2e9))
        count += 1
    survey.close()
    return count


def test_a_step_waits_until_every_pair_has_its_judgements(tmp_path: Path) -> None:
    with pytest.raises(
        Waiting, match=r"3 of 3 pairs are not judged yet .6 judgements are missing.*alignflow judge round1"
    ):
        _compare(tmp_path, "one", ["a", "b", "c"], annotators=2)
    assert _answer_all(tmp_path, "ana", "b") == 3
    with pytest.raises(Waiting, match=r"3 of 3 pairs .* .3 judgements are missing"):
        _compare(tmp_path, "one", ["a", "b", "c"], annotators=2)
    assert _answer_all(tmp_path, "bob", "c") == 3
    p = {(r["a_id"][-1:], r["b_id"][-1:]): r["p"] for r in _compare(tmp_path, "one", ["a", "b", "c"], annotators=2)}
    assert sorted(p.values()) == [0.25, 0.25, 0.5]  # a–b: b, tie; a–c: tie, c; b–c: b, c
    assert all(r["first"] is None for r in _compare(tmp_path, "two", ["a", "b", "c"], annotators=2))


def test_another_run_asks_only_what_nobody_has_judged_and_more_people_where_it_needs_them(tmp_path: Path) -> None:
    with pytest.raises(Waiting):
        _compare(tmp_path, "one", ["a", "b"])
    assert _answer_all(tmp_path, "ana", "a") == 1
    assert [r["p"] for r in _compare(tmp_path, "two", ["b", "a"])] == [0.0]
    with pytest.raises(Waiting, match="2 of 3 pairs"):
        _compare(tmp_path, "three", ["a", "b", "c"])
    with pytest.raises(Waiting, match=r"1 of 1 pairs are not judged yet .1 judgements"):
        _compare(tmp_path, "four", ["a", "b"], annotators=2)


def test_skipped_pairs_are_null_and_votes_can_be_a_majority(tmp_path: Path) -> None:
    with pytest.raises(Waiting):
        _compare(tmp_path, "one", ["a", "b"], annotators=3)
    survey = Survey(tmp_path / "answers", "round1")
    [question] = survey.questions()
    for annotator, choice in (("ana", "x"), ("bob", "x"), ("cy", "tie")):
        survey.judge(judged(question.id, annotator, choice))
    assert [r["p"] for r in _compare(tmp_path, "one", ["a", "b"], annotators=3)] == pytest.approx([5 / 6])
    majority = _compare(tmp_path, "two", ["b", "a"], annotators=3, combine="majority")
    assert [r["p"] for r in majority] == [0.0]
    with pytest.raises(Waiting):
        _compare(tmp_path, "three", ["a", "d"])
    skipped = next(q for q in survey.questions() if not q.judged)
    survey.judge(judged(skipped.id, "ana", "skip"))
    assert [r["p"] for r in _compare(tmp_path, "three", ["a", "d"])] == [None]


def test_usage_counts_what_was_judged_for_this_step_and_what_before(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "one")
    arguments = ([[{"role": "user", "content": "q ?"}]] * 2, ["a", "a"], ["b", "c"], [None, None])
    with pytest.raises(Waiting):
        open_oracle(people(survey="s"), "auto", work).compare(*arguments)
    survey = Survey(work.answers, "s")
    for question, at in zip(survey.questions(), (1.0, 4e9), strict=True):  # long before the step asked, and after it
        survey.judge(judged(question.id, "ana", "x", at))
    live = open_oracle(people(survey="s"), "auto", work)
    assert live.compare(*arguments) == [1.0, 1.0]
    usage = session_of(live).usage
    assert (usage.asked, usage.reused, usage.seconds) == (1, 1, 2.0)


def test_the_step_says_how_far_its_people_agree(tmp_path: Path) -> None:
    """Ana and Bob on four pairs of four prompts: x x y y and x x y x, so the same on 3 of 4; κ = (.75 − .5) / .5."""
    work = Workspace(tmp_path / "one")
    prompts = [[{"role": "user", "content": str(i)}] for i in range(4)]
    arguments = (prompts, ["a"] * 4, ["b"] * 4, [None] * 4)
    with pytest.raises(Waiting):
        open_oracle(people(survey="s", annotators=2), "auto", work).compare(*arguments)
    survey = Survey(work.answers, "s")
    survey.post("another", [(prompts[0], "c", "d")], 1, Terms())  # of another step, which counts not here
    ids = [q.id for q in survey.questions()]
    survey.judge_all([judged(id, "ana", c) for id, c in zip(ids, "xxyyx", strict=True)])
    survey.judge_all([judged(id, "bob", c) for id, c in zip(ids, "xxyx", strict=False)])
    live = open_oracle(people(survey="s", annotators=2), "auto", work)
    assert live.compare(*arguments) == [1.0, 1.0, 0.0, 0.5]
    assert work.totals["annotators"] == 2
    between, of_all = work.notices
    assert between.startswith("ana and bob: the same verdict on 0.75")
    assert "of the pairs of 4 prompts, Cohen's kappa 0.50" in between
    assert of_all.startswith("all 2: Fleiss' kappa 0.47")  # P̄ = .75, P̄_e = (5/8)² + (3/8)² = 17/32; (24 − 17)/(32 − 17)
    assert "Krippendorff's alpha 0.53" in of_all  # 1 − (n − 1)·2·1 / (n² − 5² − 3²), n = 8: 1 − 14/30


def test_a_wrong_name_is_refused_before_anything_runs() -> None:
    with pytest.raises(SpecError, match="'Round 1' cannot name a survey"):
        identity(survey="Round 1")


def test_people_get_all_questions_of_a_step_at_once(tmp_path: Path) -> None:
    with pytest.raises(Waiting, match="300 of 300 pairs"):
        _compare(tmp_path, "one", [str(i) for i in range(25)])
