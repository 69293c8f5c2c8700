"""The shipped wiring llm-judge-dpo at small size, with a random policy and a server of our own that wants a key."""

from pathlib import Path

import pytest

from flows.run.run import Execution, run_cached
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from tasks.kinds import Completions, Preferences, WinProbs
from tests.chat_server import ChatServer, longer
from tests.flows.inline import run_inline
from tests.models import tiny_policy

SHIPPED = Path(__file__).parents[3] / "pipelines.yaml"
SMALL = f"""
pipelines:
  small:
    extends: {SHIPPED}#llm-judge-dpo
    params: {{model: FOLDER/policy, url: "URL", rounds: 1, k: 3, prompts_per_round: 3, epochs: 1, batch: 2, lr: 1.0e-3}}
    steps:
      few:        {{task: take_batch, table: heldout, index: 1, size: 2}}
      base_check: {{prompts: few, k: 2}}
    repeat:
      steps:
        report: {{prompts: few, k: 2}}
"""


def test_dpo_learns_from_the_verdicts_of_a_server_and_its_key_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    monkeypatch.setenv("JUDGE_KEY", "sk-canary-2604")
    tiny_policy(tmp_path / "policy", generation={"max_new_tokens": 6})
    with ChatServer(answer=longer, key="sk-canary-2604") as server:
        (tmp_path / "pipelines.yaml").write_text(SMALL.replace("FOLDER", str(tmp_path)).replace("URL", server.url))
        given = {"api_key_env": "JUDGE_KEY", "price_in": "1.0"}
        graph = compile_pipeline(tmp_path / "pipelines.yaml", "small", given)
        done = run_cached(Execution(graph, Store(tmp_path / "art")))
        assert not done.errors
    paths = {address: done.store.root / done.records[id].path for address, id in graph.addresses.items()}
    answers = Completions(paths["completions@1"]).table
    lengths = dict(zip(answers["completion_id"].to_pylist(), map(len, answers["completion"].to_pylist()), strict=True))
    questions = WinProbs(paths["win_probs@1"]).table.to_pylist()
    assert {row["first"] for row in questions} == {"a", "b"}
    for row in questions:
        a, b = lengths[row["a_id"]], lengths[row["b_id"]]
        assert row["p"] == (1 if a > b else 0 if a < b else 0.5)
    assert len(Preferences(paths["new_pairs@1"])) > 0
    totals = done.records[graph.addresses["win_probs@1"]].totals
    assert totals["tokens_in"] == sum(tokens for tokens, _ in server.tokens.values()) > 0
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and b"canary" in f.read_bytes()]
