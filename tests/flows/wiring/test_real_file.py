"""The project's own pipelines.yaml."""

import json
from pathlib import Path
from time import process_time
from typing import Any

from blake3 import blake3
from jsonschema import Draft202012Validator

from flows.wiring.catalogue import Catalogue
from flows.wiring.check_results import check_pipelines
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Graph, Node, Parameter
from flows.wiring.schema import json_schema
from flows.wiring.text import PipelineFile
from flows.wiring.tree import read
from tasks.contract import JSON
from tests.flows.wiring.conftest import FILE, Compile


def test_every_pipeline_and_deployment_compiles(tmp_path: Path) -> None:
    results = check_pipelines(FILE, cache=tmp_path / "python.json")
    assert {(v.pipeline, v.deployment) for v in results} >= {
        ("sppo", None), ("sppo", "nightly"), ("offline-dpo", None),
    }  # fmt: skip
    assert not [v.error for v in results if v.error]


def test_the_schema_accepts_the_file() -> None:
    errors = Draft202012Validator(json_schema(Catalogue())).iter_errors(read(FILE).plain)
    assert not [f"{e.json_path}: {e.message}" for e in errors]


def test_a_warm_compile_takes_little_time(tmp_path: Path) -> None:
    compile_pipeline(FILE, "sppo", cache=tmp_path / "python.json")
    begin = process_time()
    compile_pipeline(FILE, "sppo", cache=tmp_path / "python.json")
    assert process_time() - begin < 0.2


def test_sppo_is_three_rounds_each_from_the_one_before(shipped: Compile) -> None:
    graph = shipped("sppo")
    assert graph.headline == ("report@1", "report@2", "report@3")
    assert graph.nodes["completions@3"].inputs["policy"] == ("policy@2",)
    assert "base_check" in graph.nodes
    trained = [n.id for n in graph.nodes.values() if n.task == "fit"]
    assert trained == ["base", "policy@1", "policy@2", "policy@3"]


def _contents(graph: Graph) -> dict[str, str]:
    """What each node is apart from its name, as a digest: task, parameters and, of its inputs, the same."""
    found: dict[str, str] = {}
    for id, node in graph.nodes.items():
        inputs = {port: tuple(found[i] for i in ids) for port, ids in node.inputs.items()}
        whole = repr((node.task, sorted(node.params.items()), sorted(inputs.items())))
        found[id] = blake3(whole.encode()).hexdigest()
    return found


def test_a_sweep_over_losses_costs_one_loading_and_one_set_of_reference_log_probabilities(tmp_path: Path) -> None:
    losses: list[JSON] = [
        "dpo", "robust_dpo", "dpo_two_betas", "dpo_positive", "rpo", {"ipo": {"norm": "sum"}}, "hinge", "apo_zero",
        "apo_down", "exo", "nca", "bco", {"gpo": {"curve": "savage"}}, {"length_dpo": {"alpha": -0.01}}, "discopop",
    ]  # fmt: skip
    parses = tmp_path / "python.json"
    graphs = [compile_pipeline(FILE, "offline-dpo", {"loss": loss}, cache=parses) for loss in losses]
    contents = [_contents(graph) for graph in graphs]
    shared = set.intersection(*(set(found.values()) for found in contents))
    for graph, found in zip(graphs, contents, strict=True):
        own = [id for id in graph.nodes if found[id] not in shared]
        assert own[0] == "policy"
        assert all(id.startswith(("policy", "report")) for id in own)
        assert {"base", "pairs", "policy/tokenize", "policy/logps", "report/base_check"}.isdisjoint(own)


def test_iterative_dpo_shares_with_sppo_all_that_comes_before_its_own_first_pairs(shipped: Compile) -> None:
    sppo, dpo = (_contents(shipped(name)) for name in ("sppo", "iterative-dpo"))
    own = [id for id, content in dpo.items() if content not in sppo.values()]
    before = ("base", "heldout", "judge", "gold", "base_check")
    for shared in (*before, "batch@1", "completions@1", "win_probs@1", "batch@3"):
        assert dpo[shared] == sppo[shared]
    assert next(iter(own)) == "new_pairs@1"
    assert dpo["completions@2"] != sppo["completions@2"]


def test_seven_methods_on_the_same_prompts_cost_one_sampling_and_one_judging(shipped: Compile) -> None:
    names = ["one-round", *(f"one-round-{m}" for m in ("ipo", "sppo", "kto", "raft", "rrhf", "rebel"))]
    training = {"sample": set[str](), "score": set[str](), "compare": set[str](), "fit": set[str]()}
    for graph in map(shipped, names):
        contents = _contents(graph)
        for id, node in graph.nodes.items():
            if node.task in training and not id.startswith(("report", "base")):
                training[node.task].add(contents[id])
    assert {task: len(steps) for task, steps in training.items()} == {"sample": 1, "score": 1, "compare": 0, "fit": 7}


def test_the_pool_of_iterative_dpo_grows_and_its_reference_is_what_the_wiring_says(shipped: Compile) -> None:
    graph = shipped("iterative-dpo")
    assert graph.nodes["pool@1"].inputs["tables"] == ("new_pairs@1",)
    assert graph.nodes["pool@3"].inputs["tables"] == ("pool@2", "new_pairs@3")
    references = {}
    for name in ("", "-base-ref", "-from-base"):
        graph = shipped(f"iterative-dpo{name}")
        fit, ref = graph.nodes["policy@3"], graph.nodes["policy/logps@3"]
        references[name] = fit.inputs["policy"] + ref.inputs["policy"]
    assert references == {"": ("policy@2", "policy@2"), "-base-ref": ("policy@2", "base"), "-from-base": ("base",) * 2}
    offline = shipped("iterative-dpo-offline-start")
    assert offline.nodes["pool@1"].inputs["tables"] == ("offline", "new_pairs@1")


def test_the_variants_of_iterative_dpo_explore_as_they_say(shipped: Compile) -> None:
    def sampled(variant: str, second: str) -> list[tuple[object, ...]]:
        nodes = shipped(f"iterative-dpo-{variant}").nodes
        both = (nodes["current@3"], nodes[f"{second}@3"])
        return [(n.inputs["policy"], n.params["temperature"], n.params["stream"]) for n in both]

    current = (("policy@2",), 1.0, 0)
    assert sampled("two-explorers", "bases") == [current, (("base",), 1.0, 1)]
    assert sampled("temperatures", "hotter") == [current, (("policy@2",), 1.2, 1)]
    assert sampled("older", "olds") == [current, (("policy@1",), 1.0, 1)]


def test_the_held_out_pairs_of_the_reward_model_are_other_peoples_on_other_prompts(shipped: Compile) -> None:
    graph = shipped("reward-model")
    report = graph.nodes["report"]
    assert report.inputs == {"pairs": ("eval_pairs",), "oracle": ("reward",)}
    assert report.opens == {"RewardModel"}
    splits = [graph.nodes[f"{name}/load_prompts"].params["split"] for name in ("pairs", "eval_pairs")]
    assert splits == ["rm", "heldout"]
    assert graph.nodes["eval_pairs"].params["size"] >= 1000


MORE_SPLITS = ("heldout", "pairs_heldout", "pairs_more")
"""Parameters that name a split of the data, besides those that are called so."""
DATA = ("prompts", "pairs", "golden", "labels", "demonstrations", "scores")
"""Parameters that name a source of data."""


def _folder(parameter: Parameter) -> str:
    """That of the choice which it names, empty where it names none."""
    return parameter.type.choice.folder if parameter.type and parameter.type.choice else ""


def _is_of_a_file(node: Node) -> bool:
    source = node.params.get("source")
    return isinstance(source, ChoiceValue) and source.name == "path"


def test_every_split_longest_answer_and_share_of_skipped_rows_can_be_given_in_every_wiring(tmp_path: Path) -> None:
    for name in PipelineFile(FILE).names:
        known = compile_pipeline(FILE, name, cache=tmp_path / "python.json", lenient=True).parameters
        splits = {n: f"my_{n}" for n in known if n in MORE_SPLITS or n.endswith("split")}
        files = {n: "./mine.jsonl" for n in DATA if n in known and _folder(known[n]) == "sources"}
        oracles = {n: "./reward-model" for n in known if _folder(known[n]) == "oracles"}
        given = {**splits, **files, **oracles, "max_skipped": 0.25, "max_tokens": 33}
        nodes = compile_pipeline(FILE, name, given, cache=tmp_path / "python.json", lenient=True).nodes.values()
        loads = [n for n in nodes if _is_of_a_file(n)]
        assert {n.params["split"] for n in loads} == set(splits.values())
        assert {n.params["max_skipped"] for n in loads} == ({0.25} if loads else set())
        assert {n.params["max_tokens"] for n in nodes if "max_tokens" in n.params} <= {33}


def test_a_pipeline_that_leaves_any_of_its_parameters_open_is_checked_as_well(tmp_path: Path) -> None:
    plain: Any = read(FILE).plain
    name = "apo"
    file, params = tmp_path / "pipelines.yaml", plain["pipelines"][name]["params"]
    for param in params:
        plain["pipelines"][name]["params"] = {**params, param: None}
        file.write_text(json.dumps(plain))
        assert not [v.error for v in check_pipelines(file, [name], cache=tmp_path / "python.json") if v.error], param
