# ruff: noqa: E501
"""What the grammar means: rounds, references, composites, choices, one node for equal steps."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flows.wiring.builder import Builder
from flows.wiring.draw import draw_graph
from flows.wiring.machine import has_gpu
from flows.wiring.model import ChoiceValue, Graph, Node
from flows.wiring.tree import yaml_from_json
from flows.wiring.types import Type, checked_value, parse_type
from flows.wiring.where import Where
from tasks.contract import Bounds, SpecError
from tests.flows.codebases import catalogue_of, write_files
from tests.flows.wiring.conftest import TREE, Compile

LOOP = """
p:
  params: {rounds: 3, lr: 1.0e-3}
  steps:
    base: {task: load_policy, source: toy}
    pool0: {task: read_preferences, source: ./pairs.jsonl}
    prompts: {task: load_prompts, source: toy}
    judge: {task: load_oracle, oracle: toy_gold}
  repeat:
    times: $rounds
    start: {policy: base, pool: null, older: null}
    steps:
      older: prev.policy
      batch: {task: take_batch, table: prompts, index: $round, size: 10}
      answers: {task: sample, policy: prev.policy, prompts: batch}
      probs: {task: compare, completions: answers, oracle: judge}
      pairs: {task: pairs, completions: answers, win_probs: probs}
      pool: {task: concat, tables: [pool0, prev.pool, pairs]}
      policy: {task: train, policy: base, ref: base, data: pool, loss: dpo, lr: $lr}
      mix: {task: mixture, policies: [policy, prev.older]}
  after:
    best: {task: mixture, policies: [every.policy, base], shares: [0.5, 0.5]}
    final: {task: mixture, policies: last.policy}
"""


def inputs(graph: Graph, address: str) -> dict[str, tuple[str, ...]]:
    return dict(graph.nodes[graph.addresses[address]].inputs)


@pytest.fixture
def loop(compiled: Compile) -> Graph:
    return compiled(LOOP)


def test_prev_is_the_round_before_and_start_in_the_first(loop: Graph) -> None:
    assert [inputs(loop, f"answers@{r}")["policy"] for r in (1, 2, 3)] == [("base",), ("policy@1",), ("policy@2",)]
    assert [loop.nodes[f"batch@{r}"].params["index"] for r in (1, 2, 3)] == [1, 2, 3]


def test_a_null_start_vanishes_from_a_list(loop: Graph) -> None:
    assert inputs(loop, "pool@1")["tables"] == ("pool0", "pairs@1")
    assert inputs(loop, "pool@2")["tables"] == ("pool0", "pool@1", "pairs@2")
    assert loop.nodes["pool@2"].lists == {"tables"}


def test_a_plain_reference_carries_a_value_one_round_further(loop: Graph) -> None:
    assert [inputs(loop, f"mix@{r}")["policies"] for r in (1, 2, 3)] == [
        ("policy@1",), ("policy@2", "base"), ("policy@3", "policy@1"),
    ]  # fmt: skip
    assert loop.addresses["older@3"] == "policy@2"


def test_every_is_spliced_over_the_rounds_and_last_is_the_last_one(loop: Graph) -> None:
    assert inputs(loop, "best")["policies"] == ("policy@1", "policy@2", "policy@3", "base")
    assert inputs(loop, "final")["policies"] == ("policy@3",)


def test_inputs_come_first_in_the_order_of_nodes(loop: Graph) -> None:
    seen: set[str] = set()
    for name, node in loop.nodes.items():
        assert {i for ids in node.inputs.values() for i in ids} <= seen
        seen.add(name)


def test_more_rounds_leave_the_first_ones_as_they_are(compiled: Compile, loop: Graph) -> None:
    longer = compiled(LOOP, overrides={"rounds": 5})
    for name in ("answers@2", "policy@3", "pool@3"):
        assert replace(longer.nodes[name], addresses=()) == replace(loop.nodes[name], addresses=())
    assert longer.rounds == 5


def test_a_leaf_in_the_loop_is_a_result_of_every_round_with_a_notice(compiled: Compile) -> None:
    past = "      past: {task: sample, policy: policy, prompts: batch, stream: 7}\n"
    graph = compiled(LOOP.replace("  after:\n", past + "  after:\n"))
    assert {"past@1", "past@2", "past@3"} <= graph.nodes.keys()
    assert graph.notices == ("p: nothing reads the step 'past'; it is a result of the run",)


def test_a_graph_may_end_in_data(compiled: Compile) -> None:
    graph = compiled("""
        p:
          steps:
            base: {task: load_policy, source: toy}
            prompts: {task: load_prompts, source: toy}
            spare: {task: load_oracle, oracle: toy_judge}
            judge: {task: load_oracle, oracle: toy_gold}
            answers: {task: sample, policy: base, prompts: prompts}
            probs: {task: compare, completions: answers, oracle: judge}
            chosen: {task: pairs, completions: answers, win_probs: probs}
            alike: chosen
        """)
    assert {"chosen", "spare", "probs"} <= graph.nodes.keys()
    assert graph.addresses["alike"] == "chosen"
    assert [re.findall(r"'(\w+)'", n) for n in graph.notices] == [["spare"], ["alike"]]


def test_the_inner_steps_of_a_composite_have_addresses_of_their_own(loop: Graph) -> None:
    assert loop.nodes["policy@2"].task == "fit"
    assert loop.nodes["policy@2"].addresses == ("policy@2", "policy/fit@2", "older@3")
    assert loop.nodes["policy/logps@2"].title == "round 2 · policy/logps"
    assert loop.addresses["base/pretrain/fit"] == "base"


EVALUATION = """
p:
  steps:
    base: {task: load_policy, source: toy}
    held: {task: load_prompts, source: toy, split: heldout}
    gold: {task: load_oracle, oracle: ORACLE}
    base_check: {task: evaluate, policy: base, baseline: base, prompts: held, oracle: gold}
    report: {task: evaluate, policy: base, baseline: base, prompts: held, oracle: gold}
"""


def test_equal_steps_are_one_node_with_all_its_addresses(compiled: Compile) -> None:
    graph = compiled(EVALUATION.replace("ORACLE", "toy_gold"))
    assert graph.nodes["base_check"].addresses == ("base_check", "base_check/measure", "report/measure", "report")
    assert graph.headline == ("base_check",)
    assert sum(n.task == "sample" for n in graph.nodes.values()) == 2


def test_the_chosen_functions_annotation_decides_the_kind(compiled: Compile) -> None:
    scorer = compiled(EVALUATION.replace("ORACLE", "toy_gold"))
    oracle = compiled(EVALUATION.replace("ORACLE", "{toy_judge: {sharpness: 2}}"))
    assert scorer.nodes["gold"].kind == "Scorer"
    assert oracle.nodes["gold"].kind == "Oracle"
    assert "base_check/score" in scorer.nodes
    assert "base_check/score" not in oracle.nodes
    assert oracle.nodes["gold"].params["oracle"] == ChoiceValue("oracles", "toy_judge", {"sharpness": 2.0})


def test_a_reward_model_decides_wherever_an_oracle_is_wanted_and_is_told_from_one_that_trains(
    compiled: Compile,
) -> None:
    graph = compiled("""
p:
  steps:
    base: {task: load_policy, source: toy}
    held: {task: load_prompts, source: toy, split: heldout}
    pairs: {task: read_preferences, source: ./pairs.jsonl}
    reward: {task: train_reward, policy: base, data: pairs, loss: bradley_terry, lr: 1.0e-3}
    report: {task: evaluate, policy: base, baseline: base, prompts: held, oracle: reward}
""")
    assert graph.nodes["report/score"].inputs["oracle"] == ("reward",)
    opens = {id: node.opens for id, node in graph.nodes.items() if node.opens}
    assert opens == dict.fromkeys(["report/compare", "report/score"], frozenset({"RewardModel"}))


def test_a_scalar_that_is_no_identifier_goes_to_the_other_choice(compiled: Compile) -> None:
    graph = compiled(EVALUATION.replace("ORACLE", "toy_gold").replace("source: toy}", "source: ./ckpt}"))
    assert graph.nodes["base"].task == "read_policy"
    assert graph.nodes["base"].params["source"] == ChoiceValue("sources", "path", {"path": "./ckpt", "column": None})


def test_seed_feeds_what_steps_leave_open_but_no_inner_step_and_no_world(compiled: Compile) -> None:
    text = EVALUATION.replace("ORACLE", "toy_gold") + (
        "    open: {task: sample, policy: base, prompts: held}\n    fixed: {task: sample, policy: base, prompts: held, seed: 5}\n"
        "    probs: {task: compare, completions: open, others: fixed, oracle: gold}\n"
        "    measured: {task: measure, win_probs: probs, completions: open, others: fixed}\n"
    )
    graph = compiled(text, overrides={"seed": "3"})
    assert [graph.nodes[n].params["seed"] for n in ("open", "fixed", "base_check/sample", "base")] == [3, 5, 3, 0]
    source = graph.nodes["held"].params["source"]
    assert isinstance(source, ChoiceValue)
    assert source.params["seed"] == 0
    assert graph.parameters["seed"].value == 3


def test_engine_and_execution_parameters_feed_inner_steps_and_choices(compiled: Compile) -> None:
    text = EVALUATION.replace("ORACLE", "toy_gold")
    graph = compiled(text, overrides={"engine": "transformers", "workers": "3", "devices": "2", "micro_batch": "4"})
    node = graph.nodes["base_check/sample"]
    assert node.params["engine"] == ChoiceValue("engines", "transformers", {"dtype": "float32"}, {"workers": 3})
    assert node.execution == {"devices": 2}
    assert "devices" not in node.params
    assert graph.nodes["base"].execution == {"micro_batch": 4}


@pytest.mark.parametrize(("gpu", "engine", "dtype"), [(True, "vllm", "bfloat16"), (False, "transformers", "float32")])
def test_engine_and_number_type_are_settled_before_the_key(
    gpu: bool, engine: str, dtype: str, compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:
        (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("flows.system.gpus.DEVICES", tmp_path)
    monkeypatch.setattr("flows.wiring.machine.version", lambda name: "2.13.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    chosen = compiled(EVALUATION.replace("ORACLE", "toy_gold")).nodes["base_check/sample"].params["engine"]
    assert isinstance(chosen, ChoiceValue)
    assert chosen.name == engine
    kind = parse_type('Literal["auto", "float32", "bfloat16"]')
    assert checked_value(kind, yaml_from_json("auto", Where("test")), "dtype") == dtype
    assert checked_value(kind, yaml_from_json("float32", Where("test")), "dtype") == "float32"


@pytest.mark.parametrize(("visible", "torch"), [("", "2.13.0"), ("-1", "2.13.0"), ("0", "2.13.0+cpu")])
def test_a_gpu_that_no_step_can_use_is_none(
    visible: str, torch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia1").touch()
    monkeypatch.setattr("flows.system.gpus.DEVICES", tmp_path)
    monkeypatch.setattr("flows.wiring.machine.version", lambda name: torch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert not has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("flows.wiring.machine.version", lambda name: "2.13.0")
    assert has_gpu()


def test_two_execution_values_are_still_one_node(compiled: Compile) -> None:
    text = EVALUATION.replace("ORACLE", "toy_gold") + (
        "    a: {task: sample, policy: base, prompts: held, devices: 1}\n"
        "    b: {task: sample, policy: base, prompts: held, devices: 2}\n"
        "    c: {task: sample, policy: base, prompts: held, stream: 1}\n"
        "    pa: {task: compare, completions: a, others: c, oracle: gold}\n"
        "    ra: {task: measure, win_probs: pa, completions: b, others: c}\n"
    )
    assert compiled(text).addresses["b"] == "a"


TRAINING = """
p:
  params: {loss: dpo, lr: 1.0e-3}
  steps:
    base: {task: load_policy, source: toy}
    data: {task: read_preferences, source: pairs.jsonl}
    policy: {task: train, policy: base, ref: base, data: data, loss: $loss, lr: $lr}
"""


def test_a_loss_that_takes_no_reference_drops_the_edge_with_a_notice(compiled: Compile) -> None:
    graph = compiled(TRAINING, overrides={"loss": "simpo"})
    assert "ref_logps" not in graph.nodes["policy"].inputs
    assert "policy/logps" not in graph.nodes
    assert graph.notices == ("p.policy: the loss simpo takes no `ref`, so that edge is dropped",)
    assert compiled(TRAINING).notices == ()


def test_a_variable_keeps_the_kind_and_lists_are_of_one_kind(compiled: Compile) -> None:
    text = TRAINING.replace("data: data", "data: [a]").replace("data: [a]", "data: piece") + (
        "    piece: {task: take_batch, table: both, index: 1, size: 4}\n    both: {task: concat, tables: [data, data2]}\n"
        "    data2: {task: read_preferences, source: more.jsonl}\n"
    )
    assert compiled(text).nodes["piece"].kind == "Preferences"
    mixed = text.replace("data2: {task: read_preferences", "data2: {task: load_prompts")
    with pytest.raises(SpecError, match=r"p\.both \(concat\) takes inputs of one kind, not Preferences and Prompts"):
        compiled(mixed)


def test_values_pass_whole_and_nested_and_a_double_dollar_is_one(compiled: Compile) -> None:
    text = TRAINING.replace("loss: dpo,", "loss: {dpo: {beta: $beta}}, beta: 0.3, cut: $stop, stop: $$x,") + (
        "    held: {task: load_prompts, source: toy}\n    gold: {task: load_oracle, oracle: toy_gold}\n"
        "    a: {task: sample, policy: policy, prompts: held, stop: [$cut, $$y, z$]}\n"
        "    b: {task: sample, policy: base, prompts: held}\n    w: {task: compare, completions: a, others: b, oracle: gold}\n"
        "    m: {task: measure, win_probs: w, completions: a, others: b}\n"
    )
    graph = compiled(text)
    assert graph.nodes["a"].params["stop"] == ["$x", "$y", "z$"]
    assert graph.nodes["policy"].params["loss"] == ChoiceValue("losses/pairwise", "dpo", {"beta": 0.3})


def test_each_gives_a_value_per_round_and_the_number_of_rounds(compiled: Compile) -> None:
    text = LOOP.replace(
        "    times: $rounds\n", "    each: {lr: [3.0e-3, 2.0e-3]}\n").replace("rounds: 3, lr: 1.0e-3", "")  # fmt: skip
    graph = compiled(text)
    assert graph.rounds == 2
    assert [graph.nodes[f"policy@{r}"].params["lr"] for r in (1, 2)] == [0.003, 0.002]
    assert graph.parameters["lr"].value == [0.003, 0.002]
    assert str(graph.parameters["lr"].type) == "a list, each a number, above 0"
    longer = compiled(text, overrides={"lr": "[1, 2, 3, 4]"})
    assert [longer.nodes[f"policy@{r}"].params["lr"] for r in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(SpecError, match=r"command line: p\.lr = 0\.1; it must be a list with one value per round"):
        compiled(text, overrides={"lr": 0.1})


def test_the_last_value_of_each_repeats(compiled: Compile) -> None:
    text = LOOP.replace(
        "    start:", "    each: {lr: [3.0e-3, 2.0e-3]}\n    start:").replace(", lr: 1.0e-3", "")  # fmt: skip
    graph = compiled(text)
    assert [graph.nodes[f"policy@{r}"].params["lr"] for r in (1, 2, 3)] == [0.003, 0.002, 0.002]


def test_what_is_nothing_yet_leaves_an_optional_port_empty_and_a_required_one_is_refused(compiled: Compile) -> None:
    text = LOOP
    empty = text.replace("policies: [policy, prev.older]", "policies: prev.older")
    with pytest.raises(
        SpecError, match=r"needs its port 'policies' \(list\[Policy\]\) \(what feeds it is empty in this round"
    ):
        compiled(empty)
    optional = text.replace("ref: base, data: pool, loss: dpo", "ref: prev.older, data: pool, loss: simpo")
    assert compiled(optional).rounds == 3


def test_a_required_parameter_is_any_value_for_check_and_refused_for_a_run(compiled: Compile) -> None:
    text = TRAINING.replace("loss: dpo, lr: 1.0e-3", "loss: dpo, lr: , model: ").replace(
        "source: toy", "source: $model"
    )
    with pytest.raises(SpecError, match=r"pipelines.yaml:3:\d+: p needs a value for 'model': give model=…"):
        compiled(text)
    graph = compiled(text, lenient=True)
    assert graph.nodes["policy"].params["lr"] == "<lr>"
    assert graph.parameters["lr"].required
    assert str(graph.parameters["lr"].type) == "a number, above 0"
    assert compiled(text, overrides={"model": "org/name", "lr": 1e-6}).nodes["policy"].params["lr"] == 1e-6


def test_a_required_choice_is_any_choice_for_check(compiled: Compile) -> None:
    text = TRAINING.replace("loss: dpo,", "loss: ,")
    assert compiled(text, lenient=True).parameters["loss"].required
    assert compiled(text, overrides={"loss": "dpo"}).nodes["policy"].kind == "Policy"


def test_built_in_parameters_may_be_declared_and_say_when_they_feed_nothing(compiled: Compile) -> None:
    declared = compiled(TRAINING.replace("params: {", "params: {seed: 4, micro_batch: 2, "))
    assert declared.nodes["policy"].params["seed"] == 4
    assert declared.nodes["policy"].execution == {"micro_batch": 2}
    assert declared.parameters["micro_batch"].value == 2
    given = compiled(TRAINING, overrides={"tensor_parallel": 2})
    assert given.notices == ("p: 'tensor_parallel' feeds no step here",)


def test_every_round_goes_only_to_a_list(compiled: Compile) -> None:
    text = LOOP.replace(
        "rounds: 3", "rounds: 1") + "    s: {task: sample, policy: every.policy, prompts: prompts}\n"  # fmt: skip
    with pytest.raises(SpecError, match=r"p\.s\.policy = 'every\.policy'; it takes one Policy, not a list"):
        compiled(text)


def test_a_parameter_takes_type_bounds_and_text_from_what_it_feeds(compiled: Compile) -> None:
    graph = compiled(LOOP)
    lr, rounds = graph.parameters["lr"], graph.parameters["rounds"]
    assert (lr.type, lr.help, lr.value) == (Type("float", bounds=Bounds(above=0)), "peak learning rate.", 0.001)
    assert (str(rounds.type)[:26], rounds.help, rounds.value) == ("a whole number, at least 1", "number of rounds", 3)
    loss = compiled(TRAINING).parameters["loss"].type
    assert loss is not None
    assert {"dpo", "sppo", "rank"} <= set(loss.options)


def test_the_same_graph_can_be_built_in_python(compiled: Compile, tree: Path) -> None:
    builder = Builder(catalogue_of(tree), "p")
    base = builder.add("base", "load_policy", {"source": "toy"})
    data = builder.add("data", "read_preferences", {"source": "pairs.jsonl"})
    builder.add("policy", "train", {"policy": base, "ref": base, "data": data, "loss": {"dpo": {}}, "lr": 1e-3})
    built = builder.finish(sinks=["policy"])

    def parts(node: Node) -> tuple[object, ...]:
        return node.task, node.kind, node.params, node.inputs

    assert {k: parts(n) for k, n in built.nodes.items()} == {k: parts(n) for k, n in compiled(TRAINING).nodes.items()}
    with pytest.raises(SpecError, match=r"python: p.x \(train\) has no port or parameter 'los'.*did you mean 'loss'"):
        builder.add("x", "train", {"los": "dpo"})


def test_a_composite_that_adds_one_name_twice_is_refused(tmp_path: Path) -> None:
    text = """
        from __future__ import annotations

        def twice(add: Add) -> Policy:
            add('load_prompts', source='toy')
            return add('load_prompts', source='toy')
    """
    files = {**TREE, "composites.py": text, "sources/toy.py": "def toy() -> Source: ..."}
    with pytest.raises(SpecError, match=r"p\.x: twice adds two steps 'load_prompts'"):
        Builder(catalogue_of(write_files(tmp_path, files)), "p").add("x", "twice", {})


def test_drawings_name_every_step_and_edge(loop: Graph) -> None:
    text = draw_graph(loop, "text", {"base": "cached"}, colour=True)
    assert "round 2\n" in text
    assert "after the rounds\n" in text
    assert "tables: [pool0, pool@1, pairs@2]" in text
    assert text.count("\033[32m") == 1
    mermaid = draw_graph(loop, "mermaid", {"base": "cached"})
    assert mermaid.startswith("flowchart TD\n")
    assert mermaid.count("-->") == sum(len(ids) for n in loop.nodes.values() for ids in n.inputs.values())
    assert 'subgraph g1["round 1"]' in mermaid
    assert "classDef cached" in mermaid


def test_a_parameter_of_a_default_that_was_replaced_has_no_effect_and_a_notice_says_so(compiled: Compile) -> None:
    text = TRAINING.replace("loss: dpo,", "beta: 0.5, loss: {dpo: {beta: $beta}},")
    assert compiled(text, overrides={"beta": 0.3}).notices == ()
    given = compiled(text, overrides={"beta": 0.3, "loss": "simpo"})
    assert "p: 'beta' has no effect: it feeds the default of 'loss', which was given" in given.notices
