from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.ids import prompt_id
from tasks.kinds import Completions, Policy, Prompts
from tasks.sample import sample
from tasks.template import template_digest, tokenizer_of
from tests.answers import saved
from tests.models import tiny_policy
from tests.workspace import Killed, Mortal, Workspace

TEXTS = [f"where does the {a} {v} ?" for a in ("swan", "fox", "bear", "mole") for v in ("live", "eat", "sleep", "go")]
TRANSFORMERS = Chosen("engines", "transformers", {})


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return tiny_policy(tmp_path_factory.mktemp("policy"), generation={"max_new_tokens": 24})


def prompts_of(texts: Sequence[str]) -> Prompts:
    rows = [[{"role": "user", "content": text}] for text in texts]
    return Prompts.of(pa.table({
        "prompt_id": [prompt_id(m) for m in rows], "prompt": rows, "truth": [f'"{text}"' for text in texts],
        "group": ["short"] * len(texts), "weight": [1.0] * len(texts),
    }))  # fmt: skip


def sampled(policy: Policy, texts: Sequence[str], folder: Path, **how: object) -> Completions:
    work = Workspace(folder)
    given = {"k": 3, "engine": TRANSFORMERS, **how}
    return saved(sample(policy, prompts_of(texts), work, **given), folder / "saved")  # type: ignore[arg-type]


def by_id(completions: Completions, *columns: str) -> dict[tuple[str, int], tuple[object, ...]]:
    """Columns of each completion, by prompt and number."""
    names = columns or ("completion_id", "completion_tokens", "completion", "finish_reason")
    return {(r["prompt_id"], r["k"]): tuple(r[n] for n in names) for r in completions.table.to_pylist()}


def test_rows_are_ordered_by_prompt_and_have_its_columns(policy: Policy, tmp_path: Path) -> None:
    table = sampled(policy, TEXTS[:3], tmp_path, k=2, stream=5).table
    assert table.column("k").to_pylist() == [0, 1] * 3
    assert table.column("truth").to_pylist() == [f'"{t}"' for t in TEXTS[:3] for _ in range(2)]
    assert set(table.column("stream").to_pylist()) == {5}
    assert len(set(table.column("completion_id").to_pylist())) == 6


def test_the_table_has_the_templates_digest_and_prompts_have_one_bos(policy: Policy, tmp_path: Path) -> None:
    completions = sampled(policy, TEXTS[:1], tmp_path, k=1)
    tokenizer = tokenizer_of(policy)
    assert completions.metadata == {"template": template_digest(policy)}
    prompt = completions.table.column("prompt_tokens")[0].as_py()
    assert prompt.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(prompt) == f"<bos><user> {TEXTS[0]}<bot>"


def test_completions_depend_on_neither_order_nor_other_prompts_nor_shards_nor_batch(
    policy: Policy, tmp_path: Path
) -> None:
    whole = by_id(sampled(policy, TEXTS, tmp_path / "whole"), "completion_tokens", "completion")
    reordered = by_id(sampled(policy, TEXTS[::-1], tmp_path / "reordered", shard=5), "completion_tokens", "completion")
    part = by_id(sampled(policy, TEXTS[3:7], tmp_path / "part"), "completion_tokens", "completion")
    small = Chosen("engines", "transformers", {"batch": 4})
    narrow = by_id(sampled(policy, TEXTS, tmp_path / "narrow", engine=small), "completion_tokens", "completion")
    assert reordered == whole
    assert narrow == whole
    assert part == {key: whole[key] for key in part}


def test_a_larger_k_adds_completions_and_changes_none(policy: Policy, tmp_path: Path) -> None:
    few, many = by_id(sampled(policy, TEXTS, tmp_path / "3")), by_id(sampled(policy, TEXTS, tmp_path / "6", k=6))
    assert len(many) == 2 * len(few)
    assert few == {key: many[key] for key in few}


def test_another_seed_or_stream_gives_other_completions(policy: Policy, tmp_path: Path) -> None:
    base = by_id(sampled(policy, TEXTS[:4], tmp_path / "base"))
    for name, how in (("seed", {"seed": 1}), ("stream", {"stream": 1})):
        other = by_id(sampled(policy, TEXTS[:4], tmp_path / name, **how))
        assert all(other[key][0] != base[key][0] for key in base)
        assert sum(other[key][1] == base[key][1] for key in base) <= 1


def test_everything_that_can_change_a_completion_changes_its_id(policy: Policy, tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [
        {}, {"temperature": 0.9}, {"top_p": 0.9}, {"top_k": 9}, {"max_tokens": 3}, {"stop": ["x"]},
        {"engine": Chosen("engines", "transformers", {"dtype": "bfloat16"})},
    ]  # fmt: skip
    ids = [
        sampled(policy, TEXTS[:1], tmp_path / str(i), k=1, **how).table.column("completion_id")[0].as_py()
        for i, how in enumerate(changes)
    ]
    assert len(set(ids)) == len(changes)


def test_log_probabilities_are_those_of_a_plain_forward_pass(policy: Policy, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy.path)
    rows = sampled(policy, TEXTS, tmp_path, temperature=0.7, top_k=20, top_p=0.95).table.to_pylist()
    for row in rows:
        prompt, answer = row["prompt_tokens"], row["completion_tokens"]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        plain = logps[range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer]
        assert row["token_logps"] == pytest.approx(plain.tolist(), abs=1e-4)


def test_an_answer_ends_with_eos_or_has_the_maximum_length_without_one(policy: Policy, tmp_path: Path) -> None:
    rows = sampled(policy, TEXTS, tmp_path, max_tokens=8).table.to_pylist()
    eos = tokenizer_of(policy).eos_token_id
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for row in rows:
        tokens = row["completion_tokens"]
        assert (eos in tokens) == (row["finish_reason"] == "stop")
        assert eos not in tokens[:-1]
        assert len(tokens) <= 8
        assert len(tokens) == 8 or row["finish_reason"] == "stop"
        assert len(row["token_logps"]) == len(tokens)


def test_without_max_tokens_the_maximum_is_that_of_the_generation_config_or_the_positions(
    policy: Policy, tmp_path: Path
) -> None:
    never = {"ending": -30.0}
    configured = tiny_policy(tmp_path / "configured", generation={"max_new_tokens": 24}, **never)
    row = sampled(configured, TEXTS[:1], tmp_path / "a", k=1).table.to_pylist()[0]
    assert len(row["completion_tokens"]) == 24
    bare = tiny_policy(tmp_path / "bare", positions=64, generation={}, **never)
    row = sampled(bare, TEXTS[:1], tmp_path / "b", k=1).table.to_pylist()[0]
    assert len(row["prompt_tokens"]) + len(row["completion_tokens"]) == 64


def test_prompts_that_leave_no_room_for_an_answer_are_skipped_and_counted(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path / "policy", positions=32)
    texts = ["a ?", "b " * 60, "c ?"]
    work = Workspace(tmp_path / "work")
    completions = saved(sample(policy, prompts_of(texts), work, k=2, engine=TRANSFORMERS), tmp_path / "saved")
    assert completions.table.column("truth").to_pylist() == ['"a ?"', '"a ?"', '"c ?"', '"c ?"']
    assert work.totals["rows_skipped"] == 1
    assert "1 of 3 prompts" in work.notices[0]
    with pytest.raises(DataError, match="1 of 1 prompts"):
        sample(policy, prompts_of(texts[1:2]), Workspace(tmp_path / "none"), k=2, engine=TRANSFORMERS)


def test_a_prompt_that_occurs_twice_is_refused(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 3 prompts occur before"):
        sample(policy, prompts_of(["a", "b", "a"]), Workspace(tmp_path), engine=TRANSFORMERS)


def test_a_killed_sampling_resumes_at_its_shard_and_has_the_same_bytes(policy: Policy, tmp_path: Path) -> None:
    how = {"k": 3, "shard": 4, "engine": TRANSFORMERS}
    straight = Workspace(tmp_path / "straight")
    expected = saved(sample(policy, prompts_of(TEXTS), straight, **how), tmp_path / "expected")  # type: ignore[arg-type]
    with pytest.raises(Killed):
        sample(policy, prompts_of(TEXTS), Mortal(tmp_path / "killed", done=30), **how)  # type: ignore[arg-type]
    finished = sorted((tmp_path / "killed" / "work").glob("shard-*"))
    written = [f.stat().st_mtime_ns for f in finished]
    assert len(finished) == 2
    (tmp_path / "killed" / "work" / ".shard-00002.x.tmp").mkdir()  # an unfinished one
    again = Workspace(tmp_path / "killed")
    resumed = saved(sample(policy, prompts_of(TEXTS), again, **how), tmp_path / "resumed")  # type: ignore[arg-type]
    assert [f.stat().st_mtime_ns for f in finished] == written
    assert (resumed.path / "table.arrow").read_bytes() == (expected.path / "table.arrow").read_bytes()
    assert again.totals == straight.totals
    assert again.progress_calls[0][0] >= 24
    assert straight.totals["samples"] == 48
