"""Tools: their definitions and calls go from a file's row to the chat template, in every layout that files have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ids import digest, prompt_id
from tasks.kinds import Policy, Rankings
from tasks.message import conversation_text, extra_of
from tasks.sampling.plan import sampling_plan
from tasks.training.classifier import Layout
from tests.families import CHATML, Family, expected, family
from tests.flat import tokenize
from tests.tasks.reading import Step, bot, rows_of, user
from tests.workspace import Workspace

_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
QWEN25 = (
    "{% if tools %}{{ '<|im_start|>system\nYou may call <tools>' }}{% for t in tools %}{{ '\n' + (t | tojson) }}"
    "{% endfor %}{{ '\n</tools><|im_end|>\n' }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    '{% for c in m.tool_calls or [] %}{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{{ '<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + _ASK
)
"""Qwen2.5 and Hermes write tools and calls so."""
NULL_CONTENT = (
    "{% if tools %}{{ 'Tools: ' + (tools | tojson) + '\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role }}{% if m.role == 'tool' %}{{ ' ' + m.name + ' ' + m.tool_call_id }}{% endif %}"
    "{% if m.content is none %}{% for c in m.tool_calls %}{{ '\n' + c.type + c.id + c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% else %}{{ '\n' + m.content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}" + _ASK
)
"""DeepSeek-V3 writes the calls only of messages whose content is null; Mistral reads ids and the names of results."""
ARGUMENTS = {"city": "Paris", "a": [1, 2.5, None], "ü": {"z": True}}
FUNCTION = {"name": "weather", "description": "It tells the weather .", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "sunny"}
TALK = [*user("Why is the sky blue ?"), CALLED, RESULT]
SIDES = {"chosen": bot("Because light scatters ."), "rejected": bot("No idea .")}


def _with(call: Mapping[str, Any]) -> list[Any]:
    return [TALK[0], {**CALLED, **call}, RESULT]


def _calling(arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": arguments}}]}


def _asked(policy: Policy, conversation: Any, tools: Any = TOOLS) -> list[int]:
    """Ids of the prompt by transformers alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy.path)
    return list(tokenizer.apply_chat_template(conversation, tools=tools, add_generation_prompt=True, return_dict=False))


def _whole(policy: Policy, answer: list[dict[str, str]]) -> list[int]:
    """Ids of prompt and answer, up to the end of the turn."""
    return expected(policy, [*TALK, *answer], "<|im_end|>", TOOLS)


def _family(folder: Path, template: str) -> Policy:
    return family(folder, Family(template, "byte", "<|im_end|>", "", (), "", ("<|im_start|>",)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    templates = {"qwen2.5": QWEN25, "null content": NULL_CONTENT, "chatml": CHATML}
    return {name: _family(tmp_path_factory.mktemp("family"), template) for name, template in templates.items()}


LAYOUTS: dict[str, dict[str, Any]] = {
    "OpenAI": {"prompt": TALK, "tools": TOOLS, **SIDES},
    "arguments and tools as JSON text": {
        "prompt": _with(_calling(json.dumps(ARGUMENTS))), "tools": json.dumps(TOOLS), **SIDES},
    "calls shared by both sides": {
        "prompt": TALK[:1], "tools": TOOLS, "chosen": [*TALK[1:], *SIDES["chosen"]],
        "rejected": [*TALK[1:], *SIDES["rejected"]]},
    "whole conversations, bare functions": {
        "tools": [FUNCTION], "chosen": [*TALK, *SIDES["chosen"]], "rejected": [*TALK, *SIDES["rejected"]]},
    "tools in the first message": {"prompt": [{**TALK[0], "tools": TOOLS}, *TALK[1:]], **SIDES},
}  # fmt: skip


@pytest.mark.parametrize("template", ["qwen2.5", "null content"])
@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_pairs_with_tools_are_the_templates_own_rendering(
    row: Any, template: str, made: dict[str, Policy], tmp_path: Path
) -> None:
    policy = made[template]
    pairs = Step(tmp_path).pairs([row])
    (shown,) = tokenize(policy, pairs, Workspace(tmp_path / "t")).table.to_pylist()
    assert shown["prompt_tokens"] == _asked(policy, TALK)
    for side in ("chosen", "rejected"):
        assert shown["prompt_tokens"] + shown[f"{side}_tokens"] == _whole(policy, SIDES[side])


def test_rankings_and_reward_models_read_the_same(made: dict[str, Policy], tmp_path: Path) -> None:
    policy, answers = made["qwen2.5"], ["Because light scatters .", "No idea ."]
    wholes = [_whole(policy, bot(text)) for text in answers]
    (row,) = rows_of(Step(tmp_path).prompts([LAYOUTS["OpenAI"]]))
    ranked = {"prompt_id": "p", "prompt": row["prompt"], "completion_ids": ["a", "b"], "completions": answers,
              "scores": [1.0, 0.0]}  # fmt: skip
    table = Rankings.of(pa.Table.from_pylist([ranked], Rankings.SCHEMA))
    (shown,) = tokenize(policy, table, Workspace(tmp_path / "t")).table.to_pylist()
    assert [shown["prompt_tokens"] + ids for ids in shown["completions_tokens"]] == wholes
    encoded = Layout(policy).encoded([row["prompt"]] * 2, answers)
    assert [row["input_ids"][:-1] for row in encoded if row] == wholes  # the newline behind the turn


def test_sharegpt_has_the_call_as_a_turn_of_its_own(made: dict[str, Policy], tmp_path: Path) -> None:
    row = {"tools": json.dumps([FUNCTION]), "conversations": [
        {"from": "human", "value": TALK[0]["content"]},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
        {"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "Because light scatters ."}]}  # fmt: skip
    policy, table = made["qwen2.5"], Step(tmp_path).demonstrations([row])
    (shown,) = tokenize(policy, table, Workspace(tmp_path / "t")).table.to_pylist()
    assert shown["prompt_tokens"] + shown["completion_tokens"] == _whole(policy, SIDES["chosen"])


def test_prompts_with_different_tools_are_sampled_each_with_its_own(made: dict[str, Policy], tmp_path: Path) -> None:
    other = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    rows = [{"prompt": TALK[:1], "tools": tools} for tools in (TOOLS, other, [])]
    prompts = Step(tmp_path).prompts(rows)
    policy = made["qwen2.5"]
    plan = sampling_plan(policy, prompts, 8, Workspace(tmp_path / "s"))
    assert plan.prompt_tokens == [_asked(policy, TALK[:1], tools) for tools in (TOOLS, other, None)]
    assert len(set(plan.prompt_ids)) == 3


def test_a_template_that_leaves_out_tools_or_calls_skips_the_row_and_says_so(
    made: dict[str, Policy], tmp_path: Path
) -> None:
    rows = [{"prompt": "q", **SIDES}, {"prompt": "q", "tools": TOOLS, **SIDES},
            {"prompt": _with({"content": "Let me look ."}), **SIDES}, {"prompt": TALK, **SIDES}]  # fmt: skip
    pairs = Step(tmp_path).pairs(rows)
    kept = tokenize(made["chatml"], pairs, Workspace(tmp_path / "t"), max_skipped=1.0)
    skipped = (kept.path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in skipped] == [
        "the chat template leaves out the tool definitions", "the chat template leaves out a tool call",
        'the chat template rejects it: can only concatenate str (not "NoneType") to str; it may not support tool calls',
    ]  # fmt: skip


def test_a_template_that_writes_only_the_first_of_two_calls_skips_the_row(tmp_path: Path) -> None:
    policy = _family(tmp_path / "first", QWEN25.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"))
    one, two = (_with({"tool_calls": [CALL | {"id": str(i)} for i in range(n)]}) for n in (1, 2))
    rows = [{"prompt": prompt, **SIDES} for prompt in (one, two)]
    pairs = Step(tmp_path).pairs(rows)
    kept = tokenize(policy, pairs, Workspace(tmp_path / "t"), max_skipped=1.0)
    assert len(kept) == 1
    assert "leaves out a tool call" in (kept.path / "skipped.jsonl").read_text()


BROKEN = {
    "a tool call has no function name": {"tool_calls": [{"type": "function"}]},
    "invalid JSON in the arguments of a tool call: 'Paris'": _calling("Paris"),
    "the arguments of a tool call must be an object, not list": _calling([1]),
}


@pytest.mark.parametrize(("reason", "call"), BROKEN.items(), ids=BROKEN)
def test_a_call_that_is_none_is_skipped_with_its_reason(reason: str, call: Any, tmp_path: Path) -> None:
    step = Step(tmp_path)
    step.pairs([{"prompt": _with(call), **SIDES}, LAYOUTS["OpenAI"]])
    assert step.reasons == [reason]


def test_a_tools_column_without_definitions_is_no_reason_to_lose_it_in_silence(tmp_path: Path) -> None:
    rows = [{"prompt": "q", **SIDES, "tools": tools} for tools in (["hammer"], "hammer", "", "[]", None, [])]
    step = Step(tmp_path)
    table = step.pairs(rows)
    assert step.reasons == [
        "`tools` must be a list of definitions with names; rename the column if it is something else",
        "invalid JSON in `tools`: 'hammer'",
    ]
    assert [row["prompt"] for row in rows_of(table)] == [user("q")] * 4


def test_a_system_turn_moved_into_the_users_message_takes_the_tools_along(tmp_path: Path) -> None:
    row = {"system": "You are terse .", "prompt": "q", "tools": TOOLS}
    (prompt,) = rows_of(Step(tmp_path).prompts([row], system="into_user"))
    assert prompt["prompt"] == [{**user("You are terse .\n\nq")[0], "extra": json.dumps({"tools": TOOLS})}]


def test_a_table_of_ours_is_read_with_its_tools(tmp_path: Path) -> None:
    once = Step(tmp_path / "a").pairs([LAYOUTS["OpenAI"]])
    once.frame.write_parquet(tmp_path / "again.parquet")
    again = Step(tmp_path / "b").pairs(tmp_path / "again.parquet")
    assert again.table["prompt_id"].equals(once.table["prompt_id"])
    assert again.table["prompt"].equals(once.table["prompt"])


def test_keys_that_parquet_adds_to_tools_and_calls_of_other_rows_are_not_theirs(tmp_path: Path) -> None:
    """Its structs have the keys of all rows: `city` of the one call would be null in the other's arguments."""
    rows = [
        {"prompt": _with({"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}), **SIDES,
         "tools": [{"name": name, "parameters": {key: {"type": "x"} for key in arguments}}]}
        for name, arguments in (("w", {"city": "Rome"}), ("t", {"zone": 1}))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    found = rows_of(Step(tmp_path).pairs(tmp_path / "pairs.parquet"))
    assert [extra_of(row["prompt"][1])["tool_calls"][0]["function"] for row in found] == [
        {"name": "w", "arguments": {"city": "Rome"}}, {"name": "t", "arguments": {"zone": 1}}
    ]  # fmt: skip
    assert [extra_of(row["prompt"][0])["tools"][0]["function"]["parameters"] for row in found] == [
        {"city": {"type": "x"}}, {"zone": {"type": "x"}}
    ]  # fmt: skip


def test_the_id_of_a_prompt_counts_its_tools_and_stays_what_it_was_without() -> None:
    plain = user("q")
    assert prompt_id(plain) == prompt_id([{**plain[0], "extra": None}]) == digest('[["user", "q"]]')  # type: ignore[dict-item]
    assert prompt_id([{**plain[0], "extra": '{"tools": [1]}'}]) != prompt_id(plain)


def test_people_are_shown_tools_and_calls(tmp_path: Path) -> None:
    (pair,) = rows_of(Step(tmp_path).pairs([LAYOUTS["OpenAI"]]))
    call = json.dumps(ARGUMENTS, ensure_ascii=False)
    assert conversation_text(pair["prompt"]) == (
        f"tools: weather\nuser: Why is the sky blue ?\nassistant calls weather({call})\ntool: sunny"
    )
