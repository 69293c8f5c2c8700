"""Losses that read more than their table, through a pipeline of real tasks at toy size."""

from pathlib import Path

import pytest

from flows.run.run import Execution, run_cached
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.kinds import Labels
from tests.flows.inline import run_inline

SETTINGS = "lr: 1.0e-2, batch: 4, epochs: 3, max_tokens_per_microbatch: 256"
WIRING = f"""
pipelines:
  tiny:
    about: Policies of every loss that reads targets, anchors, answers to other prompts or a whole batch
    steps:
      demos:   {{task: load_demonstrations, source: toy, split: rm}}
      some:    {{task: take_batch, table: demos, index: 1, size: 8}}
      base:    {{task: init_policy, demonstrations: some, vocab: 300, hidden: 16, layers: 1, heads: 2, ffn: 16,
                positions: 192, max_new_tokens: 8}}
      asked:   {{task: load_prompts, source: toy, split: gate}}
      prompts: {{task: take_batch, table: asked, index: 1, size: 4}}
      answers: {{task: sample, policy: base, prompts: prompts, k: 3, engine: transformers}}
      aims:    {{task: sample, policy: base, prompts: asked, k: 1, stream: 7, engine: transformers}}
      judge:   {{task: load_oracle, oracle: toy_length}}
      probs:   {{task: compare, completions: answers, oracle: judge}}
      pairs:   {{task: pairs, completions: answers, win_probs: probs, rule: all_pairs}}
      ones:    {{task: labels, pairs: pairs}}
      dpo:     {{task: train, policy: base, ref: base, anchor: base, targets: aims, data: pairs, loss: dpo, {SETTINGS}}}
      nash:    {{task: train, policy: dpo, ref: dpo, anchor: base, data: pairs, loss: nash, {SETTINGS}}}
      mnpo:    {{task: train, policy: nash, ref: base, anchor: [nash, dpo], data: pairs, loss: nash, {SETTINGS}}}
      slic:    {{task: train, policy: base, data: pairs, loss: slic, {SETTINGS}}}
      aimed:   {{task: train, policy: base, targets: aims, data: pairs, loss: slic, {SETTINGS}}}
      xpo:     {{task: train, policy: base, ref: base, targets: aims, data: pairs, loss: xpo, {SETTINGS}}}
      aot:     {{task: train, policy: base, ref: base, data: pairs, loss: aot, average_over: weights, {SETTINGS}}}
      kto:     {{task: train, policy: base, ref: base, data: ones, loss: {{kto: {{balance: true}}}}, {SETTINGS}}}
      apart:   {{task: train, policy: base, ref: base, data: ones, loss: apo_zero_unpaired, {SETTINGS}}}
"""
POLICIES = ("dpo", "nash", "mnpo", "slic", "aimed", "xpo", "aot", "kto", "apart")


@pytest.mark.slow
def test_every_loss_trains_from_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_inline(monkeypatch)
    (tmp_path / "pipelines.yaml").write_text(WIRING)
    done = run_cached(Execution(compile_pipeline(tmp_path / "pipelines.yaml", "tiny", {}), Store(tmp_path / "art")))
    assert not done.errors
    paths = {id: done.store.root / record.path for id, record in done.records.items()}
    weights = {(paths[name] / "model.safetensors").read_bytes() for name in (*POLICIES, "base")}
    assert len(weights) == len(POLICIES) + 1, "all are different policies"
    curves = {name: done.records[name].curves for name in POLICIES}
    assert curves["kto"][0]["train/kl_reference"] == pytest.approx(0, abs=1e-4), "the policy is still its reference"
    assert curves["kto"][-1]["train/kl_reference"] != 0
    assert curves["nash"][0]["train/loss"] != curves["mnpo"][0]["train/loss"]
    own, mixed = (Labels(paths[f"kto/{name}"]).table for name in ("tokenize", "mismatched_answers"))
    assert own.column("prompt_id").to_pylist() == mixed.column("prompt_id").to_pylist()
    assert own.column("completion_id").to_pylist() != mixed.column("completion_id").to_pylist()
