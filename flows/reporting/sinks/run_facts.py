"""What tracking servers show of a run and no record has: its title, its text, its parameters, its graph as it ran."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from flows.reporting.comparison import short_value
from flows.reporting.parameters import chosen_params, overridden_parameters
from flows.store.keys import plain_value
from flows.store.runs import Run
from flows.wiring.model import Graph
from tasks.contract import JSON

NAME = 60
"""Letters of a run's name, without its time."""
FACTS = "mlflow"
"""Where `Run.extra` holds the title, the text and the parameters."""
RESOLVED = "resolved.yaml"
"""Beside the logs of a run: its parameters and steps as they ran."""


def note_facts(run: Run, graph: Graph, logs: Path) -> None:
    """Write these facts into the run's file and beside its logs."""
    run.extra[FACTS] = {
        "title": run_name(run, overridden_parameters(graph)), "about": graph.about, "params": {**chosen_params(graph)},
    }  # fmt: skip
    logs.mkdir(parents=True, exist_ok=True)
    (logs / RESOLVED).write_text(yaml_text(resolved(graph)))


def run_name(run: Run, given: Mapping[str, JSON]) -> str:
    """`sppo eta=5.0 · 11-21 15:30`: the pipeline or deployment, its overrides, and when it began.

    A parameter without a value is left out: `loss=hinge` leaves `beta` without one, which is the same for all losses.
    """
    overrides = " ".join(f"{name}={short_value(value)}" for name, value in sorted(given.items()) if value is not None)
    when = f"{run.id[4:6]}-{run.id[6:8]} {run.id[9:11]}:{run.id[11:13]}"
    return f"{_cut(f'{run.title} {overrides}'.strip())} · {when}"


def _cut(text: str) -> str:
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"


def resolved(graph: Graph) -> dict[str, JSON]:
    """The pipeline as it ran: every parameter, and every step with all its parameters and inputs."""
    steps: dict[str, JSON] = {
        n.id: {
            "task": n.task, "params": {name: plain_value(value) for name, value in n.params.items()},
            "execution": dict(n.execution), "inputs": {port: list(ids) for port, ids in n.inputs.items()},
        }
        for n in graph.nodes.values()
    }  # fmt: skip
    parameters: dict[str, JSON] = {n: p.value for n, p in graph.parameters.items()}
    return {
        "pipeline": graph.pipeline, "about": graph.about, "rounds": graph.rounds, "parameters": parameters,
        "steps": steps,
    }  # fmt: skip


def yaml_text(data: object) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, stream)
    return stream.getvalue()
