"""Verdicts of several annotators in files: which columns, which words, and whose ids."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Preferences, WinProbs
from tasks.load import load_judgements, read_preferences
from tests.answers import rows
from tests.tasks.reading import write
from tests.workspace import Workspace

PANDA = {"instruction": "what is 2+2?", "input": "", "response1": "5", "response2": "4"}


def votes(*of: Any) -> dict[str, Any]:
    return {f"annotator{n}": vote for n, vote in enumerate(of, 1)}


def read(folder: Path, data: list[dict[str, Any]], **options: Any) -> tuple[WinProbs, Workspace]:
    folder.mkdir(parents=True, exist_ok=True)
    source = Chosen("sources", "path", {"path": str(write(folder / "rows.jsonl", data))})
    work = Workspace(folder / "work")
    return load_judgements(work, source=source, split="all", **options), work


def verdicts(table: WinProbs) -> list[tuple[str | None, float | None]]:
    return [(r["annotator"], r["p"]) for r in rows(table)]


def test_each_annotator_has_a_row_about_the_first_answer(tmp_path: Path) -> None:
    table, work = read(tmp_path, [{**PANDA, **votes(2, 2, 1)}])
    assert verdicts(table) == [("annotator1", 0.0), ("annotator2", 0.0), ("annotator3", 1.0)]
    assert "with the verdicts of annotator1, annotator2, annotator3" in work.notices[0]


def test_ties_are_verdicts_and_ids_are_those_of_the_pairs(tmp_path: Path) -> None:
    data = [{**PANDA, **votes(1, 0, 0)}, {**PANDA, **votes(0, 0, 0)}, {**PANDA, "response1": "six", **votes(2, 2, 1)}]
    table, _ = read(tmp_path, data)
    assert [p for _, p in verdicts(table)] == [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 1]
    source = Chosen("sources", "path", {"path": str(tmp_path / "rows.jsonl"), "doubtful": "keep"})
    pairs = read_preferences(Workspace(tmp_path / "pairs"), source=source, split="all")
    assert isinstance(pairs, Preferences)
    of_pairs = [(r["prompt_id"], r["chosen_id"], r["rejected_id"]) for r in rows(pairs)]
    of_pairs[2] = (of_pairs[2][0], of_pairs[2][2], of_pairs[2][1])  # its second answer is the chosen one
    assert [(r["prompt_id"], r["a_id"], r["b_id"]) for r in rows(table)][::3] == of_pairs


def test_other_columns_may_be_named_and_unclear_values_are_missing_answers(tmp_path: Path) -> None:
    data = [{**PANDA, **votes(1, 1, 1), "judge": w} for w in ("1", "2", "Tie", "B", "garbage")]
    table, work = read(tmp_path, data, annotators=["judge"])
    assert verdicts(table) == [("judge", p) for p in (1.0, 0.0, 0.5, 0.0, None)]
    assert any("1 of 5 verdicts are missing or unclear" in n for n in work.notices)
    with pytest.raises(SpecError, match=r"no row has the column 'juge' \(did you mean 'judge'\?\)"):
        read(tmp_path / "typo", data, annotators=["juge"])
    with pytest.raises(DataError, match="none of the 5 values of 'instruction' is a verdict"):
        read(tmp_path / "texts", data, annotators=["instruction"])


def test_a_column_that_numbers_the_answers_from_0_is_refused(tmp_path: Path) -> None:
    data = [{**PANDA, **votes(1, 1, 1), "better": n} for n in (0, 1, 1, 0)]
    with pytest.raises(DataError, match="better have 0 and 1 and never 2, so they seem to number the answers from 0"):
        read(tmp_path, data, annotators=["better"])


@pytest.mark.parametrize(
    ("row", "p"),
    [
        ({"prompt": "q", "chosen": "x", "rejected": "y"}, 1.0),
        ({"prompt": "q", "chosen": "x", "rejected": "y", "p": 0.7}, 0.7),
        ({"input": "q", "output_1": "x", "output_2": "y", "label": 2}, 0.0),
        ({"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0}, 1.0),
    ],
)
def test_pairs_without_verdicts_have_their_label(row: dict[str, Any], p: float, tmp_path: Path) -> None:
    assert verdicts(read(tmp_path, [row])[0]) == [(None, p)]


def test_two_answers_with_a_winner_or_with_annotators_are_pairs(tmp_path: Path) -> None:
    data = [
        {"prompt": "q", "response_a": "x", "response_b": "y", "winner": w}
        for w in ("model_a", "model_b", "tie", "tie (bothbad)")
    ]
    table, work = read(tmp_path, data)
    assert "pairs with verdicts (prompt, response_a, response_b, winner)" in work.notices[0]
    assert verdicts(table) == [("winner", 1.0), ("winner", 0.0), ("winner", 0.5), ("winner", 0.5)]
    source = Chosen("sources", "path", {"path": str(tmp_path / "rows.jsonl")})
    pairs = read_preferences(Workspace(tmp_path / "pairs"), source=source, split="all", max_skipped=0.5)
    assert [(r["chosen"], r["rejected"]) for r in rows(pairs)] == [("x", "y"), ("y", "x")]
    both = {"prompt": "q", "answer_1": "x", "answer_2": "y"}
    several = [{**both, "annotator_kim": "A", "annotator_lee": None}, {**both, "annotator_lee": "B"}]
    table, _ = read(tmp_path / "several", several)
    assert [p for _, p in verdicts(table)] == [1.0, None, None, 0.0]
