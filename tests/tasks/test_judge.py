import hashlib
import math
from pathlib import Path

import pytest
from scipy.special import expit

from tasks.contract import DataError, SpecError
from tasks.judge import compare, score
from tasks.kinds import Completions, Oracle, Scorer
from tests.answers import Judge, completions, rows, saved, scorer
from tests.workspace import Workspace

SCORES = {"long": 2.0, "short": -1.0, "mid": 0.5}


def test_all_unordered_pairs_of_a_prompt_are_compared_once(tmp_path: Path) -> None:
    table = completions({"x": ["long", "short", "mid"], "y": ["mid", "long"], "z": ["mid"]})
    work = Workspace(tmp_path)
    found = rows(compare(table, scorer(SCORES), work))
    assert [(r["a_id"], r["b_id"]) for r in found] == [
        ("x/0/0", "x/0/1"), ("x/0/0", "x/0/2"), ("x/0/1", "x/0/2"), ("y/0/0", "y/0/1"),
    ]  # fmt: skip
    assert [r["p"] for r in found] == pytest.approx([expit(3.0), expit(1.5), expit(-1.5), expit(-1.5)])
    assert {r["first"] for r in found} == {None}
    assert {r["prompt_id"] for r in found} == {"x", "y"}
    assert {"queries": 6, "unanswered": 0, "ties": 0.0, "nulls": 0.0}.items() <= work.totals.items()


def test_a_scorers_scale_multiplies_the_difference(tmp_path: Path) -> None:
    found = rows(compare(completions({"x": ["long", "short"]}), scorer(SCORES, scale=0.5), Workspace(tmp_path)))
    assert found[0]["p"] == pytest.approx(1 / (1 + math.exp(-0.5 * 3.0)))


def test_a_scorer_is_asked_once_per_distinct_prompt_text_and_truth(tmp_path: Path) -> None:
    table = completions({"x": ["mid", "mid", "long", "mid"], "y": ["mid"]}, truth='"t"')
    oracle = scorer(SCORES)
    found = rows(score(table, oracle, Workspace(tmp_path)))
    assert oracle.questions == [("ask x", "mid", '"t"'), ("ask x", "long", '"t"'), ("ask y", "mid", '"t"')]
    assert [r["score"] for r in found] == [0.5, 0.5, 2.0, 0.5, 0.5]


def test_scores_keep_the_rows_and_metadata_of_the_answers(tmp_path: Path) -> None:
    table = completions({"x": ["long", "short"], "y": ["mid"]}, metadata={"template": "abc"})
    found = score(table, scorer(SCORES), Workspace(tmp_path))
    assert found.table.select(Completions.SCHEMA.names).equals(table.table)
    assert found.metadata == {"template": "abc", "scale": "1.0"}


def test_a_question_without_an_answer_stays_null_and_is_counted(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    oracle = scorer({**SCORES, "mid": None})
    found = rows(compare(completions({"x": ["long", "mid", "short"]}), oracle, work))
    assert [r["p"] for r in found] == [None, pytest.approx(expit(3.0)), None]
    assert {"queries": 3, "unanswered": 1}.items() <= work.totals.items()
    assert work.totals["nulls"] == pytest.approx(2 / 3)
    assert "1 of 3 questions" in work.notices[0]


def test_an_antisymmetric_oracle_is_asked_once_per_unordered_pair_of_texts(tmp_path: Path) -> None:
    oracle = Judge({("a", "b"): 0.9, ("a", "c"): 0.2, ("b", "c"): 0.6}, antisymmetric=True)
    found = rows(compare(completions({"x": ["b", "a", "c", "b"]}), oracle, Workspace(tmp_path)))
    by_pair = {(r["a_id"][-1], r["b_id"][-1]): r["p"] for r in found}
    expected = {"01": 0.1, "02": 0.6, "03": 0.5, "12": 0.2, "13": 0.9, "23": 0.4}
    assert by_pair == pytest.approx({(k[0], k[1]): p for k, p in expected.items()})
    assert sorted("".join(sorted((x, y))) for _, x, y in oracle.questions) == ["ab", "ac", "bc"]


def test_an_oracle_with_an_order_is_asked_both_ways_and_p_is_always_of_a(tmp_path: Path) -> None:
    # It likes whatever it sees first by 0.1: P(a | a first) = 0.8, P(a | b first) = 0.6.
    oracle = Judge({("a", "b"): 0.8, ("b", "a"): 0.4}, antisymmetric=False)
    found = rows(compare(completions({"x": ["a", "b"]}), oracle, Workspace(tmp_path)))
    assert [(r["a_id"], r["b_id"], r["first"]) for r in found] == [("x/0/0", "x/0/1", "a"), ("x/0/0", "x/0/1", "b")]
    assert [r["p"] for r in found] == pytest.approx([0.8, 0.6])
    assert sorted(oracle.questions) == [("ask x", "a", "b"), ("ask x", "b", "a")]


def test_one_drawn_order_halves_the_questions_and_shows_each_side_first_sometimes(tmp_path: Path) -> None:
    texts = [str(i) for i in range(12)]
    table = {(x, y): 0.5 for x in texts for y in texts}
    oracle = Judge(table, antisymmetric=False)
    found = rows(compare(completions({"x": texts}), oracle, Workspace(tmp_path), orders="random"))
    assert len(found) == len(oracle.questions) == 66
    assert 20 < sum(r["first"] == "a" for r in found) < 46
    shown = {(r["a_id"], r["b_id"])[:: 1 if r["first"] == "a" else -1] for r in found}
    assert shown == {(f"x/0/{a}", f"x/0/{b}") for _, a, b in oracle.questions}


def test_two_tables_meet_by_prompt_each_answer_with_each(tmp_path: Path) -> None:
    ours = completions({"x": ["long", "short"], "y": ["mid", "mid"]})
    theirs = completions({"y": ["long"], "x": ["mid", "short", "long"]}, stream=1)
    found = rows(compare(ours, scorer(SCORES), Workspace(tmp_path), theirs))
    assert len(found) == 2 * 3 + 2 * 1
    texts = {r["completion_id"]: r["completion"] for t in (ours, theirs) for r in rows(t)}
    for r in found:
        assert r["a_id"].split("/")[:2] == [r["prompt_id"], "0"]
        assert r["b_id"].split("/")[:2] == [r["prompt_id"], "1"]
        assert r["p"] == pytest.approx(expit(SCORES[texts[r["a_id"]]] - SCORES[texts[r["b_id"]]]))


def test_two_sides_with_the_same_draws_are_refused(tmp_path: Path) -> None:
    table = completions({"x": ["long", "short"]})
    with pytest.raises(DataError, match="2 draws are on both sides"):
        compare(table, scorer(SCORES), Workspace(tmp_path), completions({"x": ["long", "short"]}))


@pytest.mark.parametrize("theirs", [{"x": ["mid"]}, {"x": ["mid"], "y": ["mid"], "z": ["mid"]}])
def test_two_sides_with_different_prompts_are_refused(tmp_path: Path, theirs: dict[str, list[str]]) -> None:
    ours = completions({"x": ["long"], "y": ["short"]})
    with pytest.raises(DataError, match=r"1 of [23] prompts"):
        compare(ours, scorer(SCORES), Workspace(tmp_path), completions(theirs, stream=1))


def test_only_a_scorer_scores(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only compares"):
        score(completions({"x": ["a"]}), Oracle.of(compare=lambda *_: []), Workspace(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize(("answer", "told"), [(math.nan, "nan"), (1.5, "a probability is"), (-0.1, "a probability is")])
def test_an_answer_that_is_no_probability_stops_the_step(tmp_path: Path, answer: float, told: str) -> None:
    oracle = Judge({("a", "b"): answer}, antisymmetric=True)
    with pytest.raises(DataError, match=told):
        compare(completions({"x": ["a", "b"]}), oracle, Workspace(tmp_path))


def test_too_few_answers_stop_the_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 answers to 1 questions"):
        score(completions({"x": ["a"]}), Scorer.scoring(lambda *_: []), Workspace(tmp_path))


@pytest.mark.parametrize("killed_after", [3, 130])
def test_a_killed_step_asks_nothing_twice_and_ends_in_the_same_bytes(tmp_path: Path, killed_after: int) -> None:
    texts = {f"p{i}": [f"t{i}{j}" for j in range(4)] for i in range(50)}
    scores = {t: (i * 7 % 11) / 3 for i, t in enumerate(t for ts in texts.values() for t in ts)}
    table = completions(texts)
    whole = compare(table, scorer(scores), Workspace(tmp_path / "whole"))
    first, second = scorer(scores, fail_after=killed_after), scorer(scores)
    with pytest.raises(KeyboardInterrupt):
        compare(table, first, Workspace(tmp_path / "cut"))
    work = Workspace(tmp_path / "cut")
    done = compare(table, second, work)
    assert len(first.questions) == killed_after // 64 * 64
    assert sorted(first.questions + second.questions) == sorted((f"ask {p}", t, None) for p in texts for t in texts[p])
    assert work.totals["queries"] == 200
    assert _digest(done.path) == _digest(whole.path)


def test_a_line_that_a_kill_cut_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    table = completions({f"p{i}": ["long", "short"] for i in range(70)})
    whole = score(table, scorer(SCORES), Workspace(tmp_path / "whole"))
    Workspace(tmp_path / "cut")
    lines = (tmp_path / "whole/work/scores.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / "cut/work/scores.jsonl").write_bytes(lines[0] + lines[1][:9])
    oracle = scorer(SCORES)
    done = score(table, oracle, Workspace(tmp_path / "cut"))
    assert len(oracle.questions) == 140 - 64
    assert _digest(done.path) == _digest(whole.path)
    assert (tmp_path / "cut/work/scores.jsonl").read_bytes() == b"".join(lines)


def test_scattered_rows_of_a_prompt_are_brought_together(tmp_path: Path) -> None:
    together = completions({"x": ["long", "short", "mid"], "y": ["mid", "long"]})
    scattered = Completions.of(together.table.take([0, 3, 1, 4, 2]))
    expected = compare(together, scorer(SCORES), Workspace(tmp_path / "1"))
    found = compare(saved(scattered, tmp_path / "table"), scorer(SCORES), Workspace(tmp_path / "2"))
    assert found.table.equals(expected.table)


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "table.arrow").read_bytes()).hexdigest()
