# ruff: noqa: E501
"""`extends`: what is merged, what is replaced, what null removes."""

import re
from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Graph
from tasks.contract import SpecError
from tests.flows.codebases import write_files
from tests.flows.wiring.conftest import Compile

BASE = """
base:
  about: the base
  params: {rounds: 2, lr: 1.0e-3, eta: 10.0}
  steps:
    policy0: {task: load_policy, source: toy}
    prompts: {task: load_prompts, source: toy}
    held: {task: load_prompts, source: toy, split: heldout}
    judge: {task: load_oracle, oracle: {toy_judge: {sharpness: 2}}}
  repeat:
    times: $rounds
    start: {policy: policy0}
    steps:
      answers: {task: sample, policy: prev.policy, prompts: prompts, k: 5, temperature: 0.7}
      probs: {task: compare, completions: answers, oracle: judge}
      rates: {task: win_rates, win_probs: probs, completions: answers}
      policy: {task: train, policy: prev.policy, ref: prev.policy, data: rates, loss: {sppo: {eta: $eta}}, lr: $lr}
      report: {task: evaluate, policy: policy, baseline: policy0, prompts: held, oracle: judge}
  after:
    mix: {task: mixture, policies: every.policy}
  deployments:
    nightly: {continue: always}
"""


@pytest.fixture
def variant(compiled: Compile) -> Compile:
    def compile_(text: str, **options: object) -> Graph:
        return compiled(BASE + "v:\n  extends: base\n" + text, "v", **options)

    return compile_


def test_an_empty_variant_is_its_base_without_about_and_deployments(variant: Compile, compiled: Compile) -> None:
    graph = variant("")
    assert graph.nodes.keys() == compiled(BASE, "base").nodes.keys()
    assert graph.about == ""
    with pytest.raises(SpecError, match="v has no deployment 'nightly'"):
        variant("", deployment="nightly")


def test_keys_of_a_step_are_merged_and_its_values_replaced(variant: Compile) -> None:
    graph = variant("  repeat: {steps: {answers: {k: 7}}}\n  steps: {judge: {oracle: {toy_judge: {}}}}\n")
    assert graph.nodes["answers@1"].params["k"] == 7
    assert graph.nodes["answers@1"].params["temperature"] == 0.7
    assert graph.nodes["judge"].params["oracle"] == ChoiceValue("oracles", "toy_judge", {"sharpness": 1.0})


def test_a_step_with_its_own_task_replaces(variant: Compile) -> None:
    graph = variant("  repeat: {steps: {answers: {task: sample, policy: policy0, prompts: prompts}}}\n")
    assert graph.nodes["answers@1"].params["k"] == 4
    assert graph.nodes["answers@1"].params["temperature"] == 1.0


def test_params_times_start_and_after_are_merged(variant: Compile) -> None:
    graph = variant(
        "  params: {lr: 0.5}\n  repeat: {times: 3, start: {policy: other}}\n"
        "  steps: {other: {task: load_policy, source: ./x}}\n  after: {mix2: {task: mixture, policies: last.policy}}\n"
    )
    assert graph.rounds == 3
    assert graph.nodes["answers@1"].inputs["policy"] == ("other",)
    assert graph.nodes["policy@1"].params["lr"] == 0.5
    assert {"mix", "mix2"} <= set(graph.nodes)
    assert graph.notices == ("v inherits the parameter 'rounds', which nothing reads: dropped",)


def test_null_removes_a_step_a_key_and_a_loop(variant: Compile) -> None:
    graph = variant("  repeat: {steps: {report: null, answers: {k: null}}}\n  after: {mix: null}\n")
    assert graph.nodes["answers@1"].params["k"] == 4
    assert not graph.headline
    assert "mix" not in graph.nodes
    assert any("inherits the step 'held'" in n for n in graph.notices)
    flat = variant(
        "  repeat: null\n  after: null\n  steps: {report: {task: evaluate, policy: policy0, baseline: policy0, "
        "prompts: held, oracle: judge}}\n"
    )
    assert flat.rounds == 0
    assert flat.headline == ("report",)
    dropped = [n for n in flat.notices if n.endswith("dropped")]
    assert [re.findall(r"'(\w+)'", n)[0] for n in dropped] == ["prompts", "rounds", "lr", "eta"]


def test_null_removes_an_inherited_parameter_and_a_new_null_is_required(variant: Compile) -> None:
    text = "  params: {eta: null, size: }\n  repeat: {steps: {policy: {loss: sppo}, answers: {k: $size}}}\n"
    with pytest.raises(SpecError, match="v needs a value for 'size'"):
        variant(text)
    graph = variant(text, overrides={"size": 3})
    assert "eta" not in graph.parameters
    assert graph.parameters["size"].required


def test_a_removed_step_takes_its_start_with_it(compiled: Compile) -> None:
    text = BASE + (
        "mid:\n  extends: base\n  repeat:\n    start: {rates: null}\n    steps:\n"
        "      all: {task: concat, tables: [prev.rates, rates]}\n      policy: {data: all}\n"
        "v:\n  extends: mid\n  repeat:\n    steps:\n      all: null\n      rates: null\n      pairs: {task: pairs, "
        "win_probs: probs, completions: answers}\n      policy: {data: pairs, loss: dpo}\n"
    )
    assert "eta" not in compiled(text, "v").parameters


def test_an_inherited_start_that_nothing_reads_is_dropped_with_a_notice(variant: Compile) -> None:
    graph = variant("  repeat: {steps: {answers: {policy: policy0}, policy: {policy: policy0, ref: policy0}}}\n")
    assert graph.notices == ("v inherits the start of 'policy', which nothing reads as prev.policy: dropped",)


def test_a_leaf_that_is_written_here_stays_and_one_that_lost_its_reader_goes(compiled: Compile) -> None:
    text = BASE + (
        "x:\n  extends: base\n  steps: {more: {task: load_prompts, source: toy}}\n"
        "y:\n  extends: x\n  repeat: {steps: {report: null}}\n"
    )
    graph = compiled(text, "y")
    assert "more" in graph.addresses, "a leaf of x, so one of y"
    assert "held" not in graph.nodes, "only the report read it"
    assert any("inherits the step 'held', which nothing here reads any more: dropped" in n for n in graph.notices)


WRONG = {
    "unknown base": ("x:\n  extends: bse\n", "x", "x.extends = 'bse'; there is no such pipeline; choose one of [base] "
                     "(did you mean 'base'?)"),
    "near itself only": ("ba:\n  extends: baa\n", "ba", "choose one of [base]"),
    "circle": ("x:\n  extends: y\ny:\n  extends: x\n", "x", "a circle of extends: x → y → x"),
    "itself": ("x:\n  extends: x\n", "x", "a circle of extends: x → x"),
    "null step": ("x:\n  extends: base\n  steps: {nothing: null}\n", "x", "x.steps.nothing = null removes nothing"),
    "null key": ("x:\n  extends: base\n  steps: {held: {nothing: null}}\n", "x", "x.steps.held.nothing = null removes nothing"),
    "null section": ("x:\n  extends: base\n  repeat: {each: null}\n", "x", "x.repeat.each = null removes nothing"),
    "written here": ("x:\n  extends: base\n  params: {more: 3}\n", "x", "x has the parameter 'more', which nothing reads"),
    "no task": ("x:\n  extends: base\n  steps: {more: {split: a}}\n", "x", "x.more has no task"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_variant_is_refused(case: str, compiled: Compile) -> None:
    text, name, part = WRONG[case]
    with pytest.raises(SpecError, match=rf"^pipelines\.yaml:\d+:\d+: .*{re.escape(part)}"):
        compiled(BASE + text, name)


OTHERS = {
    "lab/private.yaml": "pipelines:\n  mine:\n    extends: ../pipelines.yaml#base\n    params: {eta: 3.0}\n"
    "  _hidden: {extends: mine, params: {lr: 0.2}}\n  p: {extends: ../pipelines.yaml#back}\n  broken: {extends: lost.yaml#x}\n"
    "  near: {extends: ../pipelines.yaml#bas}\n",
}


def test_a_pipeline_extends_one_of_another_file_by_a_path_from_its_own(
    compiled: Compile, tree: Path, tmp_path: Path
) -> None:
    write_files(tmp_path, OTHERS)
    graph = compiled(BASE + "p:\n  extends: lab/private.yaml#_hidden\n  params: {rounds: 1}\n")
    assert [graph.parameters[n].value for n in ("eta", "lr", "rounds")] == [3.0, 0.2, 1]
    assert compile_pipeline(tmp_path / "lab" / "private.yaml", "mine", tasks_root=tree).rounds == 2


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("lab/private.yaml#mein", "pipelines.yaml:24:14: p.extends = 'lab/private.yaml#mein'; there is no such pipeline in "
         "lab/private.yaml; choose one of [_hidden, broken, mine, near, p] (did you mean 'mine'?)"),
        ("lab/privat.yaml#mine", "no file lab/privat.yaml (NAME, FILE#NAME with a path from here, or alignflow#NAME)"),
        ("lab/private.yaml#broken", "lab/private.yaml:7:21: broken.extends = 'lost.yaml#x'; there is no file lab/lost.yaml"),
        ("lab/private.yaml#near", "lab/private.yaml:8:19: near.extends = '../pipelines.yaml#bas'; there is no such pipeline "
         "in pipelines.yaml"),
        ("lab/private.yaml#p", "a circle of extends: p → lab/private.yaml#p → back → lab/private.yaml#p"),
    ],
)  # fmt: skip
def test_a_wrong_reference_to_another_file_is_refused_where_it_stands(
    extends: str, message: str, compiled: Compile, tmp_path: Path
) -> None:
    write_files(tmp_path, OTHERS)
    with pytest.raises(SpecError, match=re.escape(message)):
        compiled(BASE + f"p:\n  extends: {extends}\nback:\n  extends: lab/private.yaml#p\n")
