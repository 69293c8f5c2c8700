"""What is trained on is what the model's own chat template renders: family by family, compared with transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.chat import Refusal
from tasks.contract import Chosen, DataError
from tasks.kinds import Completions, Demonstrations, Policy, Preferences, Prompts, Rankings
from tasks.rendering import AnswerText, Rendered, Template
from tasks.sampling.plan import sampling_plan
from tasks.select import concat, pairs
from tasks.template import stop_ids, template_digest, tokenizer_of
from tests.answers import completions, saved, win_probs
from tests.families import CHATML, FAMILIES, QWEN_BASE, Family, expected, family
from tests.flat import tokenize
from tests.workspace import Workspace

ASKED = [
    [{"role": "user", "content": "Why is the sky blue ?"}],
    [{"role": "user", "content": "  Tell me a story\nabout a cat . "}, {"role": "assistant", "content": "No idea ."},
     {"role": "user", "content": "Why ?"}],
]  # fmt: skip
GOOD = "Because light scatters ."
TEXTS = [GOOD, " Once upon a time", "No idea .\n", "\n\nlight\n\n", "```\n  code\n```", "a < b && naïve 🐱"]


def _pair(n: int, prompt: Any, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt_id": f"p{n}", "prompt": prompt, "chosen_id": f"w{n}", "rejected_id": f"l{n}", "chosen": chosen,
            "rejected": rejected, **more}  # fmt: skip


def _of(kind: Any, rows: list[dict[str, Any]], metadata: Mapping[str, str] | None = None) -> Any:
    return kind.of(pa.Table.from_pylist(rows, kind.SCHEMA), metadata)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    return {name: family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_answer_are_the_templates_own_rendering(made: dict[str, Policy], name: str, tmp_path: Path) -> None:
    policy, end = made[name], FAMILIES[name].end
    asked = [(prompt, text) for prompt in ASKED for text in TEXTS]
    wanted = [expected(policy, [*prompt, _answer(text)], end) for prompt, text in asked]

    rows = [
        {"prompt_id": f"p{i}", "prompt": p, "completion_id": f"c{i}", "completion": t} for i, (p, t) in enumerate(asked)
    ]
    shown = tokenize(policy, _of(Demonstrations, rows), Workspace(tmp_path / "d")).table.to_pylist()
    assert [row["prompt_tokens"] + row["completion_tokens"] for row in shown] == wanted

    rows = [_pair(i, prompt, text, "A stone .") for i, (prompt, text) in enumerate(asked)]
    pairs = tokenize(policy, _of(Preferences, rows), Workspace(tmp_path / "p")).table.to_pylist()
    assert [row["prompt_tokens"] + row["chosen_tokens"] for row in pairs] == wanted
    assert [row["prompt_tokens"] + row["rejected_tokens"] for row in pairs] == [
        expected(policy, [*prompt, _answer("A stone .")], end) for prompt, _ in asked
    ]

    rows = [{"prompt_id": f"p{i}", "prompt": prompt, "completion_ids": ["a", "b", "c"], "scores": [3.0, 2.0, 1.0],
             "completions": TEXTS[:3]} for i, prompt in enumerate(ASKED)]  # fmt: skip
    ranked = tokenize(policy, _of(Rankings, rows), Workspace(tmp_path / "r")).table.to_pylist()
    for row, prompt in zip(ranked, ASKED, strict=True):
        assert [row["prompt_tokens"] + ids for ids in row["completions_tokens"]] == [
            expected(policy, [*prompt, _answer(text)], end) for text in TEXTS[:3]
        ]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_with_the_templates_own_end_of_turn_and_a_cut_one_with_its_text(
    made: dict[str, Policy], name: str
) -> None:
    template, tokenizer = Template(made[name]), tokenizer_of(made[name])
    whole, cut = template.answers([AnswerText(ASKED[0], GOOD), AnswerText(ASKED[0], GOOD, ended=False)])
    assert isinstance(whole, Rendered)
    assert isinstance(cut, Rendered)
    assert tokenizer.convert_ids_to_tokens(whole.answer[-1]) == FAMILIES[name].end
    assert whole.answer[-1] in stop_ids(made[name])
    assert not stop_ids(made[name]) & set(cut.answer)
    assert tokenizer.decode(cut.answer).strip().removeprefix("<think>\n\n</think>\n\n") == GOOD


def test_qwens_base_model_is_refused_with_both_tokens_named(tmp_path: Path) -> None:
    policy = family(tmp_path / "base", QWEN_BASE)
    with pytest.raises(DataError, match=r"ends an answer with '<\|im_end\|>' \(id 2\), but sampling stops at "
                       r"'<\|endoftext\|>' \(id 1\): add 2 to eos_token_id in generation_config.json"):  # fmt: skip
        tokenize(policy, _of(Preferences, [_pair(0, ASKED[0], GOOD, "No .")]), Workspace(tmp_path / "w"))
    assert isinstance(Template(policy).prompts(ASKED)[0], list)  # sampling needs no end of turn


def test_further_stop_tokens_count_in_the_digest_of_the_template(tmp_path: Path) -> None:
    one, two = family(tmp_path / "a", QWEN_BASE), family(tmp_path / "b", "qwen3_base")
    assert template_digest(one) != template_digest(two)


def test_a_conversation_that_the_template_refuses_is_skipped_with_its_words(
    made: dict[str, Policy], tmp_path: Path
) -> None:
    system = [{"role": "system", "content": "You are terse ."}, *ASKED[0]]
    twice = [*ASKED[0], *ASKED[0]]
    rows = [_pair(i, prompt, GOOD, "No .") for i, prompt in enumerate([system, ASKED[0], twice])]
    work = Workspace(tmp_path)
    assert len(tokenize(made["gemma2"], _of(Preferences, rows), work, max_skipped=0.7)) == 1
    assert "the chat template rejects it: System role not supported; `system: into_user` of the" in work.notices[0]
    assert "the chat template rejects it: Conversation roles must alternate" in work.notices[0]

    prompts = _of(Prompts, [{"prompt_id": row["prompt_id"], "prompt": row["prompt"]} for row in rows])
    plan = sampling_plan(made["gemma2"], prompts, 8, work)
    assert plan.prompt_ids == ["p1"]
    assert "2 of 3 prompts skipped: 1 the chat template rejects it: System role" in work.notices[1]
    assert "(first: p2)" in work.notices[1]


def test_a_message_that_the_template_leaves_out_is_a_reason(tmp_path: Path) -> None:
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    policy = family(tmp_path / "deaf", FAMILIES["chatml"]._replace(template=deaf))
    (found,) = Template(policy).prompts([[{"role": "system", "content": "You are terse ."}, *ASKED[0]]])
    assert found == Refusal("the chat template leaves out the system message")


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}", "leaves out the user mess"),
     (CHATML.replace("add_generation_prompt", "false"),
      r"has no generation prompt: it writes '<\|im_start\|>assistant\\n'.*end the template with"),
     ("{% for m in messages %}{{ m.contents.text }}{% endfor %}", "cannot render a question")],
)  # fmt: skip
def test_a_template_that_cannot_serve_is_refused_with_what_to_do(tmp_path: Path, template: str, message: str) -> None:
    policy = family(tmp_path / "odd", FAMILIES["chatml"]._replace(template=template))
    with pytest.raises(DataError, match=message):
        Template(policy)


def test_a_template_that_ends_no_turn_is_refused_for_training(tmp_path: Path) -> None:
    open_end = "{% for m in messages %}{{ m.content }}{% endfor %}"
    policy = family(tmp_path / "open", FAMILIES["chatml"]._replace(template=open_end))
    with pytest.raises(DataError, match=r"writes nothing after an answer, but sampling stops at '<\|im_end\|>'"):
        Template(policy).answers([AnswerText(ASKED[0], GOOD)])


def test_the_date_in_a_template_is_a_fixed_one(made: dict[str, Policy]) -> None:
    (ids,) = Template(made["llama31"]).prompts([ASKED[0]])
    assert "Today Date: 26 Jul 2024" in tokenizer_of(made["llama31"]).decode(ids)


def test_a_prompt_that_ends_with_the_assistants_own_turn_is_refused(made: dict[str, Policy]) -> None:
    prompt = [*ASKED[0], _answer("Because")]
    found = Refusal("the prompt ends with the assistant's own turn")
    assert Template(made["chatml"]).prompts([prompt]) == [found]
    assert Template(made["chatml"]).answers([AnswerText(prompt, GOOD)]) == [found]


def test_an_answer_that_brings_its_end_of_turn_along_has_one_and_not_two(made: dict[str, Policy]) -> None:
    template = Template(made["chatml"])
    plain, baked, inside = template.answers(
        [AnswerText(ASKED[0], t) for t in (GOOD, f"{GOOD}<|im_end|>", f"No .<|im_end|>{GOOD}")]
    )
    assert baked == plain
    assert inside == Refusal("'<|im_end|>' occurs inside the answer and would end it")


def test_a_row_that_parts_from_its_prompt_shares_what_is_common_to_all_its_answers(
    made: dict[str, Policy], tmp_path: Path
) -> None:
    """Three line breaks are one token here, as in Qwen's vocabulary: the generation prompt's own melts into it."""
    policy = family(tmp_path / "melting", Family(CHATML, "spaces", "<|im_end|>",
                                                 special=("<|im_start|>",)))  # fmt: skip
    _merge(policy, ("\n", "\n"), ("\n\n", "\n"))
    rows = [_pair(0, ASKED[0], "\n\nlight", "A stone ."), _pair(1, ASKED[0], GOOD, "A stone .")]
    work = Workspace(tmp_path / "w")
    first, second = tokenize(policy, _of(Preferences, rows), work).table.to_pylist()
    assert first["prompt_tokens"] == second["prompt_tokens"][:-1]
    for row in (first, second):
        for side in ("chosen", "rejected"):
            assert row["prompt_tokens"] + row[f"{side}_tokens"] == expected(
                policy, [*ASKED[0], _answer(row[side])], "<|im_end|>"
            )
    assert "1 rows" in work.notices[0]


def _merge(policy: Policy, *merges: tuple[str, str]) -> None:
    """Teach the tokenizer's file further merges."""
    import json

    file = policy.path / "tokenizer.json"
    told = json.loads(file.read_text())
    for a, b in merges:
        told["model"]["vocab"][a + b] = max(told["model"]["vocab"].values()) + 1
        told["model"]["merges"].append([a, b])
    file.write_text(json.dumps(told))


def test_sampled_tokens_stay_and_only_the_written_side_is_rendered(made: dict[str, Policy], tmp_path: Path) -> None:
    policy = made["chatml"]
    template = Template(policy)
    (asked,) = template.prompts([ASKED[0]])
    row = _pair(0, ASKED[0], GOOD, "ignored", prompt_tokens=asked, rejected_tokens=[9, 9, 9])
    table = tokenize(policy, _of(Preferences, [row], {"template": template_digest(policy)}), Workspace(tmp_path))
    (found,) = table.table.to_pylist()
    assert found["rejected_tokens"] == [9, 9, 9]
    assert found["prompt_tokens"] + found["chosen_tokens"] == expected(policy, [*ASKED[0], _answer(GOOD)], "<|im_end|>")


def test_cut_answers_of_another_template_gain_no_end_of_turn(made: dict[str, Policy], tmp_path: Path) -> None:
    policy, stop = made["chatml"], stop_ids(made["chatml"])
    row = _pair(0, ASKED[0], GOOD, "A stone", chosen_ended=True, rejected_ended=False)
    (pair,) = tokenize(policy, _of(Preferences, [row]), Workspace(tmp_path / "p")).table.to_pylist()
    assert pair["chosen_tokens"][-1] in stop
    assert not stop & set(pair["rejected_tokens"])

    row = {"prompt_id": "p", "prompt": ASKED[0], "completion_ids": ["a", "b"], "scores": [2.0, 1.0],
           "completions": [GOOD, "A stone"], "completions_ended": [True, False]}  # fmt: skip
    (ranked,) = tokenize(policy, _of(Rankings, [row]), Workspace(tmp_path / "r")).table.to_pylist()
    assert [bool(stop & set(ids)) for ids in ranked["completions_tokens"]] == [True, False]

    row = {"prompt_id": "p", "prompt": ASKED[0], "completion_id": "c", "completion": "A stone", "stream": 0, "k": 0,
           "token_logps": [], "finish_reason": "length"}  # fmt: skip
    (drawn,) = tokenize(policy, _of(Completions, [row]), Workspace(tmp_path / "c")).table.to_pylist()
    assert not stop & set(drawn["completion_tokens"])


def test_peoples_pairs_beside_sampled_ones_leave_the_sampled_tokens_alone(
    made: dict[str, Policy], tmp_path: Path
) -> None:
    policy = made["chatml"]
    (asked,) = Template(policy).prompts([ASKED[0]])
    drawn = {"prompt_tokens": asked, "chosen_tokens": [9, 2], "rejected_tokens": [9, 9], "rejected_ended": False}
    sampled = _of(Preferences, [_pair(0, ASKED[0], "x", "y", **drawn)], {"template": template_digest(policy)})
    people = _of(Preferences, [_pair(1, ASKED[0], GOOD, "A stone .")])
    work = Workspace(tmp_path / "c")
    both = saved(concat([people, sampled], work), tmp_path / "both")
    first, second = tokenize(policy, both, Workspace(tmp_path / "t")).table.to_pylist()
    assert work.notices == []
    assert first["prompt_tokens"] + first["chosen_tokens"] == expected(policy, [*ASKED[0], _answer(GOOD)], "<|im_end|>")
    assert [second[name] for name in drawn] == list(drawn.values())


def test_a_pair_of_sampled_answers_says_which_of_them_was_cut(tmp_path: Path) -> None:
    """Of `completions`, every second answer of a prompt is cut by its length."""
    drawn = completions({"x": ["best", "worst"]})
    asked = win_probs([("x", "x/0/0", "x/0/1", 0.9)])
    rule = Chosen("pair_rules", "all_pairs", {})
    table = saved(pairs(drawn, asked, Workspace(tmp_path / "w"), rule=rule), tmp_path / "t")
    assert [(r["chosen_ended"], r["rejected_ended"]) for r in table.table.to_pylist()] == [(True, False)]
