"""Reward models through a pipeline of real tasks at toy size: K-wise losses, attributes with weights, an encoder."""

from pathlib import Path

import pytest

from flows.run.run import Execution, run_cached
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.kinds import Scores, WinProbs
from tests.flows.inline import run_inline
from tests.tasks.test_reward_models_from_outside import encoder

WIRING = """
pipelines:
  tiny:
    about: Reward models of a random model's answers
    steps:
      demos:    {task: load_demonstrations, source: toy, split: rm}
      some:     {task: take_batch, table: demos, index: 1, size: 8}
      base:     {task: init_policy, demonstrations: some, vocab: 300, hidden: 16, layers: 1, heads: 2, ffn: 16,
                 positions: 192, max_new_tokens: 8}
      asked:    {task: load_prompts, source: toy, split: gate}
      prompts:  {task: take_batch, table: asked, index: 1, size: 4}
      answers:  {task: sample, policy: base, prompts: prompts, k: 3, engine: transformers}
      length:   {task: load_oracle, oracle: toy_length}
      gold:     {task: load_oracle, oracle: toy_gold}
      lengths:  {task: score, completions: answers, oracle: length}
      golds:    {task: score, completions: answers, oracle: gold}
      both:     {task: join_scores, tables: [golds, lengths], names: [gold, length]}
      ranked:   {task: rankings, scores: lengths}
      in_order: {task: train_reward, policy: base, data: ranked, loss: plackett_luce, lr: 1.0e-3, batch: 4}
      by_pairs: {task: train_reward, policy: base, data: ranked, loss: all_pairs, lr: 1.0e-3, batch: 4}
      measures: {task: train_reward, policy: base, data: both, loss: regression, lr: 1.0e-3, batch: 4}
      ordered:  {task: compare, completions: answers, oracle: in_order}
      again:    {task: score, completions: answers, oracle: in_order}
      paired:   {task: compare, completions: answers, oracle: by_pairs}
      weighed:  {task: score, completions: answers, oracle: measures, weights: {length: -2}}
      started:  {task: load_oracle, oracle: FOLDER/encoder}
      encoded:  {task: train_reward, policy: started, data: ranked, loss: all_pairs, lr: 1.0e-3, batch: 4}
      read:     {task: score, completions: answers, oracle: encoded}
"""


def test_reward_models_of_rankings_and_scores_are_trained_and_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    encoder(tmp_path / "encoder", "bert", positions=256)
    (tmp_path / "pipelines.yaml").write_text(WIRING.replace("FOLDER", str(tmp_path)))
    done = run_cached(Execution(compile_pipeline(tmp_path / "pipelines.yaml", "tiny", {}), Store(tmp_path / "art")))
    assert not done.errors
    paths = {id: done.store.root / record.path for id, record in done.records.items()}
    for id in ("ordered", "paired"):
        p = WinProbs(paths[id]).table.column("p").to_pylist()
        assert len(p) == 4 * 3
        assert all(0 < x < 1 for x in p)
    weighed = Scores(paths["weighed"])
    assert weighed.attributes == ("gold", "length")
    for row in weighed.table.to_pylist():
        assert row["score"] == pytest.approx(-2 * row["attributes"][1])
    ordered, again = (done.records[id].totals for id in ("ordered", "again"))
    assert ordered["queries_asked"] + again["queries_asked"] == ordered["queries"] == again["queries"]
    assert ordered["queries_reused"] + again["queries_reused"] == again["queries"]
    assert (tmp_path / "art" / "answers" / "answers.db").exists()
    assert None not in Scores(paths["read"]).table.column("score").to_pylist()
