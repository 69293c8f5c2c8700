"""The wiring of PPO, against the real tasks: its reference, its oracle, its objective, rounds that hand a critic on."""

import re
from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Graph
from tasks.contract import SpecError
from tests.flows.wiring.conftest import Compile

BASE = """
pipelines:
  p:
    params: {lr: 1.0e-3, cycle: toy_gold}
    steps:
      base:    {task: load_policy, source: toy}
      prompts: {task: load_prompts, source: toy, split: policy}
      oracle:  {task: load_oracle, oracle: $cycle}
      tuned:   {task: ppo, policy: base, ref: base, prompts: prompts, oracle: oracle, iterations: 2, lr: $lr}
"""


def _compiled(text: str, folder: Path) -> Graph:
    file = folder / "pipelines.yaml"
    file.write_text(text)
    return compile_pipeline(file, "p", {}, cache=folder / "kept" / "python.json")


def test_the_reference_stays_though_the_objective_does_not_name_one(tmp_path: Path) -> None:
    graph = _compiled(BASE.replace("iterations: 2", "iterations: 2, objective: kl_penalty"), tmp_path)
    assert graph.nodes["tuned"].inputs["ref"] == ("base",)
    objective = graph.nodes["tuned"].params["objective"]
    assert isinstance(objective, ChoiceValue)
    assert (objective.folder, objective.params) == ("losses/rl", {"beta": 1.0})
    assert not [n for n in graph.notices if "dropped" in n]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("ref: base, ", "", "needs its port 'ref'"),
        ("cycle: toy_gold", "cycle: toy_cycle", "tuned.oracle takes Scorer, and oracle is Oracle"),
        ("iterations: 2", "iterations: 0", "iterations = 0; it must be at least 1"),
        ("iterations: 2", "iterations: 2, k: 0", "k = 0; it must be at least 1"),
        ("iterations: 2", "iterations: 2, temperature: 0", "temperature = 0; it must be at least 0.01"),
        ("iterations: 2", "iterations: 2, objective: dpo", "objective = 'dpo'; there is no such choice"),
        ("iterations: 2", "iterations: 2, kl_controller: adaptiv", "did you mean 'adaptive'?"),
        (", lr: $lr", "", "lr has no default"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(old: str, new: str, text: str, tmp_path: Path) -> None:
    assert BASE.count(old) == 1
    with pytest.raises(SpecError, match=re.escape(text)):
        _compiled(BASE.replace(old, new), tmp_path)


def test_each_round_goes_on_from_the_policy_and_the_critic_of_the_one_before(shipped: Compile) -> None:
    graph = shipped("rm-ppo")
    first, second = (graph.nodes[f"policy@{n}"].inputs for n in (1, 2))
    assert (first["policy"], first["value"]) == (("base",), ("reward",))
    assert (second["policy"], second["value"]) == (("policy@1",), ("critic@1",))
    assert first["ref"] == second["ref"] == ("base",)
    assert [graph.nodes[f"policy@{n}"].params["stream"] for n in (1, 2, 3)] == [1, 2, 3]
    proxy = graph.nodes["report/proxy_score@2"].inputs["oracle"]
    assert first["oracle"] == second["oracle"] == proxy == ("reward",)


@pytest.mark.parametrize(
    ("name", "given", "disjoint", "answers"),
    [
        ("rm-ppo", {}, True, 16), ("rm-ppo", {"disjoint": "false"}, False, 5), ("rm-ppo-lora", {}, False, 5),
        ("sppo-reward-model", {"disjoint": "true"}, True, 16), ("rm-ppo-overoptimised", {}, True, 2),
    ],
)  # fmt: skip
def test_people_label_disjoint_pairs_or_all_pairs_of_few_answers(
    name: str, given: dict[str, str], disjoint: bool, answers: int, shipped: Compile
) -> None:
    graph = shipped(name, **given)
    rule = graph.nodes["pairs/pairs"].params["rule"]
    assert isinstance(rule, ChoiceValue)
    assert (rule.name, rule.params["disjoint"]) == ("sampled", disjoint)
    assert graph.nodes["pairs/sample"].params["k"] == answers


def test_the_curve_of_over_optimisation_reads_one_training(shipped: Compile) -> None:
    graph = shipped("rm-ppo-overoptimised")
    kept = graph.nodes["trained"].params["checkpoints"]
    assert [graph.nodes[f"policy@{n + 1}"].params["step"] for n in range(len(kept))] == kept
    assert {graph.nodes[f"policy@{n + 1}"].inputs["policy"] for n in range(len(kept))} == {("trained",)}


@pytest.mark.parametrize("name", ["rm-grpo", "rm-rloo", "rm-dr-grpo", "rm-dapo", "rm-gspo"])
def test_methods_without_a_value_network_hand_on_the_policy_alone(name: str, shipped: Compile) -> None:
    graph = shipped(name)
    first, second = (graph.nodes[f"policy@{n}"].inputs for n in (1, 2))
    assert (first["policy"], second["policy"]) == (("base",), ("policy@1",))
    assert first["ref"] == second["ref"] == ("base",)
    assert not first.get("value")
    assert not [node for node in graph.nodes if node.startswith("critic")]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ("k: 1", "k = 1 gives one answer per prompt"), ("normalisation: dr_grpo", "set max_tokens"),
        ("overlong_cache: 4", "overlong_cache = 4 is a part of the longest answer allowed"),
        ("kl_form: token_k4", "token_k4"), ("importance: answer", "importance = 'answer'"),
    ],
)  # fmt: skip
def test_settings_of_groups_that_cannot_be_are_refused_before_anything_runs(
    changes: str, text: str, tmp_path: Path
) -> None:
    wiring = BASE.replace("task: ppo", "task: grpo").replace("iterations: 2", f"iterations: 2, {changes}")
    with pytest.raises(SpecError, match=re.escape(text)):
        _compiled(wiring, tmp_path)


def test_grpo_needs_no_reference_where_no_nat_has_a_price(tmp_path: Path) -> None:
    wiring = BASE.replace("task: ppo", "task: grpo").replace("ref: base, ", "")
    with pytest.raises(SpecError, match=r"kl_coef = 0\.05 .*feed the port `ref`, or set kl_coef to 0"):
        _compiled(wiring, tmp_path)
    graph = _compiled(wiring.replace("iterations: 2", "iterations: 2, kl_coef: 0"), tmp_path)
    assert not graph.nodes["tuned"].inputs.get("ref")
