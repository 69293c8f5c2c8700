"""`evaluate`: what it adds, and that its steps fit together with a real policy."""

from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import Chosen, SpecError
from tasks.judge import compare, score
from tasks.kinds import Completions, Policy, Prompts
from tasks.measure import measure
from tasks.sample import sample
from tasks.train import logps
from tests.answers import named, rows, saved, scorer
from tests.models import tiny_policy
from tests.workspace import Workspace

PIPELINE = """
pipelines:
  looked-at:
    steps:
      base: {{task: load_policy, source: toy}}
      told: {{task: load_demonstrations, source: toy, split: policy}}
      heldout: {{task: load_prompts, source: toy, split: heldout}}
      who: {{task: load_oracle, oracle: {oracle}}}
{proxy}    repeat:
      times: 2
      start: {{policy: base}}
      steps:
        policy: {{task: train, policy: prev.policy, data: told, loss: sft, lr: 0.001}}
        report: {{task: evaluate, policy: policy, baseline: base, prompts: heldout, oracle: who{more}}}
"""


def compiled(folder: Path, oracle: str, more: str = "", proxy: str = "") -> Graph:
    proxy = f"      trained_by: {{task: load_oracle, oracle: {proxy}}}\n" if proxy else ""
    (folder / "pipelines.yaml").write_text(PIPELINE.format(oracle=oracle, more=more, proxy=proxy))
    return compile_pipeline(folder / "pipelines.yaml", "looked-at")


def test_the_baseline_answers_once_for_all_rounds(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold")
    sampled = [n for n in graph.nodes.values() if n.task == "sample"]
    assert len(sampled) == 3
    assert graph.addresses["report/baseline_sample@1"] == graph.addresses["report/baseline_sample@2"]
    assert graph.addresses["report/baseline_score@1"] == graph.addresses["report/baseline_score@2"]


def test_the_sides_have_streams_of_their_own_that_no_training_uses(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold")
    streams = {n.params["stream"] for n in graph.nodes.values() if n.task == "sample"}
    assert len(streams) == 2
    assert 0 not in streams


@pytest.mark.parametrize(("oracle", "scored"), [("toy_gold", 3), ("toy_cycle", 0)])
def test_only_a_scorer_is_asked_for_scores(tmp_path: Path, oracle: str, scored: int) -> None:
    graph = compiled(tmp_path, oracle)
    assert sum(n.task == "score" for n in graph.nodes.values()) == scored
    ports = graph.nodes[graph.addresses["report@2"]].inputs
    assert ("scores" in ports, "baseline_scores" in ports) == (scored > 0, scored > 0)


def test_a_proxy_scores_the_same_answers(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold", ", proxy: trained_by", "toy_judge")
    ports = graph.nodes[graph.addresses["report@2"]].inputs
    assert ports["proxy_scores"] == ("report/proxy_score@2",)
    asked = graph.nodes["report/proxy_score@2"]
    assert asked.inputs == {"completions": ("report/sample@2",), "oracle": ("trained_by",)}
    assert graph.addresses["report/baseline_proxy_score@1"] == graph.addresses["report/baseline_proxy_score@2"]


def test_gold_may_be_its_own_proxy_and_is_asked_once(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold", ", proxy: who")
    ports = graph.nodes[graph.addresses["report@2"]].inputs
    assert ports["proxy_scores"] == ports["scores"] != ports["baseline_scores"] == ports["baseline_proxy_scores"]
    assert sum(n.task == "score" for n in graph.nodes.values()) == 3


def test_a_proxy_that_only_compares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"report.proxy takes Scorer.*, and trained_by is Oracle"):
        compiled(tmp_path, "toy_gold", ", proxy: trained_by", "toy_cycle")


def test_kl_asks_the_baseline_for_the_policys_answers_unless_left_out(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold")
    asked = graph.nodes[graph.addresses["report/logps@2"]]
    assert asked.inputs == {"policy": ("base",), "data": ("report/sample@2",)}
    without = compiled(tmp_path, "toy_gold", ", kl: false")
    assert "report/logps@2" not in without.addresses
    assert "logps" not in without.nodes[without.addresses["report@2"]].inputs


def test_the_temperature_reaches_sampling_and_report(tmp_path: Path) -> None:
    graph = compiled(tmp_path, "toy_gold", ", temperature: 0.7, k: 2")
    found = {n.task: n.params for n in graph.nodes.values() if n.task in ("sample", "measure")}
    assert (found["sample"]["temperature"], found["sample"]["k"], found["measure"]["temperature"]) == (0.7, 2, 0.7)


def test_a_policy_against_itself_has_no_kl_and_half_of_the_wins(tmp_path: Path) -> None:
    import pyarrow as pa

    policy = tiny_policy(tmp_path / "policy")
    asked = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"where is {i} ?"}]} for i in range(24)]
    filled = [dict(r, truth=None, group=None, weight=None) for r in asked]
    prompts = Prompts.of(pa.Table.from_pylist(filled, Prompts.SCHEMA))
    one, two = (answers(policy, prompts, tmp_path / str(s), stream=s) for s in (1001, 1002))
    oracle = scorer({r["completion"]: min(len(r["completion"]), 20) / 4 for t in (one, two) for r in rows(t)})
    scores = score(one, oracle, Workspace(tmp_path / "score"))
    report = measure(
        compare(one, oracle, Workspace(tmp_path / "compare"), two), one, two, Workspace(tmp_path / "measure"),
        scores, score(two, oracle, Workspace(tmp_path / "baseline_score")),
        logps(policy, one, Workspace(tmp_path / "logps")),
    )  # fmt: skip
    found = named(report)
    assert found["eval/kl"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["eval/win_rate"]["ci_low"] < 0.5 < found["eval/win_rate"]["ci_high"]
    assert found["eval/gold"]["value"] == pytest.approx(sum(r["score"] for r in rows(scores)) / 72)
    assert {r["n"] for r in found.values()} == {24}


def answers(policy: Policy, prompts: Prompts, folder: Path, *, stream: int) -> Completions:
    engine = Chosen("engines", "transformers", {})
    made = sample(policy, prompts, Workspace(folder), k=3, max_tokens=16, stream=stream, engine=engine)
    return made if made._path else saved(made, folder / "saved")
