"""Rankings and the best of K out of scored answers; golden answers against sampled ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.contract import DataError
from tasks.judge import score
from tasks.kinds import Completions, Demonstrations, Scores
from tasks.select import best, gold_pairs, rankings
from tests.answers import completions, rows, scorer
from tests.workspace import Workspace

TEMPLATE = {"template": "abc"}


def scored(texts: Mapping[str, Sequence[str]], scores: Mapping[str, float | None], folder: Path) -> Scores:
    return score(completions(texts, metadata=TEMPLATE), scorer(scores), Workspace(folder / "score"))


def golden(texts: Mapping[str, Sequence[str]]) -> Demonstrations:
    return Demonstrations.of(pa.Table.from_pylist([
        {"prompt_id": p, "prompt": [{"role": "user", "content": f"ask {p}"}], "completion_id": f"gold {p} {i}",
         "completion": text}
        for p, answers in texts.items() for i, text in enumerate(answers)
    ]))  # fmt: skip


def test_a_ranking_holds_the_scored_answers_of_a_prompt_in_the_order_of_their_draws(tmp_path: Path) -> None:
    table = scored(
        {"x": ["a", "bb", "a", "none"], "y": ["bb", "ccc"]}, {"a": 1, "bb": 3, "ccc": 2, "none": None}, tmp_path
    )
    work = Workspace(tmp_path / "r")
    found = rankings(table, work)
    assert found.metadata == TEMPLATE
    x, y = rows(found)
    assert x["completion_ids"] == ["x/0/0", "x/0/1", "x/0/2"]
    assert x["completions"] == ["a", "bb", "a"]
    assert x["scores"] == [1, 3, 1]
    assert x["completions_tokens"] == [[3], [3, 3], [3]]
    assert x["prompt"] == [{"role": "user", "content": "ask x", "extra": None}]
    assert x["prompt_tokens"] == [1, 2]
    assert (y["prompt_id"], y["completion_ids"], y["scores"]) == ("y", ["y/0/0", "y/0/1"], [3, 2])
    assert work.totals == {"prompts": 2, "prompts_short": 0, "prompts_level": 0, "answers_unscored": 1}


def test_prompts_without_an_order_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = {"short": ["a", "none"], "level": ["a", "a", "a"], "good": ["b", "a"], "none": ["none"]}
    table, work = scored(texts, {"a": 1, "b": 2, "none": None}, tmp_path), Workspace(tmp_path / "r")
    assert [r["prompt_id"] for r in rows(rankings(table, work))] == ["good"]
    assert work.totals == {"prompts": 4, "prompts_short": 2, "prompts_level": 1, "answers_unscored": 2}
    assert work.notices == [
        "3 of 4 prompts left out: 2 with fewer than two scored answers, 1 whose answers all have the same score"
    ]


def test_scores_of_one_class_only_are_refused(tmp_path: Path) -> None:
    table = scored({"x": ["a", "b"], "y": ["a", "a"]}, {"a": 1, "b": 1}, tmp_path)
    with pytest.raises(DataError, match="none of 2 prompts is left: 2 whose answers all have the same score"):
        rankings(table, Workspace(tmp_path / "r"))


def test_an_answer_without_tokens_leaves_them_to_tokenize(tmp_path: Path) -> None:
    table = scored({"x": ["a", "b"]}, {"a": 1, "b": 2}, tmp_path)
    place = table.table.column_names.index("completion_tokens")
    field = table.table.schema.field(place)
    bare = Scores.of(table.table.set_column(place, field, pa.array([[3], None], field.type)), table.metadata)
    assert rows(rankings(bare, Workspace(tmp_path / "r")))[0]["completions_tokens"] is None


def test_the_best_answer_has_the_highest_score_and_of_equal_ones_the_first_is_taken(tmp_path: Path) -> None:
    texts = {"x": ["a", "b", "c"], "y": ["c", "b", "a", "d"]}
    found = best(scored(texts, {"a": 1, "b": 5, "c": 5, "d": None}, tmp_path), Workspace(tmp_path / "b"))
    assert type(found) is Completions
    assert found.metadata == TEMPLATE
    assert [(r["completion_id"], r["completion"]) for r in rows(found)] == [("x/0/1", "b"), ("y/0/0", "c")]
    assert rows(found)[0]["completion_tokens"] == [3]


def test_empty_answers_are_never_the_best(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "b")
    table = scored({"x": ["", "a"], "y": [" ", ""], "z": ["none"]}, {"": 9, " ": 9, "a": 1, "none": None}, tmp_path)
    assert [r["completion_id"] for r in rows(best(table, work))] == ["x/0/1"]
    assert work.totals == {"prompts": 3, "prompts_without_answer": 2, "answers": 1}
    empty = scored({"x": [""]}, {"": 1}, tmp_path / "empty")
    with pytest.raises(DataError, match="none of 1 prompts is left: 1 without an answer that is scored and not empty"):
        best(empty, Workspace(tmp_path / "none"))


def test_the_n_best_are_different_texts_best_first(tmp_path: Path) -> None:
    texts = {"x": ["a", "b", "b", "c"], "y": ["a", "a"]}
    found = best(scored(texts, {"a": 1, "b": 3, "c": 2}, tmp_path), Workspace(tmp_path / "b"), n=3)
    assert [r["completion_id"] for r in rows(found)] == ["x/0/1", "x/0/3", "x/0/0", "y/0/0"]


def test_every_sample_meets_a_golden_answer_to_its_prompt(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    told = golden({"y": ["gold y"], "x": ["one", "two"], "unasked": ["gold"]})
    sampled = completions({"x": ["a", "b", "c"], "y": ["d"]}, metadata=TEMPLATE)
    found = gold_pairs(told, sampled, work, weight=0.025)
    assert [(r["chosen_id"], r["chosen"], r["rejected_id"], r["rejected"]) for r in rows(found)] == [
        ("gold y 0", "gold y", "y/0/0", "d"), ("gold x 0", "one", "x/0/0", "a"), ("gold x 1", "two", "x/0/1", "b"),
        ("gold x 0", "one", "x/0/2", "c"),
    ]  # fmt: skip
    for r in rows(found):
        assert (r["weight"], r["source"], r["p"], r["margin"]) == (0.025, "gold", None, None)
        assert r["prompt_id"] in r["chosen_id"]
        assert r["prompt_id"] == r["rejected_id"][0]
        assert (r["prompt_tokens"], r["chosen_tokens"], r["rejected_tokens"]) == ([1, 2], None, [3])
    assert found.metadata == TEMPLATE
    assert work.totals == {"prompts": 3, "prompts_unsampled": 1, "pairs": 4, "pairs_identical": 0}


def test_a_sample_that_equals_the_golden_answer_makes_no_pair(tmp_path: Path) -> None:
    work, told = Workspace(tmp_path / "1"), golden({"x": ["gold"]})
    found = gold_pairs(told, completions({"x": ["gold", "a", " gold "]}), work, weight=1.0)
    assert [r["rejected"] for r in rows(found)] == ["a"]
    assert work.notices == ["2 of 3 samples equal their golden answer and make no pair"]
    with pytest.raises(DataError, match="no pair is left: 1 of 1 samples equal"):
        gold_pairs(told, completions({"x": ["gold"]}), Workspace(tmp_path / "2"), weight=1.0)


def test_a_sample_of_a_prompt_without_a_golden_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 2 prompts of `completions`"):
        gold_pairs(golden({"x": ["gold"]}), completions({"x": ["a"], "y": ["b"]}), Workspace(tmp_path), weight=1.0)
