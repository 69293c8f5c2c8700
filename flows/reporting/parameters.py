"""The parameters by which runs of any pipeline are compared, named alike whatever the pipeline calls them.

MLflow's comparison begins with the first three names, by the alphabet, that differ: `algorithm`, `kl_weight` and
`oracle` are meant to be among them, and constants of the training are called `train/…` so that they come last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.reporting.comparison import short_value
from flows.store.keys import plain_value
from flows.store.lineage import MODELS
from flows.wiring.model import ChoiceValue, Graph, Node, Value
from tasks.contract import JSON, SpecError

TO_MODEL = ("completions", "logps", "oracle", "policy")
"""Ports that lead from an evaluation to the model that it measures, and from a part of a model to the whole."""
CONSTANTS = ("lr", "epochs", "batch")


def chosen_params(graph: Graph) -> dict[str, str]:
    """The axes by which pipelines are compared, then all further parameters of this one; none that only says how a
    step runs.

    Which they are follows from the pipeline alone, whatever a run gave: a page that compares runs draws a parameter
    that one of them lacks at a value that it never had.
    """
    values = {n: p.value for n, p in graph.parameters.items() if not p.annotation.startswith("Execution[")}
    trained = training_step(graph)
    found: dict[str, JSON] = {
        "pipeline": graph.pipeline, "algorithm": _algorithm(trained), "rounds": graph.rounds or 1,
        "k": _value("k", values, trained), "kl_weight": kl_weight(trained), "oracle": _training_oracle(graph, trained),
        "gold": _measuring_oracle(graph), "model": values.get("model") or values.get("world"),
        "seed": values.get("seed"), "size": _value("size", values, trained),
    }  # fmt: skip
    for name in CONSTANTS:
        found[f"train/{name}"] = _value(name, {}, trained) if trained else values.get(name)
    covered = {*found, *(name for name in CONSTANTS if found[f"train/{name}"] is not None), "world"}
    axes = {name: value for name, value in found.items() if value is not None}
    return {n: short_value(v) for n, v in {**axes, **{n: v for n, v in values.items() if n not in covered}}.items()}


def overridden_parameters(graph: Graph) -> dict[str, JSON]:
    """The parameters whose values are not those of the file; nothing where the file no longer has the pipeline."""
    from flows.wiring import compile_pipeline

    try:
        written = compile_pipeline(Path(graph.file), graph.pipeline, lenient=True).parameters
    except (SpecError, OSError):
        return {}
    return {n: p.value for n, p in graph.parameters.items() if n not in written or p.value != written[n].value}


def training_step(graph: Graph) -> Node | None:
    """The step that trained what the last headline measures: the nearest with a learning rate on the way back."""
    reports = [graph.nodes[id] for id in graph.headline if id in graph.nodes]
    return _nearest_trained(graph, reports[-1]) if reports else None


def _nearest_trained(graph: Graph, node: Node) -> Node | None:
    if "lr" in node.params:
        return node
    fed = (graph.nodes[id] for port in TO_MODEL for id in node.inputs.get(port, ()) if id in graph.nodes)
    return next((found for one in fed if (found := _nearest_trained(graph, one))), None)


def kl_weight(trained: Node | None) -> JSON:
    """λ in max E[r] − λ·KL(π ‖ π_ref), the one scale on which the strengths of methods can be drawn side by side.

    β of a direct loss, 1/η of SPPO (whose update is π·exp(η·P)/Z), the KL coefficient of PPO. None for what has none.
    """
    if trained is None:
        return None
    if "kl_coef" in trained.params:
        return plain_value(trained.params["kl_coef"])
    loss = trained.params.get("loss")
    own = loss.params if isinstance(loss, ChoiceValue) else {}
    eta = own.get("eta")
    return float(f"{1 / eta:.6g}") if isinstance(eta, float | int) and eta else own.get("beta")


def _algorithm(trained: Node | None) -> JSON:
    """The loss that was minimised, or the task where that is the method (`ppo`)."""
    loss = trained.params.get("loss") if trained else None
    return loss.name if isinstance(loss, ChoiceValue) else trained.task if trained else None


def _value(name: str, values: dict[str, JSON], trained: Node | None) -> JSON:
    """The pipeline's parameter, else that of the step that trained."""
    own: Value = trained.params.get(name) if trained else None
    return values[name] if values.get(name) is not None else plain_value(own)


def _training_oracle(graph: Graph, trained: Node | None) -> JSON:
    """Who decided what was trained on: the nearest oracle, or model that judges, behind the step that trained."""
    return next(_oracles(graph, trained), None) if trained else None


def _measuring_oracle(graph: Graph) -> JSON:
    """Who decided the last headline's comparisons; none where people did."""
    reports = [graph.nodes[id] for id in graph.headline if id in graph.nodes]
    asked = [graph.nodes[id] for r in reports[-1:] for id in r.inputs.get("win_probs", ()) if id in graph.nodes]
    return next((name for a in asked for id in a.inputs.get("oracle", ()) if (name := _name(graph.nodes[id]))), None)


def _oracles(graph: Graph, node: Node) -> Iterator[str]:
    todo, done = [i for ids in node.inputs.values() for i in ids], set()
    while todo:
        id = todo.pop(0)
        if id not in done and id in graph.nodes:
            done.add(id)
            name = _name(graph.nodes[id])
            if name:
                yield name
            todo += [i for ids in graph.nodes[id].inputs.values() for i in ids]


def _name(node: Node) -> str:
    """What an oracle is called: its choice, or the kind of model that it is; empty for what decides nothing."""
    chosen = node.params.get("oracle")
    if isinstance(chosen, ChoiceValue):
        return chosen.name
    return "reward_model" if node.kind in MODELS - {"Policy"} else ""
