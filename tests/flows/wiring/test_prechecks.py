# ruff: noqa: E501
"""`plan` and `run` reject what the wiring and the files show before any step."""

import json
import re
import textwrap
from pathlib import Path

import pytest

from flows.commands.repeats import plan_or_none
from flows.planning.plan import make_plan
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.contract import SpecError
from tests.flows.codebases import write_files

SAMPLED = """
    base: {task: load_policy, source: toy}
    prompts: {task: load_prompts, source: toy, split: policy}
    judge: {task: load_oracle, oracle: toy_judge}
    answers: {task: sample, policy: base, prompts: prompts, k: 1}
    """
WIRED = {
    "pairs of one answer": (
        "probs: {task: compare, completions: answers, oracle: judge}\n"
        "best: {task: pairs, completions: answers, win_probs: probs, rule: best_and_worst}",
        "p.best: `completions` has 1 answer per prompt, but a comparison needs 2: sample with k ≥ 2"),
    "win rates of one answer": (
        "probs: {task: compare, completions: answers, oracle: judge}\n"
        "rates: {task: win_rates, completions: answers, win_probs: probs}", "p.rates: `completions` has 1 answer per prompt"),
    "extra samples that win_probs are not about": (
        "extra: {task: sample, policy: base, prompts: prompts, k: 4, stream: 1}\n"
        "probs: {task: compare, completions: extra, oracle: judge}\n"
        "rates: {task: win_rates, completions: answers, win_probs: probs, extra: extra, count_self: false}",
        "p.rates: `win_probs` must compare `completions` with `extra`: give its `compare` `others: extra`"),
    "the self-comparison beside extra samples": (
        "extra: {task: sample, policy: base, prompts: prompts, k: 4, stream: 1}\n"
        "probs: {task: compare, completions: answers, others: extra, oracle: judge}\n"
        "rates: {task: win_rates, completions: answers, win_probs: probs, extra: extra}",
        "p.rates: with `extra` no answer is its own opponent: set `count_self: false`"),
    "rankings of one answer": (
        "scores: {task: score, completions: answers, oracle: judge}\nranked: {task: rankings, scores: scores}",
        "p.ranked: `scores` has 1 answer per prompt"),
    "the same step twice": (
        "again: {task: sample, policy: base, prompts: prompts, k: 1}\nboth: {task: concat, tables: [answers, again]}",
        "p.both: two of its `tables` are the same step (or equal steps)"),
    "an unknown split of a world": (
        "more: {task: load_prompts, source: toy, split: test}",
        "p.more: the world 'toy' has no split 'test'; choose one of ['sft', 'rm', 'policy', 'gate', 'heldout']"),
    "the same draws": (
        "more: {task: sample, policy: base, prompts: prompts, k: 4}\nboth: {task: concat, tables: [answers, more]}",
        "p.both: two of its `tables` are the same draws (policy, prompts, seed, stream and sampling): set another `stream`"),
}  # fmt: skip


def pipeline(folder: Path, steps: str) -> Path:
    file = folder / "pipelines.yaml"
    lines = textwrap.indent("\n".join(textwrap.dedent(part).strip() for part in steps.split("|")), " " * 6)
    file.write_text(f"pipelines:\n  p:\n    steps:\n{lines}\n")
    return file


@pytest.mark.parametrize("case", WIRED)
def test_a_wiring_that_can_only_fail_is_refused_at_compile_time(case: str, tmp_path: Path) -> None:
    steps, message = WIRED[case]
    with pytest.raises(SpecError, match=re.escape(message)):
        compile_pipeline(pipeline(tmp_path, f"{SAMPLED}|{steps}"), "p")


def test_one_answer_against_those_of_another_table_can_be_compared(tmp_path: Path) -> None:
    others = "more: {task: sample, policy: base, prompts: prompts, k: 4, stream: 1}\nboth: {task: concat, tables: [answers, more]}"
    probs = "probs: {task: compare, completions: both, oracle: judge}\nrates: {task: win_rates, completions: both, win_probs: probs}"
    assert "rates" in compile_pipeline(pipeline(tmp_path, f"{SAMPLED}|{others}|{probs}"), "p").nodes


ROWS = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(3)]


def write_data(folder: Path) -> None:
    (folder / "empty").mkdir()
    write_files(folder, {
        "pairs.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "prompts.jsonl": '{"prompt": "why?"}\n{"prompt": "who?"}\n',
        "half.jsonl": '{"prompt": "why?"}\n{"prompt": null}\n',
        "saved/dataset_dict.json": '{"splits": ["train", "extra"]}', "ckpt/config.json": "{}", "ckpt/tokenizer.json": "{}",
    })  # fmt: skip
    (folder / "ckpt" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


FILES = {
    "a file that is not there": ("{task: load_prompts, source: ./none.jsonl}", "there is no file or directory './none.jsonl'"),
    "a folder that is not there": ("{task: load_policy, source: ./none/}", "there is no file or directory './none/'"),
    "a checkpoint without a chat template": ("{task: load_policy, source: ./ckpt}", "ckpt has no chat template: add"),
    "data as a model": ("{task: load_policy, source: ./pairs.jsonl}", "is not a Hugging Face model directory"),
    "an unknown split of a file": ("{task: load_prompts, source: ./pairs.jsonl, split: validaton}", "has no split 'validaton'; it is divided by hash"),
    "no held-out split": ("{task: load_prompts, source: ./saved, split: heldout}", "has no split 'heldout'; choose one of ['all', 'extra', 'train']"),
    "a held-out share without a row": ("{task: load_prompts, source: ./prompts.jsonl, split: heldout}", "prompts.jsonl: no row can be used"),
    "prompts as pairs": ("{task: load_preferences, source: ./prompts.jsonl, split: all}", "has no preferences"),
    "too many rows that cannot be read": ("{task: load_prompts, source: ./half.jsonl, split: all}", "1 of 2 rows (50.0%) cannot be used"),
    "an empty folder": ("{task: load_prompts, source: ./empty}", "empty contains no files"),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("case", FILES)
def test_a_file_with_which_a_step_can_only_fail_is_refused_by_plan_and_run(
    case: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_data(tmp_path)
    step, message = FILES[case]
    graph = compile_pipeline(pipeline(tmp_path, f"read: {step}"), "p")
    for plan in (make_plan, plan_or_none):
        with pytest.raises(SpecError, match=re.escape(message)):
            plan(graph, store)


def test_what_can_be_read_is_planned_and_a_hub_id_waits_for_the_run(tmp_path: Path, store: Store) -> None:
    write_data(tmp_path)
    for task in ("load_prompts", "load_preferences"):
        step = f"read: {{task: {task}, source: ./pairs.jsonl, split: all}}"
        assert make_plan(compile_pipeline(pipeline(tmp_path, step), "p"), store).counts()["run"] >= 1
    hub = compile_pipeline(pipeline(tmp_path, "read: {task: load_prompts, source: nobody/nothing-at-all}"), "p")
    assert plan_or_none(hub, store) is None
