"""Wirings of self-play: which policy is the anchor, whose labels train whom, what each round starts from."""

from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Graph

FILE = Path(__file__).parents[3] / "pipelines.yaml"


def graph(name: str, **given: str) -> Graph:
    return compile_pipeline(FILE, name, given)


def fed(graph: Graph, address: str, port: str) -> list[str]:
    """Addresses of what feeds a port, by their first."""
    return [graph.nodes[i].addresses[0] for i in graph.nodes[graph.addresses[address]].inputs[port]]


def anchors(graph: Graph, round: int) -> list[str]:
    """The models whose log-probabilities are the anchor's in a round's training."""
    inputs = graph.nodes[graph.addresses[f"policy@{round}"]].inputs["anchor_logps"]
    return [graph.nodes[i].inputs["policy"][0].split("/")[0] for i in inputs]


def reference(graph: Graph, round: int) -> str:
    [logps] = graph.nodes[graph.addresses[f"policy@{round}"]].inputs["ref_logps"]
    return graph.nodes[logps].inputs["policy"][0].split("/")[0]


def rule_of(graph: Graph, address: str) -> str:
    rule = graph.nodes[graph.addresses[address]].params["rule"]
    assert isinstance(rule, ChoiceValue)
    return rule.name


@pytest.mark.parametrize("name", ["inpo", "inpo-cycle"])
def test_inpo_steps_from_the_last_policy_is_held_by_the_base_and_learns_drawn_labels(name: str) -> None:
    compiled = graph(name, rounds="3")
    assert [(anchors(compiled, r), reference(compiled, r)) for r in (1, 2, 3)] == [
        (["base"], "base"), (["base"], "policy@1"), (["base"], "policy@2"),
    ]  # fmt: skip
    assert rule_of(compiled, "new_pairs@2") == "sampled"
    assert fed(compiled, "completions@3", "policy") == ["policy@2"]


@pytest.mark.parametrize("name", ["comal", "comal-cycle"])
def test_comal_renews_its_anchor_by_the_policy_of_the_round_before(name: str) -> None:
    compiled = graph(name, rounds="4", anchor_every="2")
    assert [anchors(compiled, r) for r in (1, 2, 3, 4)] == [[f"anchor@{r}"] for r in (1, 2, 3, 4)]
    assert (fed(compiled, "anchor@3", "current"), fed(compiled, "anchor@3", "fresh")) == (["anchor@2"], ["policy@2"])
    assert [compiled.nodes[f"anchor@{r}"].params["index"] for r in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert reference(compiled, 4) == "policy@3"


@pytest.mark.parametrize("name", ["mnpo", "mnpo-cycle"])
def test_mnpo_has_the_last_two_policies_as_opponents_and_the_base_as_reference(name: str) -> None:
    compiled = graph(name, rounds="3")
    assert [anchors(compiled, r) for r in (2, 3)] == [["policy@1", "base"], ["policy@2", "policy@1"]]
    assert [reference(compiled, r) for r in (1, 2, 3)] == ["base"] * 3


def test_sppo_logz_asks_k_times_b_questions_and_none_within_a_table() -> None:
    compiled = graph("sppo-logz", rounds="2", b="3")
    assert fed(compiled, "win_probs@2", "completions") == ["completions@2"]
    assert fed(compiled, "win_probs@2", "others") == ["extra@2"]
    assert fed(compiled, "targets@2", "extra") == ["extra@2"]
    assert compiled.nodes["extra@2"].params["stream"] != compiled.nodes["completions@2"].params["stream"]


def test_online_rlhf_fits_all_labels_anew_and_restarts_the_policy_from_the_base() -> None:
    compiled = graph("online-rlhf", rounds="3")
    assert [fed(compiled, f"policy@{r}", "policy") for r in (1, 2, 3)] == [["base"]] * 3
    assert fed(compiled, "guesses@1", "oracle") == ["first"]
    assert fed(compiled, "guesses@3", "oracle") == ["reward@2"]
    assert fed(compiled, "pool@1", "tables") == ["offline", "new_pairs@1"]
    assert fed(compiled, "pool@3", "tables") == ["pool@2", "new_pairs@3"]
    assert fed(compiled, "win_probs@2", "completions") == ["explored@2"]  # people judge the explored pair alone
    assert fed(compiled, "judged@2", "oracle") == ["reward@2"]


def test_the_student_and_the_ceiling_are_one_model_on_labels_of_the_weak_and_of_people() -> None:
    compiled = graph("weak-to-strong")
    assert fed(compiled, "student", "policy") == fed(compiled, "ceiling", "policy")
    assert fed(compiled, "weak", "policy") != fed(compiled, "student", "policy")
    assert fed(compiled, "weak_probs", "oracle") == ["weak"]
    assert fed(compiled, "weak_labels", "completions") == fed(compiled, "true_labels", "completions")


def test_soups_and_the_conditioned_policy_are_measured_at_the_same_weights() -> None:
    soups, conditioned = graph("soups"), graph("preference-conditioned")
    weights = [soups.nodes[f"policy@{r}"].params["weights"] for r in range(1, 6)]
    assert weights == [conditioned.nodes[f"questions@{r}"].params["weights"] for r in range(1, 6)]
    assert fed(soups, "policy@2", "policies") == ["one", "two"]
    assert {conditioned.addresses[f"policy@{r}"] for r in range(1, 6)} == {conditioned.addresses["one"]}
    assert fed(conditioned, "mixed", "tables") == ["win_probs", "other_probs"]


def test_groups_are_weighed_by_what_the_last_policy_wins_on_prompts_that_did_not_train_it() -> None:
    compiled = graph("worst-group", rounds="3")
    assert fed(compiled, "policy@2", "data") == ["policy/tokenize@2"]
    assert fed(compiled, "policy/tokenize@2", "data") == ["weighed@2"]
    assert fed(compiled, "weights@1", "report") == ["groups@1"]
    assert "before" not in compiled.nodes["weights@1"].inputs
    assert fed(compiled, "weights@3", "before") == ["weights@2"]
    assert fed(compiled, "check/sample@3", "policy") == ["policy@2"]
    assert compiled.headline == ("report@1", "report@2", "report@3")
