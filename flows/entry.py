"""Every pipeline as a Prefect flow by its name: `flows/entry.py:sppo` is an entrypoint for deployments.

The flow's form and its API have the pipeline's parameters; running it compiles the pipeline and runs the graph.
The file is `ALIGNFLOW_FILE`, or `pipelines.yaml` upwards from the working directory, or the one beside `flows/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.execution.execute import PROJECT, Execution
from flows.execution.prefect_api import close_left_open
from flows.execution.typed import typed_flow
from flows.store.store import Store
from flows.tracking.track import Tracker
from flows.wiring import compile_pipeline, load_file
from flows.wiring.model import Parameter
from tasks.contract import JSON

if TYPE_CHECKING:
    from prefect import Flow


def __getattr__(name: str) -> Flow[Any, Any]:
    """The flow of a pipeline; a name with hyphens may be written with underscores."""
    if name.startswith("_"):
        raise AttributeError(name)
    file = pipelines_file()
    pipelines = load_file(file).names
    for pipeline in (name, name.replace("_", "-")):
        if pipeline in pipelines:
            return flow_of(file, pipeline)
    raise AttributeError(f"{file} has no pipeline '{name}'; it has {', '.join(pipelines)}")


def flow_of(file: Path, pipeline: str) -> Flow[Any, Any]:
    """The flow of one pipeline of a file. Raises SpecError where the pipeline does not compile."""
    shown = compile_pipeline(file, pipeline, lenient=True)

    def body(values: dict[str, JSON]) -> list[Any]:
        graph = compile_pipeline(file, pipeline, given(values, shown.parameters))
        store = Store(artifacts_of(file))
        tracker = Tracker(store)
        try:
            with Execution(graph, store, listeners=[tracker]) as execution:
                close_left_open(execution.runs, tracker, but=execution.run.id)
                return execution.body()
        finally:
            tracker.close()

    return typed_flow(pipeline, shown.about, shown.parameters, body)


def given(values: Mapping[str, JSON], parameters: Mapping[str, Parameter]) -> dict[str, JSON]:
    """Values that differ from the defaults: only those are overrides, so that `model: $world` still follows `world`."""
    return {n: v for n, v in values.items() if parameters[n].required or v != parameters[n].value}


def pipelines_file() -> Path:
    """The pipelines file that is meant from here."""
    if said := os.environ.get("ALIGNFLOW_FILE"):
        return Path(said)
    here = Path.cwd()
    found = (folder / "pipelines.yaml" for folder in (here, *here.parents))
    return next((file for file in found if file.exists()), PROJECT / "pipelines.yaml")


def artifacts_of(file: Path) -> Path:
    """The store that belongs to a pipelines file: `ALIGNFLOW_ARTIFACTS`, or `artifacts/` beside it."""
    return Path(os.environ.get("ALIGNFLOW_ARTIFACTS") or file.parent / "artifacts")
