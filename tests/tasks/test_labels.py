"""Labels from files and from pairs; rankings from pairs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.contract import DataError, SpecError
from tasks.judged import labels, rankings_of_pairs
from tasks.kinds import Preferences
from tests.answers import rows
from tests.tasks.reading import Step, bot, rows_of, user
from tests.workspace import Workspace

GOOD, BAD = {"prompt": "q", "completion": "yes", "label": True}, {"prompt": "q", "completion": "no", "label": False}


def judged(table: Any) -> list[tuple[str, bool]]:
    return [(r["completion"], r["label"]) for r in rows_of(table)]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (True, False),
        (1, 0),
        ("1", "0"),
        (1.0, -1),
        ("thumbs_up", "thumbs_down"),
        ("Thumbs up", "thumbs-down"),
        ("👍", "👎"),
    ],
)
def test_labels_are_bools_numbers_or_words(good: Any, bad: Any, tmp_path: Path) -> None:
    step = Step(tmp_path)
    assert judged(step.labels([{**GOOD, "label": good}, {**BAD, "label": bad}])) == [("yes", True), ("no", False)]
    assert "prompts with answers (prompt, completion, label), each with its label" in step.work.notices[0]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": user("q"), "completion": bot("yes")}, {"messages": [*user("q"), *bot("yes")]},
        {"instruction": "q", "output": "yes"}, {"prompt": "q", "response": "yes"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}]},
    ],
    ids=["conversational", "messages", "Alpaca", "response", "ShareGPT"],
)  # fmt: skip
def test_every_form_of_single_answers_may_have_a_label(row: dict[str, Any], tmp_path: Path) -> None:
    step = Step(tmp_path)
    found = rows_of(step.labels([{**row, "label": 1}, {**row, "label": 0}]))
    assert [(r["prompt"], r["completion"], r["label"]) for r in found] == [(user("q"), "yes", b) for b in (True, False)]
    assert len({r["completion_id"] for r in found}) == 2
    assert "not used" not in step.work.notices[0]


def test_rows_without_a_usable_label_are_skipped_and_listed(tmp_path: Path) -> None:
    step = Step(tmp_path)
    unusable = [{**GOOD, "label": None}, {**GOOD, "label": ""}, {**GOOD, "label": 4}, {**GOOD, "label": 0.7}]
    assert len(step.labels([GOOD, BAD, *unusable])) == 2
    missing, allowed = "label is missing or null", "use true or false, 1 or 0, thumbs_up or thumbs_down, desirable"
    assert step.reasons[:2] == [missing, missing]
    assert [r.startswith(f"invalid label {x}; {allowed}") for r, x in zip(step.reasons[2:], (4, 0.7), strict=True)]
    with pytest.raises(DataError, match=r"4 of 6 rows \(66.7%\) cannot be used"):
        Step(tmp_path, max_skipped=0.1).labels([GOOD, BAD, *unusable])


def test_labels_of_a_table_of_texts_are_words(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prompt,completion,label\nq,yes,TRUE\nq,no,0\nq,odd,\n")
    step = Step(tmp_path)
    assert judged(step.labels(file)) == [("yes", True), ("no", False)]
    assert step.reasons == ["label is missing or null"]


def test_labels_are_divided_into_splits_by_their_prompts(tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"q {i}"} for i in range(200) for row in (GOOD, BAD)]
    sizes = {split: len(Step(tmp_path).labels(rows, split)) for split in ("rm", "policy", "gate", "heldout")}
    assert sum(sizes.values()) == 400
    assert all(n % 2 == 0 and n for n in sizes.values())


def test_empty_answers_stay_for_tokenize_to_count(tmp_path: Path) -> None:
    assert judged(Step(tmp_path).labels([GOOD, {**BAD, "completion": ""}])) == [("yes", True), ("", False)]


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 2 usable answers have the label True, but a loss of labels needs"):
        Step(tmp_path).labels([GOOD, GOOD])
    ratings = [{**GOOD, "label": n} for n in (1, 5, 3)]
    with pytest.raises(
        DataError, match=r"all 1 usable answers have the label True \(2 rows cannot be used: invalid label"
    ):
        Step(tmp_path).labels(ratings)


def test_answers_without_labels_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no labels: its rows are prompts with answers \(prompt, completion\)"):
        Step(tmp_path).labels([{"prompt": "q", "completion": "yes"}])


def test_a_file_of_pairs_gives_two_labels_each(tmp_path: Path) -> None:
    step = Step(tmp_path)
    table = step.labels(
        [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "c", "rejected": "c"}]
    )
    assert judged(table) == [("a", True), ("b", False)]
    assert step.reasons == ["both answers are equal, so neither is the desirable one"]


def test_a_label_of_demonstrations_in_another_form_stays_unused(tmp_path: Path) -> None:
    step = Step(tmp_path)
    step.demonstrations([{"instruction": "q", "output": "a", "label": "gpt-4"}])
    assert "columns not used: label" in step.work.notices[0]


def preferences(*pairs: tuple[str, str, str], tokens: bool = True) -> Preferences:
    """Pairs as (prompt, chosen, rejected); an answer's id is its prompt and text."""
    return Preferences.of(pa.Table.from_pylist([
        {
            "prompt_id": x, "prompt": user(f"ask {x}"), "chosen_id": f"{x}/{a}", "rejected_id": f"{x}/{b}", "chosen": a,
            "rejected": b, "prompt_tokens": [1], "chosen_tokens": [len(a)] if tokens else None,
            "rejected_tokens": [len(b)], "chosen_ended": False, "weight": 0.5, "p": 0.8,
        }
        for x, a, b in pairs
    ], Preferences.SCHEMA), {"template": "abc"})  # fmt: skip


def test_both_answers_of_a_pair_get_a_label(tmp_path: Path) -> None:
    found = labels(preferences(("x", "aa", "b")), Workspace(tmp_path))
    good, bad = rows(found)
    assert (good["completion"], good["label"], good["completion_tokens"], good["completion_ended"]) == (
        "aa",
        True,
        [2],
        False,
    )
    assert (bad["completion"], bad["label"], bad["completion_tokens"], bad["completion_ended"]) == (
        "b",
        False,
        [1],
        None,
    )
    assert (good["prompt_tokens"], good["weight"], found.metadata) == ([1], 0.5, {"template": "abc"})


def test_an_answer_has_a_row_for_each_of_its_pairs(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    found = rows(labels(preferences(("x", "a", "b"), ("x", "a", "c"), ("x", "c", "a"), ("y", "d", " d ")), work))
    assert [r["label"] for r in found if r["completion"] == "a"] == [True, True, False]  # its mean is P(desirable)
    assert len({r["completion_id"] for r in found}) == len(found) == 6
    assert work.totals == {"pairs": 4, "pairs_identical": 1}
    assert work.notices == ["1 of 4 pairs have two equal answers and give no label"]
    with pytest.raises(DataError, match="no label is left: 1 of 1 pairs"):
        labels(preferences(("y", "d", "d")), Workspace(tmp_path / "2"))


def test_answers_are_ranked_by_the_share_of_pairs_that_they_won(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    table = preferences(
        ("x", "b", "a"), ("y", "e", "d"), ("x", "b", "c"), ("x", "a", "c"), ("z", "f", "g"), ("z", "g", "f")
    )
    x, y = rows(rankings_of_pairs(table, work))
    assert (x["prompt_id"], x["completions"], x["scores"]) == ("x", ["a", "b", "c"], [0.5, 1.0, 0.0])
    assert (x["completions_tokens"], x["completion_ids"]) == ([[1]] * 3, ["x/a", "x/b", "x/c"])
    assert x["completions_ended"] == [False, False, True]  # chosen answers of these pairs were cut
    assert (y["completions"], y["scores"]) == (["d", "e"], [0.0, 1.0])
    assert work.totals == {"prompts": 3, "prompts_level": 1}
    bare = rows(rankings_of_pairs(preferences(("x", "a", "b"), tokens=False), Workspace(tmp_path / "2")))
    assert bare[0]["completions_tokens"] is None
