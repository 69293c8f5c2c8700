"""The shipped wiring sppo-pairrm at small size, with a random PairRM and a random policy from directories."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from flows.run.run import Execution, run_cached
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.kinds import WinProbs, WinRates
from tests.flows.inline import run_inline
from tests.models import tiny_policy
from tests.pair_rms import tiny_pair_rm

SHIPPED = Path(__file__).parents[3] / "pipelines.yaml"
SMALL = f"""
pipelines:
  small:
    extends: {SHIPPED}#sppo-pairrm
    params:
      {{model: FOLDER/policy, pairrm: FOLDER/pairrm, rounds: 1, k: 3, prompts_per_round: 3, epochs: 1, lr: 1.0e-3}}
    steps:
      few:        {{task: take_batch, table: heldout, index: 1, size: 2}}
      base_check: {{prompts: few, k: 2}}
    repeat:
      steps:
        report: {{prompts: few, k: 2}}
"""


def test_sppo_learns_from_the_scores_of_a_pair_rm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_inline(monkeypatch)
    tiny_policy(tmp_path / "policy", generation={"max_new_tokens": 6})
    tiny_pair_rm(tmp_path / "pairrm")
    (tmp_path / "pipelines.yaml").write_text(SMALL.replace("FOLDER", str(tmp_path)))
    graph = compile_pipeline(tmp_path / "pipelines.yaml", "small", {})
    done = run_cached(Execution(graph, Store(tmp_path / "art")))
    assert not done.errors
    paths = {address: done.store.root / done.records[id].path for address, id in graph.addresses.items()}
    questions = WinProbs(paths["win_probs@1"]).table.to_pylist()
    assert {row["first"] for row in questions} == {"a", "b"}
    assert all(0 < row["p"] < 1 for row in questions)
    rated = WinRates(paths["targets@1"]).table.to_pylist()
    assert len(rated) == 3 * 3
    ids = [row["completion_id"] for row in rated if row["prompt_id"] == rated[0]["prompt_id"]]
    odds = np.zeros((3, 3))
    for row in questions:
        if row["a_id"] in ids:
            i, j = ids.index(row["a_id"]), ids.index(row["b_id"])
            i, j, sign = (i, j, 1) if row["first"] == "a" else (j, i, -1)
            odds[i, j] = sign * logit(row["p"])
    scores = (odds - odds.T).mean(axis=1)
    wanted = expit(np.subtract.outer(scores, scores)).mean(axis=1)
    assert [row["win_rate"] for row in rated[:3]] == pytest.approx(list(wanted), abs=1e-9)
