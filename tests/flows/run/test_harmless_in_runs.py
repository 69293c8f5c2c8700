"""Real pairs from file to report: a reward model learns from half of HH-RLHF's harmless pairs and judges the others."""

from pathlib import Path

import pytest

from flows.reporting.results import read_report
from flows.run.run import Execution, run_cached
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tests.flows.inline import run_inline

PAIRS = Path(__file__).parents[4] / "shared" / "data" / "preferences" / "harmless_base_test.jsonl.gz"
WIRING = f"""
pipelines:
  harmless:
    params: {{data: {PAIRS}}}
    steps:
      pairs:   {{task: load_preferences, source: $data, split: policy}}
      demos:   {{task: load_demonstrations, source: $data, split: policy}}
      blank:   {{task: init_policy, demonstrations: demos, vocab: 2048, hidden: 64, layers: 1, ffn: 128,
                positions: 2048, init_std: 0.02}}
      reward:  {{task: train_reward, policy: blank, data: pairs, lr: 1.0e-3, epochs: 2, batch: 32, max_length: 384,
                truncation: keep_end}}
      rm:      {{task: load_preferences, source: $data, split: rm}}
      gate:    {{task: load_preferences, source: $data, split: gate}}
      heldout: {{task: load_preferences, source: $data, split: heldout}}
      others:  {{task: concat, tables: [rm, gate, heldout]}}
      longer:  {{task: load_oracle, oracle: longest}}
      report:  {{task: reward_accuracy, pairs: others, oracle: reward, before: longer}}
"""


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.exists(), reason="the real pairs are not on this machine")
def test_a_reward_model_of_one_half_is_better_than_chance_and_than_length_on_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.17M random weights, a tokenizer of the chosen answers and 1,138 pairs: accuracy 0.606 (0.577–0.633) on others.

    So it was measured on two cores; the longer answer is the harmless one in 44% of the pairs.
    """
    run_inline(monkeypatch)
    (tmp_path / "pipelines.yaml").write_text(WIRING)
    graph = compile_pipeline(tmp_path / "pipelines.yaml", "harmless", {})
    done = run_cached(Execution(graph, Store(tmp_path / "art")))
    assert not done.errors
    metrics = read_report(done.store, done.records[graph.addresses["report"]])
    accuracy, over_length = metrics["eval/accuracy"], metrics["eval/accuracy_change"]
    assert accuracy.n > 1100
    assert accuracy.low is not None
    assert over_length.low is not None
    assert accuracy.low > 0.54
    assert over_length.low > 0.05
