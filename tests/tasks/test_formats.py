"""Formats of rows as they are published: what is read of each, what is skipped with which reason, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import DataError
from tasks.formats.answers import SCORES
from tests.tasks.reading import Step, bot, rows_of, user

SKY, BLUE, RED = "Why is the sky blue ?", "The sky scatters blue light .", "The sea is blue ."
SYSTEM = [{"role": "system", "content": "You are terse ."}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {}}}]


def read(tmp_path: Path, *rows: Mapping[str, Any], **params: Any) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Pairs, the reasons of the rows that were skipped, and the notices."""
    step = Step(tmp_path)
    table = step.pairs(rows, **params)
    return rows_of(table), step.reasons, step.work.notices


GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}
SIDES = {"chosen": BLUE, "rejected": RED}
PUBLISHED = {
    "Intel/orca_dpo_pairs": {"system": SYSTEM[0]["content"], "question": SKY, **SIDES},
    "a system column beside a prompt": {"system": SYSTEM[0]["content"], "prompt": SKY, **SIDES},
    "a system column beside whole conversations": {
        "system_prompt": SYSTEM[0]["content"], "chosen": [*user(SKY), *bot(BLUE)],
        "rejected": [*user(SKY), *bot(RED)],
    },
    "the system turn in the prompt only": {
        "prompt": [*SYSTEM, *user(SKY)], "chosen": [*user(SKY), *bot(BLUE)], "rejected": [*user(SKY), *bot(RED)],
    },
    "ShareGPT pairs": {
        "conversations": [{"from": "system", "value": SYSTEM[0]["content"]}, {"from": "human", "value": SKY}],
        "chosen": {"from": "gpt", "value": BLUE}, "rejected": {"from": "gpt", "value": RED},
    },
    "text parts": {
        "prompt": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in (("system", "You are terse ."),
                                                                                     ("user", SKY))],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": BLUE}]}], "rejected": bot(RED),
    },
}  # fmt: skip


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_the_system_turn_the_question_and_both_answers_are_read_whole(row: dict[str, Any], tmp_path: Path) -> None:
    ((pair,), skipped, _) = read(tmp_path, row)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([*SYSTEM, *user(SKY)], BLUE, RED)
    assert skipped == []


PLAIN = {
    "Alpaca pairs": ({"instruction": "Name one .", "input": "that eats fish"}, "Name one .\n\nthat eats fish"),
    "Alpaca pairs without input": ({"instruction": "Name one .", "input": ""}, "Name one ."),
    "an empty system column": ({"system": "", "question": SKY}, SKY),
    "a query": ({"query": SKY}, SKY),
    "a prompt beside a question": ({"prompt": SKY, "question": "What else ?"}, SKY),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "text"), PLAIN.values(), ids=PLAIN)
def test_the_prompt_is_what_its_column_says_and_never_letters_that_the_answers_share(
    columns: dict[str, str], text: str, tmp_path: Path
) -> None:
    ((pair,), *_) = read(tmp_path, {**columns, **SIDES})
    assert (pair["prompt"], pair["chosen"]) == (user(text), BLUE)


def test_the_run_says_the_format_its_columns_and_those_that_are_not_used(tmp_path: Path) -> None:
    *_, notices = read(tmp_path, {"question": SKY, **SIDES, "tools": [{"name": "w"}], "id": "1", "note": "n"})
    assert notices == ["rows.jsonl is read as pairs (question, chosen, rejected, tools); columns not used: id, note"]


@pytest.mark.parametrize(
    ("names", "group"),
    [(("subset",), "math"), (("category", "subset"), None), (("group", "subset"), "math"), (("topic",), "math")],
)
def test_groups_are_those_of_the_only_column_that_names_them(
    names: tuple[str, ...], group: str | None, tmp_path: Path
) -> None:
    (pair,), _, notices = read(tmp_path, {"prompt": SKY, **SIDES, **dict.fromkeys(names, "math")})
    assert pair["group"] == group
    assert (f"groups are those of the column {names[0]}" in notices[0]) == (group is not None and "group" not in names)


def test_shared_text_is_a_prompt_up_to_a_border_between_words_only(tmp_path: Path) -> None:
    ((pair,), skipped, _) = read(tmp_path, SIDES, {"chosen": "skyward", "rejected": "skylight"})
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
        user("The"), "sky scatters blue light .", "sea is blue ."
    )  # fmt: skip
    assert skipped == ["chosen and rejected have no common prefix that could be the prompt"]


def test_a_text_column_that_could_be_the_prompt_is_never_ignored_for_shared_letters(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"\['chosen', 'id', 'question_text', 'rejected'\].*question_text could be the prompt: rename"
    ):
        read(tmp_path, {"question_text": SKY, "id": "row 1", **SIDES})
    with pytest.raises(DataError, match=r"could be the column 'question' or 'query': rename the right one to 'prompt'"):
        read(tmp_path, {"question": SKY, "query": SKY, **SIDES})


def test_the_format_is_decided_over_all_rows_and_a_row_without_its_columns_is_skipped(tmp_path: Path) -> None:
    pairs, skipped, _ = read(tmp_path, SIDES, {"prompt": SKY, **SIDES})
    assert [pair["prompt"] for pair in pairs] == [user(SKY)]
    assert skipped == ["prompt is missing or null"]


def test_pku_saferlhf_names_the_better_response_by_its_number(tmp_path: Path) -> None:
    sides = {"prompt": SKY, "response_0": RED, "response_1": BLUE}
    rows = ({**sides, "better_response_id": 1, "safer_response_id": 0}, {**sides, "better_response_id": 2})
    (pair,), skipped, notices = read(tmp_path, *rows)
    assert (pair["chosen"], pair["rejected"]) == (BLUE, RED)
    assert skipped == ["invalid better_response_id 2; the answers have the numbers 0 and 1"]
    assert "columns not used: safer_response_id" in notices[0]


def test_messages_that_follow_the_prompt_and_are_shared_belong_to_it(tmp_path: Path) -> None:
    shared = [*bot("Let me look ."), {"role": "tool", "content": "sunny"}]
    row = {"prompt": [*SYSTEM, *user(SKY)], "chosen": [*shared, *bot(BLUE)], "rejected": [*shared, *bot(RED)]}
    apart = row | {"rejected": [*bot("No ."), *shared[1:], *bot(RED)]}
    (pair,), skipped, _ = read(tmp_path, row, apart)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([*SYSTEM, *user(SKY), *shared], BLUE, RED)
    assert skipped == ["the two conversations differ before their last turn"]


def test_a_conversation_that_answers_another_prompt_is_no_pair(tmp_path: Path) -> None:
    whole = [
        {"prompt": SKY, "chosen": [*user(q), *bot("a")], "rejected": [*user(q), *bot("b")]} for q in (SKY, "Else ?")
    ]
    pairs, skipped, _ = read(tmp_path, *whole)
    assert len(pairs) == 1
    assert skipped == ["the conversation in the answer column does not contain the prompt"]


def test_an_answer_that_calls_a_tool_and_an_image_are_skipped_with_their_reason(tmp_path: Path) -> None:
    called = [{"role": "assistant", "content": None, "tool_calls": CALL}]
    image = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": SKY}]}]
    _, skipped, _ = read(tmp_path, GOOD, GOOD | {"chosen": called}, GOOD | {"prompt": image})
    assert skipped == [
        "the answer calls tools (tool_calls), but an answer must be text",
        "a message has a part of type 'image'; only text is supported",
    ]


def test_a_system_turn_goes_before_the_users_message_on_request(tmp_path: Path) -> None:
    ((pair,), *_) = read(tmp_path, PUBLISHED["Intel/orca_dpo_pairs"], system="into_user")
    assert pair["prompt"] == user(f"You are terse .\n\n{SKY}")


def test_a_system_column_that_contradicts_the_conversation_is_no_prompt(tmp_path: Path) -> None:
    _, skipped, _ = read(tmp_path, GOOD, {**GOOD, "system": "Be kind .", "prompt": [*SYSTEM, *user(SKY)]})
    assert skipped == ["the system column differs from the conversation's own system turn"]


def test_answers_keep_their_spaces_but_those_of_a_dialogue_lose_the_one_that_separates(tmp_path: Path) -> None:
    code, dialogue, _ = read(
        tmp_path, {"prompt": "f", "chosen": "    return 1\n", "rejected": bot("  pass")},
        {"prompt": "\n\nHuman: f\n\nAssistant:", "chosen": " yes", "rejected": " no"},
        {"prompt": "g", "chosen": "x", "rejected": "y"},
    )[0]  # fmt: skip
    assert (code["chosen"], code["rejected"]) == ("    return 1\n", "  pass")
    assert (dialogue["chosen"], dialogue["rejected"]) == ("yes", "no")


def test_a_dialogue_with_the_line_ends_of_windows_is_a_dialogue(tmp_path: Path) -> None:
    begun = "\r\n\r\nHuman: hi\r\n\r\nAssistant: hello\r\n\r\nHuman: f\r\n\r\nAssistant:"
    ((pair,), *_) = read(tmp_path, {"chosen": begun + " yes", "rejected": begun + " no"})
    assert (pair["prompt"], pair["chosen"]) == ([*user("hi"), *bot("hello"), *user("f")], "yes")


SCORED = (
    {**GOOD, "score_chosen": 8.0, "score_rejected": 2.0}, {**GOOD, "score_chosen": 5.0, "score_rejected": 5.0},
    {**GOOD, "score_chosen": 2.0, "score_rejected": 8.0, "p": 0.25}, {**GOOD, "margin": -1.0},
    {**GOOD, "margin": float("inf")}, {**GOOD, "margin": 0.0},
)  # fmt: skip


@pytest.mark.parametrize(
    ("doubtful", "margins", "first"),
    [("skip", [6, 0], "aa"), ("swap", [6, 6, 1, 0], "abba"), ("keep", [6, 0, -6, -1, 0], "aaaaa")],
)
def test_a_pair_whose_scores_speak_against_it_is_skipped_swapped_or_kept_as_asked(
    doubtful: str, margins: list[float], first: str, tmp_path: Path
) -> None:
    pairs, skipped, _ = read(tmp_path, *SCORED, doubtful=doubtful)
    assert [pair["margin"] for pair in pairs] == margins
    assert "".join(pair["chosen"] for pair in pairs) == first
    assert [pair["p"] for pair in pairs if pair["p"]] == (
        [0.75] if doubtful == "swap" else [0.25] * (doubtful == "keep")
    )
    assert "invalid margin = inf; it must be finite" in skipped
    assert len(pairs) + len(skipped) == len(SCORED)


@pytest.mark.parametrize(("better", "worse"), SCORES)
def test_scores_are_found_under_the_names_that_data_sets_give_them(better: str, worse: str, tmp_path: Path) -> None:
    pairs, skipped, notices = read(tmp_path, {**GOOD, better: 8, worse: 2}, {**GOOD, better: 2, worse: 8})
    assert [pair["margin"] for pair in pairs] == [6]
    assert skipped == ["the rejected answer is better by the row's own scores or margin"]
    assert "not used" not in notices[0]


def test_copies_and_contradictions_are_counted_in_a_notice_and_kept(tmp_path: Path) -> None:
    other = {"prompt": "q", "chosen": "b", "rejected": "a"}
    pairs, _, notices = read(tmp_path, GOOD, GOOD, other, {**GOOD, "rejected": " a "})
    assert len(pairs) == 4
    assert "copies of an earlier pair: 1, contradictions (the same answers also occur inverted): 3, " in notices[1]
    assert notices[1].endswith("answers that differ only in whitespace at their ends: 1")


LABELS = {
    "good": (True, 1, "1", "True", "true", "thumbs_up", "Thumbs up", "thumbs-up", "👍", "desirable", None),
    "bad": (False, 0, "0", "False", 0.0, -1, "thumbs_down", "down", "undesirable"),
}


def test_labels_are_numbers_or_words_and_others_are_skipped(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": c, "label": label} for c, several in LABELS.items() for label in several]
    rows += [{"prompt": "q", "completion": "odd", "label": label} for label in ("rejected", 2)]
    step = Step(tmp_path)
    table = step.demonstrations(rows)
    assert table.table["completion"].to_pylist() == ["good"] * len(LABELS["good"])
    allowed = "true or false, 1 or 0, thumbs_up or thumbs_down, desirable or undesirable"
    assert step.reasons == [f"invalid label {label}; use {allowed}" for label in ("'rejected'", "2")]


CONVERSATIONS = {
    "ShareGPT": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "ShareGPT by columns": {"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}},
    "an answer in a list": {"prompt": "q", "completion": ["a"]},
    "an answer without a role": {"prompt": "q", "completion": [{"content": "a"}]},
    "Alpaca": {"instruction": "q", "input": "", "output": "a", "history": []},
    "Dolly": {"instruction": "q", "context": "", "response": "a", "category": "qa"},
    "OpenOrca": {"system_prompt": "", "question": "q", "response": "a"},
    "UltraChat": {"prompt": "q", "messages": [*user("q"), *bot("a")]},
}  # fmt: skip


@pytest.mark.parametrize("row", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_demonstrations_are_read_as_they_are_published(row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = rows_of(Step(tmp_path).demonstrations([row]))
    assert (found["prompt"], found["completion"]) == (user("q"), "a")


def test_earlier_turns_of_an_instruction_come_before_it(tmp_path: Path) -> None:
    row = {"instruction": "and now ?", "output": "a", "history": [["first ?", "yes"]]}
    (found,) = rows_of(Step(tmp_path).demonstrations([row]))
    assert found["prompt"] == [*user("first ?"), *bot("yes"), *user("and now ?")]


def test_a_conversation_that_ends_with_the_user_is_a_prompt_and_no_demonstration(tmp_path: Path) -> None:
    rows = [{"messages": [*user("q"), *bot("a"), *user("thanks")]}, {"messages": [*user("p"), *bot("a")]}]
    assert len(Step(tmp_path, max_skipped=0).prompts(rows)) == 2
    step = Step(tmp_path)
    assert [row["prompt"] for row in rows_of(step.demonstrations(rows))] == [user("p")]
    assert step.reasons == ["it has no answer"]


def test_a_source_that_loses_more_than_the_stated_share_stops_with_counts_reasons_and_places(tmp_path: Path) -> None:
    rows = [GOOD] * 8 + [GOOD | {"chosen": 7}, GOOD | {"prompt": ""}]
    with pytest.raises(DataError) as error:
        Step(tmp_path, max_skipped=0.1).pairs(rows)
    file, reason = tmp_path / "rows.jsonl", "an answer must be a string or a list of messages, not int"
    assert str(error.value) == (
        f"rows.jsonl: 2 of 10 rows (20.0%) cannot be used as pairs (prompt, chosen, rejected), and max_skipped = 0.1 "
        f"allows fewer: {reason} (1), the prompt is empty (1); the first: {file}:9 ({reason}); {file}:10 (the prompt "
        "is empty). Correct them, or raise max_skipped to go on without them"
    )
    assert len(Step(tmp_path, max_skipped=0.2).pairs(rows)) == 8


COLUMNAR = {
    "lists": {"prompt": ["q", "p"], "chosen": ["a", "c"], "rejected": ["b", "d"]},
    "pandas": {"prompt": {"0": "q", "1": "p"}, "chosen": {"0": "a", "1": "c"}, "rejected": {"0": "b", "1": "d"}},
    "under data": {"data": [GOOD, {"prompt": "p", "chosen": "c", "rejected": "d"}]},
}  # fmt: skip


@pytest.mark.parametrize("whole", COLUMNAR.values(), ids=COLUMNAR)
def test_json_by_columns_is_read_as_rows(whole: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps(whole))
    rows = rows_of(Step(tmp_path).pairs(tmp_path / "pairs.json"))
    assert [(r["prompt"][0]["content"], r["chosen"], r["rejected"]) for r in rows] == [("q", "a", "b"), ("p", "c", "d")]


@pytest.mark.parametrize("row", [CONVERSATIONS["ShareGPT"], {"messages": [*user("q"), *bot("a")], "tools": []}])
def test_one_row_of_conversations_is_a_row_and_no_columns(row: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=1))
    assert len(Step(tmp_path).demonstrations(tmp_path / "rows.json")) == 1


@pytest.mark.parametrize(
    ("whole", "message"),
    [({"columns": ["prompt"], "index": [0], "data": [["q"]]}, "orient='records'"),
     ({"prompt": ["q", "p"], "chosen": ["a"]}, r"have \[2, 1\] values")],
)  # fmt: skip
def test_json_of_another_layout_is_refused_with_what_to_do(whole: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match=message):
        Step(tmp_path).prompts(tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [("pairs.csv", "prompt,chosen,rejected\r\nq,a,b\r\n"), ("pairs.tsv", "prompt\tchosen\trejected\r\nq\ta\tb\r\n"),
     ("pairs.jsonl", json.dumps(GOOD)), ("pairs.json", json.dumps([GOOD]))],
)  # fmt: skip
def test_a_byte_order_mark_as_windows_writes_it_is_no_part_of_a_column(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    (pair,) = rows_of(Step(tmp_path).pairs(tmp_path / name))
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (user("q"), "a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [("prompt;chosen\nq;a\n", "separate columns by ','"), ("prompt,chosen\nq,a,b\n", "row 1 has more than 2 fields")],
)
def test_a_csv_file_whose_columns_do_not_add_up_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Step(tmp_path).prompts(tmp_path / "pairs.csv")


@pytest.mark.parametrize("text", [json.dumps(bot("a")), str(bot("a"))], ids=["JSON", "Python"])
def test_messages_that_a_csv_file_holds_as_text_are_no_answer(text: str, tmp_path: Path) -> None:
    _, skipped, _ = read(tmp_path, GOOD, GOOD | {"chosen": text}, GOOD | {"prompt": text})
    assert skipped == ["a list of messages was saved as text: save the table as .jsonl or .parquet instead of .csv"] * 2


def test_numbers_of_a_csv_file_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,score_chosen,score_rejected,weight\nq,a,b,8.5,6,2\n")
    (pair,) = rows_of(Step(tmp_path).pairs(tmp_path / "pairs.csv"))
    assert (pair["margin"], pair["weight"]) == (2.5, 2.0)
