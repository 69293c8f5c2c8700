"""The parameters that runs of different pipelines are compared by: few, of one meaning, on one scale."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.reporting.comparison import run_labels
from flows.reporting.parameters import chosen_params, overridden_parameters
from flows.store.runs import Run
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph, Parameter
from flows.wiring.types import Type

PROJECT = Path(__file__).parents[3] / "pipelines.yaml"


def _graph(name: str, **values: str) -> Graph:
    return compile_pipeline(PROJECT, name, values, lenient=True)


def test_runs_of_any_method_have_the_same_axes() -> None:
    """1/η = 1/10 of SPPO, β of DPO, the KL coefficient of PPO: all are the weight of the KL term."""
    sppo, dpo, ppo = (chosen_params(_graph(name)) for name in ("sppo", "iterative-dpo", "rm-ppo"))
    assert [p["algorithm"] for p in (sppo, dpo, ppo)] == ["sppo", "dpo", "ppo"]
    assert [float(p["kl_weight"]) for p in (sppo, dpo, ppo)] == [0.1, 0.1, 0.1]
    changed = [_graph("sppo", eta="4"), _graph("iterative-dpo", beta="0.25"), _graph("rm-ppo", kl_coef="0.25")]
    assert [chosen_params(graph)["kl_weight"] for graph in changed] == ["0.25"] * 3
    assert [p["oracle"] for p in (sppo, dpo, ppo)] == ["toy_judge", "toy_judge", "reward_model"]
    assert [p["gold"] for p in (sppo, dpo, ppo)] == ["toy_gold"] * 3
    axes = {"pipeline", "algorithm", "rounds", "pipeline/k", "kl_weight", "oracle", "gold", "model", "train/lr"}
    for params in (sppo, dpo, ppo):
        assert axes <= params.keys()
    for name in ("kl_weight", "rounds", "pipeline/k", "train/lr"):
        assert all(float(p[name]) >= 0 for p in (sppo, dpo, ppo))


def test_mlflows_comparison_begins_with_what_sets_methods_apart() -> None:
    """It takes the first three names that differ, by the alphabet."""
    sppo, ppo = chosen_params(_graph("sppo")), chosen_params(_graph("rm-ppo"))
    differ = sorted(n for n in sppo.keys() | ppo.keys() if sppo.get(n) != ppo.get(n))
    assert differ[0] == "algorithm"
    assert "oracle" in differ
    assert not any(n.startswith("train/") for n in differ[:3])
    offline = chosen_params(_graph("offline-dpo"))
    assert sorted(n for n in sppo.keys() | offline.keys() if sppo.get(n) != offline.get(n))[:3] == [
        "algorithm", "kl_weight", "oracle"
    ]  # fmt: skip


def test_a_parameter_is_logged_by_every_run_of_a_pipeline_or_by_none() -> None:
    assert overridden_parameters(_graph("sppo")) == {}
    swept = _graph("sppo", eta="5.0", epochs="2")
    assert overridden_parameters(swept) == {"eta": 5.0, "epochs": 2}
    plain, params = chosen_params(_graph("sppo")), chosen_params(swept)
    assert plain.keys() == params.keys()
    assert (params["pipeline/eta"], params["kl_weight"], params["train/epochs"]) == ("5.0", "0.2", "2")
    assert (plain["pipeline/eta"], plain["kl_weight"], plain["train/epochs"]) == ("10.0", "0.1", "4")
    assert "pipeline/epochs" not in params


@pytest.mark.parametrize("name", ["offline-dpo", "reward-model"])
def test_a_pipeline_without_rounds_has_one_and_leaves_out_what_it_has_not(name: str) -> None:
    params = chosen_params(_graph(name))
    assert params["rounds"] == "1"
    assert "pipeline/k" not in params
    assert params["oracle"] == "toy_gold"


def test_parameters_that_only_say_how_a_step_runs_are_left_out_and_one_without_a_value_is_null() -> None:
    graph = _graph("sppo")
    more = {
        "workers": Parameter("workers", 2, Type("int", execution=True)), "cut": Parameter("cut", None),
        "loss": Parameter("loss", {"dpo": {"beta": 0.5}}),
    }  # fmt: skip
    chosen = chosen_params(replace(graph, parameters={**graph.parameters, **more}))
    assert chosen["pipeline/cut"] == "null"
    assert chosen["pipeline/loss"] == "dpo(beta=0.5)"
    assert "pipeline/workers" not in chosen


def test_a_label_has_what_differs_but_for_parameters_without_a_value() -> None:
    ids = [f"20261128-13000{n}-dpo-0000" for n in range(2)]
    swept = [{"beta": 0.5, "loss": "dpo"}, {"beta": None, "loss": "hinge"}]
    runs = [Run(id, "dpo", values) for id, values in zip(ids, swept, strict=True)]
    assert run_labels(runs) == ["dpo beta=0.5 loss=dpo", "dpo loss=hinge"]
    cut = [Run(id, "dpo", {"max_tokens": value}) for id, value in zip(ids, (None, 64), strict=True)]
    assert run_labels(cut) == ["dpo max_tokens=null", "dpo max_tokens=64"]
