"""The parameters by which runs of all pipelines are compared, under the same names in every pipeline.

MLflow's comparison begins with the first three names, by the alphabet, that differ: `algorithm`, `kl_weight` and
`oracle` are meant to be among them. So a pipeline's own parameters are called `pipeline/…` and those of the training
`train/…`: what one of two runs lacks would be drawn at a value that it never had.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from flows.python.declared import Declarations
from flows.reporting.comparison import short_value
from flows.wiring.model import Graph
from flows.wiring.views import JUDGES, MODELS, ORACLES, View, views_of
from tasks.contract import JSON, SpecError
from tasks.declarations import StepView, Training


def chosen_params(graph: Graph, declared: Declarations | None = None) -> dict[str, str]:
    """The axes by which pipelines are compared, then all further parameters of this one, but for execution parameters.

    Their names follow from the pipeline alone, not from the overrides of a run: a page that compares runs draws a
    parameter that one of them lacks at a value that it never had.
    """
    declared = declared or Declarations()
    values = {n: p.value for n, p in graph.parameters.items() if not (p.type and p.type.execution)}
    views = views_of(graph, declared)
    report = next((views[id] for id in reversed(graph.headline) if id in views), None)
    trained = _nearest_trained(report.evaluation.model) if report and report.evaluation else None
    training = trained.training if trained else None
    chosen: dict[str, JSON] = dict.fromkeys(("pipeline", "algorithm", "kl_weight", "oracle", "gold", "model"))
    chosen |= {"pipeline": graph.pipeline, "rounds": graph.rounds or 1}
    if trained and training:
        weight = kl_weight(trained, training, declared)
        oracle = next(_oracles(trained), None)
        chosen |= {"algorithm": training.algorithm, "kl_weight": weight, "oracle": oracle}
    constants = {name: value for name, value in training.constants.items() if value is not None} if training else {}
    chosen |= {f"train/{name}": value for name, value in constants.items()}
    if report and report.evaluation and report.evaluation.oracle:
        chosen["gold"] = _name(report.evaluation.oracle)
    chosen["model"] = values.get("model") or values.get("world")
    axes = {name: value for name, value in chosen.items() if value is not None}
    covered = {*chosen, *constants, "world"}
    own = {f"pipeline/{name}": value for name, value in values.items() if name not in covered}
    for name, value in training.parameters.items() if training else ():
        if values.get(name) is None and value is not None:
            own[f"pipeline/{name}"] = value
    return {name: short_value(value) for name, value in {**axes, **own}.items()}


def overridden_parameters(graph: Graph) -> dict[str, JSON]:
    """The parameters whose values are not those of the file; empty if the file no longer has the pipeline."""
    from flows.wiring.graph import compile_pipeline

    try:
        written = compile_pipeline(Path(graph.file), graph.pipeline, lenient=True).parameters
    except (SpecError, OSError):
        return {}
    return {n: p.value for n, p in graph.parameters.items() if n not in written or p.value != written[n].value}


def _nearest_trained(model: StepView | None) -> View | None:
    """The step that trained a model: the nearest of its ancestors that declares how it trains."""
    while isinstance(model, View) and model.training is None:
        fed = (one for several in model.inputs.values() for one in several if one.kind in MODELS)
        model = next(fed, None)
    return model if isinstance(model, View) else None


def kl_weight(trained: View, training: Training, declared: Declarations) -> JSON:
    """λ in max E[r] − λ·KL(π ‖ π_ref), the one scale on which the strengths of methods can be drawn side by side.

    What the task declares, such as the KL coefficient of PPO; else the reward scale of its loss: β of DPO, 1/η of SPPO
    (whose update is π·exp(η·P)/Z). None for what has none.
    """
    if training.kl_weight is not None:
        return training.kl_weight
    for choice in trained.choices.values():
        scale = declared.of_choice(choice.folder, choice.name, "reward_scale")
        if scale is not None:
            own = {name: choice.params[name] for name in inspect.signature(scale).parameters}
            value = declared.value(scale, float | int, **own)
            return None if value is None else float(f"{value:.6g}")
    return None


def _oracles(trained: View) -> Iterator[str]:
    """Names of the oracles and judging models behind the step that trained, nearest first."""
    todo, done = [one for several in trained.inputs.values() for one in several], set[int]()
    while todo:
        step = todo.pop(0)
        if id(step) not in done:
            done.add(id(step))
            if step.kind in ORACLES:
                yield _name(step)
            todo += [one for several in step.inputs.values() for one in several]


def _name(oracle: StepView) -> str:
    """What an oracle is called: its choice, or the kind of model that it is, such as `reward_model`."""
    if oracle.kind in JUDGES:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", oracle.kind).lower()
    return next((choice.name for choice in oracle.choices.values()), oracle.kind)
