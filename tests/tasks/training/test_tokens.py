"""Token columns: what is kept, what is rendered, what is skipped and why."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.contract import DataError
from tasks.kinds import Completions, Demonstrations, Policy, Preferences
from tasks.template import template_digest, tokenizer_of
from tests.flat import tokenize
from tests.tasks.training.tables import demonstrations, message, preferences
from tests.workspace import Workspace


def _ids(policy: Policy, prompt: list[dict[str, str]], *answer: str) -> list[int]:
    """Ids of the conversation, by transformers alone."""
    turns = [*prompt, *({"role": "assistant", "content": text} for text in answer)]
    return list(tokenizer_of(policy).apply_chat_template(turns, return_dict=False, add_generation_prompt=not answer))


def _answer_ids(policy: Policy, text: str) -> list[int]:
    return _ids(policy, message("where ?"), text)[len(_ids(policy, message("where ?"))) :]


def _pair(name: str, chosen: str, rejected: str, prompt: str = "where ?") -> dict[str, Any]:
    return {"prompt_id": name, "prompt": message(prompt), "chosen_id": f"{name}-w", "rejected_id": f"{name}-l",
            "chosen": chosen, "rejected": rejected}  # fmt: skip


def _completion(name: str, text: str, reason: str, **tokens: list[int]) -> dict[str, Any]:
    return {"prompt_id": name, "prompt": message("where ?"), "completion_id": name, "completion": text, "stream": 0,
            "k": 0, "token_logps": [], "finish_reason": reason, **tokens}  # fmt: skip


def _of(kind: type, rows: list[dict[str, Any]], metadata: dict[str, str] | None = None) -> Any:
    return kind.of(pa.Table.from_pylist(rows), metadata)


def test_texts_become_the_templates_ids_with_an_eos(policy: Policy, tmp_path: Path) -> None:
    table = tokenize(policy, demonstrations(12), Workspace(tmp_path))
    tokenizer = tokenizer_of(policy)
    for row in table.table.to_pylist():
        assert row["prompt_tokens"] == _ids(policy, row["prompt"])
        assert row["prompt_tokens"] + row["completion_tokens"] == _ids(policy, row["prompt"], row["completion"])
        assert row["completion_tokens"][-1] == tokenizer.eos_token_id
    assert table.metadata["template"] == template_digest(policy)


def test_ids_of_another_template_are_rendered_again_and_it_says_so(policy: Policy, tmp_path: Path) -> None:
    odd = {"prompt_tokens": [1, 4, 5], "completion_tokens": [7, 7, 2]}
    work = Workspace(tmp_path)
    rows = [_completion("a", "the swan", "stop", **odd)]
    table = tokenize(policy, _of(Completions, rows, {"template": "another"}), work)
    assert table.table.column("completion_tokens")[0].as_py() == _answer_ids(policy, "the swan")
    assert "1 rows rendered again" in work.notices[0]


def test_bad_pairs_are_counted_listed_and_skipped(policy: Policy, tmp_path: Path) -> None:
    rows = [
        _pair("good", "the swan", "the fox"), _pair("blank", "  ", "the fox"), _pair("same", "the fox", "the fox"),
        _pair("none", "the swan", ""), _pair("long", "the swan " * 200, "the fox"),
        _pair("prompt", "the swan", "the fox", "where " * 200), _pair("fine", "fish", "roots"),
    ]  # fmt: skip
    work = Workspace(tmp_path)
    table = tokenize(policy, _of(Preferences, rows), work, max_length=100, max_skipped=1)
    assert table.table.column("prompt_id").to_pylist() == ["good", "fine"]
    skipped = [json.loads(line) for line in (table.path / "skipped.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in skipped] == [
        (2, "empty chosen"), (3, "identical sides"), (4, "empty rejected"), (5, "row longer than 100 tokens"),
        (6, "prompt longer than 99 tokens"),
    ]  # fmt: skip
    assert skipped[0]["chosen_id"] == "blank-w"
    assert work.totals == {"rows": 7, "rows_skipped": 5}
    assert "5 of 7 rows (71.4%) skipped" in work.notices[0]


def test_the_policys_positions_bound_the_rows(policy: Policy, tmp_path: Path) -> None:
    rows = [_pair("good", "the swan", "the fox"), _pair("long", "the swan " * 200, "the fox")]
    work = Workspace(tmp_path)
    assert len(tokenize(policy, _of(Preferences, rows), work, max_skipped=0.5)) == 1
    assert "longer than 128 tokens" in work.notices[0]


def test_a_table_with_no_good_row_is_an_error(policy: Policy, tmp_path: Path) -> None:
    data = _of(Preferences, [_pair("a", "x", "x"), _pair("b", "y", "y")])
    with pytest.raises(DataError, match=r"Preferences: no row can be used: identical sides \(2\)"):
        tokenize(policy, data, Workspace(tmp_path), max_skipped=1)


def test_more_skipped_rows_than_the_stated_share_are_an_error_but_those_that_a_policy_sampled_do_not_count(
    policy: Policy, tmp_path: Path
) -> None:
    written = [_pair(f"good {i}", "the swan", "the fox") for i in range(8)] + [_pair("same", "x", "x")] * 2
    with pytest.raises(
        DataError, match=r"2 of 10 rows \(20.0%\) cannot be used.*identical sides \(2\); the first: row 9"
    ):
        tokenize(policy, _of(Preferences, written), Workspace(tmp_path))
    tokens = {"prompt_tokens": [1, 4], "chosen_tokens": [7, 2], "rejected_tokens": [7, 2]}
    sampled = [
        _pair("good", "the swan", "the fox") | tokens | {"chosen_tokens": [8, 2]},
        _pair("same", "x", "x") | tokens,
    ]
    work = Workspace(tmp_path)
    assert len(tokenize(policy, _of(Preferences, sampled, {"template": template_digest(policy)}), work)) == 1
    assert "1 of 2 rows (50.0%) skipped: identical sides (1)" in work.notices[0]


def test_an_empty_sampled_answer_that_ended_is_an_answer(policy: Policy, tmp_path: Path) -> None:
    rows = [_completion("a", "", "stop", prompt_tokens=[1, 4], completion_tokens=[2])]
    data = _of(Completions, rows, {"template": template_digest(policy)})
    assert len(tokenize(policy, data, Workspace(tmp_path))) == 1


def test_nothing_skipped_means_no_companion_file_and_the_same_rows(policy: Policy, tmp_path: Path) -> None:
    data = preferences(9)
    table = tokenize(policy, data, Workspace(tmp_path))
    assert isinstance(table, Preferences)
    assert table.table.column("chosen").to_pylist() == data.table.column("chosen").to_pylist()
    assert not list((tmp_path / "output").iterdir())


def test_a_second_tokenize_changes_nothing(policy: Policy, tmp_path: Path) -> None:
    once = tokenize(policy, demonstrations(), Workspace(tmp_path / "a"))
    twice = tokenize(policy, once, Workspace(tmp_path / "b"))
    assert isinstance(twice, Demonstrations)
    assert twice.table.equals(once.table)
