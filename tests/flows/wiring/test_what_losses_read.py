"""The ports that fill a loss: what a training adds for them, what it ignores, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError

Train = Callable[[str], Graph]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """A training on pairs, or on labels, with these ports and this loss."""

    def compile_(inputs: str) -> Graph:
        file = tmp_path / "pipelines.yaml"
        file.write_text(f"""
pipelines:
  p:
    steps:
      base: {{task: load_policy, source: toy}}
      other: {{task: load_policy, source: ./other}}
      pairs: {{task: load_preferences, source: toy}}
      ones: {{task: labels, pairs: pairs}}
      prompts: {{task: load_prompts, source: toy, split: rm}}
      answers: {{task: sample, policy: base, prompts: prompts, k: 1}}
      policy: {{task: train, policy: base, lr: 1.0e-3, {inputs}}}
""")
        (tmp_path / "other").mkdir(exist_ok=True)
        return compile_pipeline(file, "p", cache=tmp_path / "python.json")

    return compile_


def own_steps(graph: Graph) -> dict[str, str]:
    """Steps of the training → the first step that each reads."""
    names = {a: n for a, n in graph.addresses.items() if a.startswith("policy") and a != "policy/fit"}
    return {address: graph.nodes[name].inputs["policy"][0] for address, name in names.items()}


NASH = "data: pairs, ref: base, loss: nash"


def test_a_list_of_anchors_or_a_single_one_is_scored_on_the_table(train: Train) -> None:
    graph = train(f"{NASH}, anchor: [other, base]")
    assert own_steps(graph) == {
        "policy": "base", "policy/tokenize": "base", "policy/logps": "base", "policy/anchor_logps_1": "other",
        "policy/anchor_logps_2": "base",
    }  # fmt: skip
    assert len(graph.nodes["policy"].inputs["anchor_logps"]) == 2
    assert graph.addresses["policy/anchor_logps_2"] == graph.addresses["policy/logps"], "one scoring serves both"
    assert len(train(f"{NASH}, anchor: other").nodes["policy"].inputs["anchor_logps"]) == 1


def test_a_loss_that_names_an_anchor_is_refused_without_one(train: Train) -> None:
    message = r"needs an anchor \(a second reference\), .* `anchor` or `anchor_logps`"
    with pytest.raises(SpecError, match=message):
        train(NASH)
    with pytest.raises(SpecError, match="needs a reference"):
        train("data: pairs, anchor: base, loss: nash")


def test_a_loss_that_reads_neither_ignores_anchor_and_targets_and_a_notice_says_so(train: Train) -> None:
    graph = train("data: pairs, ref: base, anchor: [other], targets: answers, loss: dpo")
    assert own_steps(graph).keys() == {"policy", "policy/tokenize", "policy/logps"}
    assert {n for n in graph.notices if "is dropped" in n} == {
        f"p.policy: the loss dpo takes no `{port}`, so that edge is dropped" for port in ("anchor", "targets")
    }


def test_targets_are_tokenized_where_the_loss_reads_them(train: Train) -> None:
    graph = train("data: pairs, targets: answers, loss: slic")
    assert own_steps(graph).keys() == {"policy", "policy/tokenize", "policy/tokenize_targets"}
    assert graph.nodes["policy"].inputs["targets"] == ("policy/tokenize_targets",)
    assert "targets" not in train("data: pairs, loss: slic").nodes["policy"].inputs


def test_xpo_is_refused_without_targets_because_it_would_push_the_chosen_answers_down(train: Train) -> None:
    with pytest.raises(SpecError, match=r"the loss xpo .* needs a table of target answers.*`targets`"):
        train("data: pairs, ref: base, loss: xpo")
    assert "targets" in train("data: pairs, ref: base, targets: answers, loss: xpo").nodes["policy"].inputs


def test_answers_to_other_prompts_are_scored_for_kto_alone(train: Train) -> None:
    graph = train("data: ones, ref: other, loss: kto")
    assert own_steps(graph)["policy/mismatched_logps"] == "other"
    assert graph.nodes["policy/mismatched_logps"].inputs["data"] == ("policy/mismatched_answers",)
    assert graph.nodes["policy/mismatched_answers"].inputs["data"] == ("policy/tokenize",)
    unpaired = train("data: ones, ref: other, loss: apo_zero_unpaired")
    assert own_steps(unpaired).keys() == {"policy", "policy/tokenize", "policy/logps"}


def test_a_direct_fit_by_kto_needs_the_mismatched_answers(train: Train) -> None:
    with pytest.raises(SpecError, match=r"needs the ports \['mismatched', 'mismatched_logps'\]: .* `train` makes"):
        train("data: ones, ref: other, loss: apo_zero_unpaired}\n"
              "      scored: {task: logps, policy: base, data: ones}\n"
              "      more: {task: fit, policy: base, data: ones, ref_logps: scored, lr: 1.0e-3, loss: kto")  # fmt: skip
