"""APO's wirings in the project's own pipelines.yaml: what trains on what, and what the variants share."""

from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Graph
from tasks.contract import SpecError
from tests.flows.wiring.conftest import Compile
from tests.flows.wiring.test_real_file import _contents

VARIANTS = ("apo", "apo-raft", "apo-rrhf")


@pytest.fixture
def graphs(shipped: Compile) -> dict[str, Graph]:
    return {name: shipped(name) for name in VARIANTS}


def test_every_rounds_reward_model_starts_from_the_base_on_peoples_and_golden_pairs(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        for r in (1, 2, 3):
            assert graph.nodes[f"reward@{r}"].inputs["policy"] == ("base",)
            assert graph.nodes[f"both@{r}"].inputs["tables"] == ("human", f"adversary@{r}")
            assert graph.nodes[f"adversary@{r}"].inputs["completions"] == (f"sampled@{r}",)
            sampler = "base" if r == 1 else f"policy@{r - 1}"
            assert graph.nodes[f"sampled@{r}"].inputs["policy"] == (sampler,)
            assert graph.nodes[f"completions@{r}"].inputs["policy"] == (sampler,)


def test_the_weight_of_a_golden_pair_is_the_coefficient_over_the_samples(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        weight, k = graph.nodes["adversary@1"].params["weight"], graph.nodes["sampled@1"].params["k"]
        assert isinstance(weight, float)
        assert isinstance(k, int)
        assert weight * k == pytest.approx(0.1)


def test_each_round_has_its_learning_rate_and_the_last_policy_as_reference(graphs: dict[str, Graph]) -> None:
    for name, graph in graphs.items():
        rates = [graph.nodes[f"policy@{r}"].params["lr"] for r in (1, 2, 3)]
        assert rates == sorted(rates, key=float, reverse=True)
        assert len(set(rates)) > 1, name
        assert graph.nodes["policy@3"].inputs["policy"] == ("policy@2",)
    assert graphs["apo"].nodes["policy/logps@3"].inputs["policy"] == ("policy@2",)
    assert not any("policy/logps" in id for name in VARIANTS[1:] for id in graphs[name].nodes)


def test_gold_judges_nothing_that_trains_but_what_people_labelled(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        judges = {n.id: graph.nodes[i].task for n in graph.nodes.values() for i in n.inputs.get("oracle", ())}
        by_gold = {id for id, task in judges.items() if task == "load_oracle"}
        measured = {id for id in by_gold if id.startswith(("report/", "base_check/"))}
        assert by_gold - measured == {"human/compare", "checks/compare", "more/compare"}
        for r in (1, 2, 3):
            judged = "win_probs" if f"win_probs@{r}" in graph.nodes else "scores"
            for step in (f"{judged}@{r}", f"reward_report@{r}", f"report/proxy_score@{r}"):
                assert graph.nodes[step].inputs["oracle"] == (f"reward@{r}",)


def test_the_variants_share_all_but_the_policy_step_of_the_first_round(graphs: dict[str, Graph]) -> None:
    found = {name: _contents(graph) for name, graph in graphs.items()}
    before = ("human", "human_reward", "human_reward_report", "base_check")
    for shared in (*before, "reward@1", "reward_report@1", "completions@1"):
        assert len({contents[shared] for contents in found.values()}) == 1, shared
    assert found["apo-raft"]["scores@1"] == found["apo-rrhf"]["scores@1"]
    assert len({contents["policy@1"] for contents in found.values()}) == 3
    losses = [graph.nodes["policy@1"].params["loss"] for graph in graphs.values()]
    assert [x.name for x in losses if isinstance(x, ChoiceValue)] == ["dpo", "sft", "rrhf"]


def test_peoples_pairs_and_their_reward_model_are_those_of_rm_ppo_on_all_pairs(
    graphs: dict[str, Graph], shipped: Compile
) -> None:
    apo, ppo = _contents(graphs["apo"]), _contents(shipped("rm-ppo", disjoint="false", reward_epochs="1"))
    same = {"human": "pairs", "checks": "eval_pairs", "human_reward": "reward", "base_check": "base_check"}
    for own, other in same.items():
        assert apo[own] == ppo[other]


def test_a_reward_model_is_compared_with_none_that_was_trained_on_the_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(
        "pipelines:\n  p:\n    steps:\n"
        "      base: {task: load_policy, source: toy}\n"
        "      one: {task: load_preferences, source: toy}\n"
        "      two: {task: load_preferences, source: toy, split: heldout}\n"
        "      old: {task: train_reward, policy: base, data: two, lr: 0.1}\n"
        "      new: {task: train_reward, policy: base, data: one, lr: 0.1}\n"
        "      report: {task: reward_accuracy, pairs: two, oracle: new, before: old}\n"
    )
    with pytest.raises(SpecError, match="on which this measures, also trained what is measured"):
        compile_pipeline(file, "p", cache=tmp_path / "python.json")
