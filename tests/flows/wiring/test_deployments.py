# ruff: noqa: E501
"""Deployments compile one round at a time; `check` judges them with the pipelines."""

import re
import textwrap
from pathlib import Path

import pytest

from flows.wiring.check_results import check_pipelines
from flows.wiring.graph import CarriedValue, Tick
from flows.wiring.text import PipelineFile
from tasks.contract import SpecError
from tests.flows.wiring.conftest import Compile

TEXT = """
p:
  params: {rounds: 3, lr: 1.0e-3, size: 64}
  steps:
    base: {task: load_policy, source: toy}
    prompts: {task: load_prompts, source: toy}
    judge: {task: load_oracle, oracle: toy_gold}
  repeat:
    times: $rounds
    start: {policy: base, pool: null}
    steps:
      batch: {task: take_batch, table: prompts, index: $round, size: 10}
      answers: {task: sample, policy: prev.policy, prompts: batch}
      probs: {task: compare, completions: answers, oracle: judge}
      pairs: {task: pairs, completions: answers, win_probs: probs}
      pool: {task: concat, tables: [prev.pool, pairs]}
      policy: {task: train, policy: base, ref: base, data: pool, loss: dpo, lr: $lr}
  after:
    mix: {task: mixture, policies: every.policy}
    final: {task: mixture, policies: [last.policy, base]}
  deployments:
    nightly:
      schedule: {cron: "0 2 * * *", timezone: Europe/Berlin}
      continue: {gate: better}
      steps:
        gate_prompts: {task: load_prompts, source: toy, split: gate}
        gate_batch: {task: take_batch, table: gate_prompts, index: $round, size: $size}
        better: {task: evaluate, policy: policy, baseline: prev.policy, prompts: gate_batch, oracle: judge}
    plain: {schedule: {cron: "0 3 * * 1"}}
"""


def test_the_first_tick_is_one_round_from_the_start(compiled: Compile) -> None:
    graph = compiled(TEXT, deployment="nightly")
    assert {n.round for n in graph.nodes.values()} == {None, 1}
    assert graph.nodes["better/baseline_sample@1"].inputs["policy"] == ("base",)
    assert graph.nodes["gate_batch@1"].params == {"index": 1, "size": 64, "wrap": False}
    assert "mix" not in graph.nodes


def test_a_later_tick_goes_on_from_what_was_carried(compiled: Compile) -> None:
    tick = Tick(7, {"policy": CarriedValue("Policy", "c0ffee"), "pool": CarriedValue("Preferences", "beef")})
    graph = compiled(TEXT, deployment="nightly", tick=tick)
    assert graph.nodes["batch@7"].params["index"] == 7
    carried = graph.nodes["prev.policy"]
    assert (carried.task, carried.kind, carried.params) == ("carried", "Policy", {"digest": "c0ffee"})
    assert graph.nodes["pool@7"].inputs["tables"] == ("prev.pool", "pairs@7")
    assert graph.nodes["answers@7"].inputs["policy"] == ("prev.policy",)
    assert graph.nodes["better/baseline_sample@7"].inputs["policy"] == ("prev.policy",)


def test_after_a_rejected_first_round_the_start_still_stands(compiled: Compile) -> None:
    graph = compiled(TEXT, deployment="nightly", tick=Tick(2))
    assert graph.nodes["answers@2"].inputs["policy"] == ("base",)
    assert graph.nodes["pool@2"].inputs["tables"] == ("pairs@2",)


def test_what_stands_behind_the_loop_gets_all_accepted_rounds(compiled: Compile) -> None:
    one, two = CarriedValue("Policy", "a1"), CarriedValue("Policy", "b2")
    tick = Tick(5, {"policy": two}, {"policy": (one, two)}, after=True)
    graph = compiled(TEXT, deployment="nightly", tick=tick)
    sources = [graph.nodes[i].params["digest"] for i in graph.nodes["mix"].inputs["policies"]]
    assert sources == ["a1", "b2"]
    assert [graph.nodes[i].params.get("digest") for i in graph.nodes["final"].inputs["policies"]] == ["b2", None]
    assert not any(n.round for n in graph.nodes.values())


def test_a_deployment_that_does_not_continue_is_the_pipeline(compiled: Compile) -> None:
    assert compiled(TEXT, deployment="plain").nodes == compiled(TEXT).nodes
    with pytest.raises(SpecError, match="ticks only in a deployment that continues"):
        compiled(TEXT, deployment="plain", tick=Tick(1))


WRONG = {
    "unknown deployment key": ("    plain: {", "    plain: {every: day, ", "p.deployments.plain has no key 'every'"),
    "unknown gate": ("gate: better", "gate: beter", "(did you mean 'better'?)"),
    "gate that is no report": ("gate: better", "gate: gate_batch", "the gate 'gate_batch' must be a Report"),
    "gate behind the loop": ("gate: better", "gate: mix", "the gate 'mix' is not a step of a round"),
    "gate without a step": ("{gate: better}", "{}", "needs the gate's step"),
    "alpha of 1": ("gate: better}", "gate: better, alpha: 1.0}", "alpha = 1.0; it must be a number above 0 and"),
    "alpha that is a text": ("gate: better}", "gate: better, alpha: low}", "alpha = 'low'; it must be a number"),
    "another key": ("gate: better}", "gate: better, alfa: 0.1}", "(did you mean 'alpha'?)"),
    "gate that reports no win rate": (
        "gate: better}\n      steps:",
        "gate: least}\n      steps:\n        least: {task: mixture, policies: [policy]}",
        "p: the gate 'least' is measured by mixture, which reports no win rate; tasks that do: measure",
    ),
    "unknown mode": ("continue: {gate: better}", "continue: allways", "(did you mean 'always'?)"),
    "cron": ("0 3 * * 1", "at three", "needs cron: five fields"),
    "cron out of range": ('0 2 * * *"', '61 25 * * *"', "cron = '61 25 * * *': no valid cron expression"),
    "cron by chance": ('0 2 * * *"', 'R R * * *"', "no valid cron expression"),
    "31 February": ('0 2 * * *"', '0 0 31 2 *"', "cron = '0 0 31 2 *': no date matches it, so that it would never run"),
    "timezone": ("Europe/Berlin", "Europe/Berlim", "timezone = 'Europe/Berlim'; an IANA name"),
    "steps without ticks": ("continue: {gate: better}", "continue: never", "belong to a tick"),
    "name taken": ("gate_prompts: {task: load", "prompts: {task: load", "the name is taken by the step at"),
    "last in a tick": ("baseline: prev.policy", "baseline: last.policy", "last.policy can be used only in `after`"),
    "unknown step in a tick": ("prompts: gate_batch", "prompts: gate_bach", "(did you mean 'gate_batch'?)"),
    "prev without start in a tick": ("baseline: prev.policy", "baseline: prev.pairs", "no meaning in the first round"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_deployment_is_refused_with_the_pipeline(case: str, compiled: Compile) -> None:
    old, new, part = WRONG[case]
    assert TEXT.count(old) == 1
    with pytest.raises(SpecError, match=rf"^pipelines\.yaml:.*{re.escape(part)}"):
        compiled(TEXT.replace(old, new), deployment="nightly")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("size: 64}", "size: 64, force: 1}").replace("size: 10", "size: $force"), "'force', and to its"),
        (TEXT.replace("rounds", "times").replace("size: 64}", "size: 64, rounds: 1}").replace("size: 10", "size: $rounds"),
         "'rounds', and to its deployment 'nightly' that means: ticks to make"),
    ],
)  # fmt: skip
def test_a_parameter_with_the_name_of_an_option_of_ticks_is_refused(text: str, message: str, compiled: Compile) -> None:
    with pytest.raises(SpecError, match=rf"^pipelines\.yaml:3:\d+: p has a parameter {message}"):
        compiled(text)
    assert compiled(text.split("  deployments:")[0].replace("size: 64, ", "")).nodes, "where nothing ticks"


def test_continuing_needs_a_loop(compiled: Compile) -> None:
    step = "    d: {task: evaluate, policy: base, baseline: base, prompts: prompts, oracle: judge}\n"
    text = TEXT.split("  repeat:")[0] + step
    with pytest.raises(SpecError, match="continues, and the pipeline has no `repeat`"):
        compiled(text + "  deployments: {x: {continue: always}}\n")


def test_a_step_that_only_a_deployment_reads_is_not_dead(compiled: Compile) -> None:
    text = TEXT.replace("    judge:", "    other: {task: load_oracle, oracle: toy_judge}\n    judge:")
    assert "other" in compiled(text).nodes, "a leaf is a result"
    text = text.replace("prompts: gate_batch, oracle: judge", "prompts: gate_batch, oracle: other")
    assert "other" not in compiled(text).nodes
    assert "other" in compiled(text, deployment="nightly").nodes
    assert "other" not in compiled(text + "v:\n  extends: p\n", "v").nodes, "it inherits no deployment"


def test_check_judges_every_pipeline_and_deployment(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    body = textwrap.indent(TEXT + "broken:\n  steps: {x: {task: nothing}}\n_hidden: {steps: {x: 3}}\n", "  ")
    file.write_text("pipelines:\n" + body)
    found = {(v.pipeline, v.deployment): v for v in check_pipelines(file, tasks_root=tree)}
    assert list(found) == [("p", None), ("p", "nightly"), ("p", "plain"), ("broken", None)]
    assert "there is no such task" in found["broken", None].error
    assert found["p", "nightly"].graph
    assert not found["p", "nightly"].error


def test_check_finds_what_breaks_only_in_the_second_tick(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    text = TEXT.replace("[prev.pool, pairs]", "[prev.pool, pairs, extra]").replace("    judge:", "    extra: {task: "
        "read_preferences, source: ./x}\n    judge:").replace("start: {policy: base, pool: null}", "start: {policy: base, "
        "pool: prompts}")  # fmt: skip
    file.write_text("pipelines:\n" + textwrap.indent(text, "  "))
    results = check_pipelines(file, tasks_root=tree)
    assert "takes inputs of one kind, not Prompts and Preferences" in results[0].error


def test_alpha_is_0_05_unless_given(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    for gate, alpha in (("gate: better", 0.05), ("gate: better, alpha: 0.01", 0.01)):
        file.write_text("pipelines:\n" + textwrap.indent(TEXT.replace("gate: better", gate), "  "))
        found = PipelineFile(file).pipeline("p").deployments["nightly"]
        assert (str(found.gate and found.gate.value), found.alpha) == ("better", alpha)
