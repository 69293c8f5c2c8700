"""Rows that are too long: refused, or cut at the end that a wiring names; by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.contract import DataError
from tasks.kinds import Demonstrations, Policy, Preferences, Rankings, Table
from tasks.template import tokenizer_of
from tasks.training.truncation import cut_long_rows
from tests.flat import tokenize
from tests.tasks.training.tables import demonstrations, message, preferences
from tests.workspace import Workspace

BOS = 1


def _pairs(*rows: tuple[list[int], list[int], list[int]]) -> Preferences:
    return Preferences.of(pa.Table.from_pylist([
        {"prompt_id": f"p{i}", "prompt": message("x"), "chosen_id": "w", "rejected_id": "l", "chosen": "a",
         "rejected": "b", "prompt_tokens": prompt, "chosen_tokens": chosen, "rejected_tokens": rejected}
        for i, (prompt, chosen, rejected) in enumerate(rows)
    ]))  # fmt: skip


def _cut(table: Table, keep: str, longest: int = 6) -> tuple[list[dict[str, Any]], list[bool]]:
    data, rows = cut_long_rows(table, table.table, longest, keep, BOS)  # type: ignore[arg-type]
    names = [n for n in data.column_names if n.endswith("_tokens")]
    return data.select(names).to_pylist(), rows.tolist()


SHORT, LONG, LONG_SIDE = ([BOS, 5], [6], [7, 8]), ([BOS, 5, 6, 7, 8], [9, 10], [11, 12, 13]), ([BOS, 5], [6] * 9, [7])


def test_the_end_of_a_prompt_is_kept_behind_its_bos_and_answers_stay_whole() -> None:
    """6 tokens, of which the longer answer has 3: the prompt keeps 3, BOS and its last 2."""
    rows, cut = _cut(_pairs(SHORT, LONG), "keep_end")
    assert cut == [False, True]
    assert rows[0]["prompt_tokens"] == [BOS, 5]
    assert rows[1] == {"prompt_tokens": [BOS, 7, 8], "chosen_tokens": [9, 10], "rejected_tokens": [11, 12, 13]}


def test_the_start_of_answers_is_kept_and_the_shorter_one_may_stay_whole() -> None:
    """6 tokens, of which the prompt has 2: answers keep 4."""
    rows, cut = _cut(_pairs(SHORT, LONG_SIDE), "keep_start")
    assert cut == [False, True]
    assert rows[1] == {"prompt_tokens": [BOS, 5], "chosen_tokens": [6] * 4, "rejected_tokens": [7]}


@pytest.mark.parametrize(("row", "keep"), [(LONG_SIDE, "keep_end"), (([BOS] * 6, [2], [3]), "keep_start")])
def test_a_row_whose_kept_side_does_not_fit_alone_stays_too_long(row: Any, keep: str) -> None:
    rows, cut = _cut(_pairs(row), keep)
    assert cut == [False]
    assert rows == [dict(zip(("prompt_tokens", "chosen_tokens", "rejected_tokens"), row, strict=True))]


def test_each_answer_of_a_ranking_is_cut() -> None:
    table = Rankings.of(pa.Table.from_pylist([
        {"prompt_id": "p", "prompt": message("x"), "completion_ids": ["a", "b"], "completions": ["a", "b"],
         "prompt_tokens": [BOS, 5, 6, 7], "completions_tokens": [[8, 9, 10], [11]], "scores": [1.0, 0.0]}
    ]))  # fmt: skip
    assert _cut(table, "keep_start")[0][0]["completions_tokens"] == [[8, 9], [11]]
    assert _cut(table, "keep_end")[0][0]["prompt_tokens"] == [BOS, 6, 7]


def test_rows_are_refused_unless_a_wiring_says_which_end_to_cut(policy: Policy, tmp_path: Path) -> None:
    """Answers of up to 12 words; 16 tokens a row."""
    table = demonstrations(24)
    with pytest.raises(DataError, match="row longer than 16 tokens"):
        tokenize(policy, table, Workspace(tmp_path / "refuse"), max_length=16)
    for keep, what in (("keep_start", "the ends of their answers"), ("keep_end", "the beginnings of their prompts")):
        work = Workspace(tmp_path / keep)
        made = tokenize(policy, table, work, max_length=16, truncation=keep, max_skipped=1)
        rows = made.table.to_pylist()
        assert all(len(row["prompt_tokens"]) + len(row["completion_tokens"]) <= 16 for row in rows)
        cut = int(work.totals["rows_truncated"])
        assert cut > 0
        assert f"{cut} rows were longer than 16 tokens: {what} were cut off (truncation: {keep})" in work.notices
        eos = tokenizer_of(policy).eos_token_id
        assert (sum(row["completion_tokens"][-1] == eos for row in rows) < len(rows)) == (keep == "keep_start")


def test_without_long_rows_nothing_is_cut_or_said(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    for table in (demonstrations(4), preferences(4)):
        made = tokenize(policy, table, work, truncation="keep_end")
        assert made.table.equals(tokenize(policy, table, work).table)
    assert work.notices == []
    assert "rows_truncated" not in work.totals


def test_sampled_tokens_are_cut_too(policy: Policy, tmp_path: Path) -> None:
    ready = tokenize(policy, demonstrations(4), Workspace(tmp_path / "first"))
    work = Workspace(tmp_path / "second")
    longest = max(len(r["prompt_tokens"]) for r in ready.table.to_pylist()) + 2
    sampled = Demonstrations.of(ready.table, ready.metadata)
    made = tokenize(policy, sampled, work, max_length=longest, truncation="keep_start")
    sizes = [len(r["prompt_tokens"]) + len(r["completion_tokens"]) for r in made.table.to_pylist()]
    assert len(sizes) == 4
    assert max(sizes) == longest
