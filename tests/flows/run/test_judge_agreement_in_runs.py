"""The shipped wiring judge-agreement at small size, with a random policy: its report and its figure."""

from pathlib import Path

import pytest

from flows.reporting.figures.run_figures import draw_figures
from flows.reporting.results import run_results
from flows.run.run import Execution, run_cached
from flows.store.finished import finished_steps
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tests.flows.inline import run_inline
from tests.models import tiny_policy

SHIPPED = Path(__file__).parents[3] / "pipelines.yaml"
SMALL = f"""
pipelines:
  small:
    extends: {SHIPPED}#judge-agreement
    params: {{model: FOLDER, k: 3, reward_lr: 1.0e-3}}
    steps:
      few:       {{task: take_batch, table: heldout, index: 1, size: 3}}
      answers:   {{prompts: few}}
      golden:    {{task: load_demonstrations, source: toy, split: rm, answers: golden}}
      questions: {{task: load_prompts, source: toy, split: rm}}
      learned:   {{task: take_batch, table: questions, index: 1, size: 3}}
      samples:   {{task: sample, policy: base, prompts: learned, k: 2}}
      pairs:     {{task: gold_pairs, demonstrations: golden, completions: samples, weight: 1.0}}
"""


def test_oracles_and_a_reward_model_are_set_beside_gold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_inline(monkeypatch)
    policy = tmp_path / "policy"
    tiny_policy(policy, generation={"max_new_tokens": 6})
    (tmp_path / "pipelines.yaml").write_text(SMALL.replace("FOLDER", str(policy)))
    store = Store(tmp_path / "art")
    done = run_cached(Execution(compile_pipeline(tmp_path / "pipelines.yaml", "small", {}), store))
    assert not done.errors
    steps = finished_steps(store, done.run)
    results = run_results(store, steps)
    (row,) = results.rows
    judges = ["gold", "toy_judge", "toy_length", "toy_cycle", "reward"]
    couples = [f"{a}/{b}" for n, a in enumerate(judges) for b in judges[n + 1 :]]
    assert [name for name in row.metrics if "accuracy" in name] == [f"eval/accuracy/{c}" for c in couples]
    assert all(0 <= row.metrics[f"eval/accuracy/{c}"].value <= 1 for c in couples)
    files = draw_figures(store, results, steps, tmp_path / "figures", "small")
    assert "agreement_matrix.png" in [file.name for file in files]
