"""The shipped wirings verifiable and self-rewarding at small size, with a random policy from a directory."""

import json
from pathlib import Path

import pytest
from scipy.special import expit

from flows.run.run import Execution, run_cached
from flows.store.maintenance import collect_garbage, verify_store
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.kinds import Completions, Demonstrations, PolicyJudge, Preferences, Prompts, WinProbs
from tests.flows.inline import run_inline
from tests.flows.store.proof.scenario import write_answers
from tests.models import tiny_policy

SHIPPED = Path(__file__).parents[3] / "pipelines.yaml"
SMALL = f"""
pipelines:
  programs:
    extends: {SHIPPED}#verifiable
    params: {{model: ./policy, program: "rewards.py::words", lr: 1.0e-3,
             rounds: 1, k: 4, prompts_per_round: 4, epochs: 1}}
    steps:
      few:        {{task: take_batch, table: heldout, index: 1, size: 2}}
      base_check: {{prompts: few, k: 2}}
    repeat:
      steps:
        report: {{prompts: few, k: 2}}

  judges:
    extends: {SHIPPED}#self-rewarding
    params:
      {{model: ./policy, scores: scored.jsonl, scores_split: all, pairs: pairs.jsonl, heldout: heldout, rounds: 1, k: 4,
       size: 16, shots: 2, lessons: 4, seed_epochs: 1, epochs: 1, batch: 2, lr: 1.0e-3, seed_lr: 1.0e-3}}
    steps:
      few:        {{task: take_batch, table: heldout, index: 1, size: 2}}
      eval_pairs: {{task: load_preferences, source: $pairs, split: all}}
      some:       {{task: take_batch, table: answers, index: 1, size: 4}}
      skills:     {{tables: [some, ratings, writing]}}
      base_check: {{prompts: few, k: 2}}
    repeat:
      steps:
        judge_check: {{allow_seen: true}}
        report:      {{prompts: few, k: 2}}
"""


def run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """The run of a wiring in a folder that is also where its steps run."""
    run_inline(monkeypatch)
    monkeypatch.chdir(folder)
    tiny_policy(folder / "policy", positions=192, generation={"max_new_tokens": 8})
    write_answers(folder)
    (folder / "pipelines.yaml").write_text(SMALL)
    done = run_cached(Execution(compile_pipeline(folder / "pipelines.yaml", name, {}), Store(folder / "artifacts")))
    assert not done.errors
    return done


def place(done: Execution, address: str) -> Path:
    return done.store.root / done.records[done.graph.addresses[address]].path


def test_a_program_decides_which_answers_are_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(tmp_path, "programs", monkeypatch)
    words = {
        row["completion_id"]: len(row["completion"].split())
        for row in Completions(place(done, "completions@1")).table.to_pylist()
    }
    rows = WinProbs(place(done, "win_probs@1")).table.to_pylist()
    assert len(rows) == 4 * 6
    for row in rows:
        assert row["p"] == pytest.approx(expit(words[row["a_id"]] - words[row["b_id"]]))
    assert len(Preferences(place(done, "new_pairs@1"))) > 0


def test_a_policy_writes_prompts_and_judges_its_answers_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(tmp_path, "judges", monkeypatch)
    ratings = Demonstrations(place(done, "ratings")).table.to_pylist()
    assert {row["completion"] for row in ratings} <= {*"012345"}
    written = Prompts(place(done, "batch@1")).table.to_pylist()
    assert 0 < len(written) <= 16
    assert not {row["prompt_id"] for row in written} & {
        row["prompt_id"] for name in ("prompts", "heldout") for row in Prompts(place(done, name)).table.to_pylist()
    }
    saved = json.loads((place(done, "judge@1") / "scorer.json").read_text())
    seed = done.records[done.graph.addresses["seed"]].content
    assert saved["members"] == {"policy": [{"content": seed, "kind": "Policy"}]}
    assert all(0 < row["p"] < 1 for row in WinProbs(place(done, "win_probs@1")).table.to_pylist())
    assert isinstance(done.store.open(done.records[done.graph.addresses["judge@1"]]), PolicyJudge)
    assert collect_garbage(done.store, dry=True) == []
    assert verify_store(done.store) == []
