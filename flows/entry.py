"""Pipelines and their deployments as Prefect flows by name: `flows/entry.py:sppo`, `flows/entry.py:sppo__nightly`.

A pipeline's flow has the pipeline's parameters in its form and its API; running it compiles the pipeline and runs the
graph. The flow of a deployment that continues has `rounds` and `force` as well, and makes ticks.
The file is `ALIGNFLOW_FILE`, or `pipelines.yaml` upwards from the working directory, or the one beside `flows/`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.planning.plan import refuse_early
from flows.reporting.sinks.prefect_artifacts import PrefectArtifacts
from flows.reporting.tracker import Tracker
from flows.rounds.head import Continuing, continues
from flows.rounds.tick import Ticks, rounds_begun_in, with_ticks
from flows.rounds.tick_tracker import TickTracker
from flows.run.prefect.api import parameters_of_this_run
from flows.run.prefect.people import flow_result
from flows.run.prefect.typed_flow import refused_flow, typed_flow
from flows.run.run import Execution
from flows.store.store import Store
from flows.system.modes import follow_folder
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Parameter
from flows.wiring.text import PipelineFile
from flows.wiring.variants import SHIPPED
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    from prefect import Flow


def __getattr__(name: str) -> Flow[Any, Any]:
    """The flow of a pipeline or deployment; names with hyphens may be written with underscores."""
    if name.startswith("_"):
        raise AttributeError(name)
    requested = parameters_of_this_run()
    try:
        flow = _flow_named(pipelines_file_of_flow(), name, requested)
        if gone := sorted((requested or set()) - set(flow.parameters.properties)):
            raise SpecError(f"{flow.name} no longer has the parameters {gone}: `alignflow deploy` updates its form")
        return flow
    except (SpecError, AttributeError) as e:
        if requested is None:
            raise
        return refused_flow(name, str(e), requested)  # the run of a deployment has begun: only its failure can show it


def _flow_named(file: Path, name: str, requested: Collection[str] | None) -> Flow[Any, Any]:
    source = PipelineFile(file)
    for pipeline in source.names:
        if name in _spellings(pipeline):
            return flow_of(file, pipeline, requested=requested)
    for pipeline in source.names:
        if any(name.startswith(f"{spelt}__") for spelt in _spellings(pipeline)):
            for deployment in source.pipeline(pipeline).deployments:
                if name in {f"{p}__{d}" for p in _spellings(pipeline) for d in _spellings(deployment)}:
                    return flow_of(file, pipeline, deployment, requested)
    raise AttributeError(f"{file} has no pipeline '{name}'; it has {', '.join(source.names)}")


def _spellings(name: str) -> set[str]:
    return {name, name.replace("-", "_")}


def flow_of(
    file: Path, pipeline: str, deployment: str = "", requested: Collection[str] | None = None
) -> Flow[Any, Any]:
    """The flow of one pipeline of a file, or of its deployment. Raises SpecError where it does not compile.

    Args:
        file: the pipelines file.
        pipeline: its name.
        deployment: the name of one of its deployments.
        requested: names of the parameters in the request for the run; None without a request.
    """
    if deployment and continues(file, pipeline, deployment):
        return _flow_of_ticks(file, pipeline, deployment, requested)
    shown = compile_pipeline(file, pipeline, deployment=deployment or None, lenient=True)

    def body(values: dict[str, JSON]) -> list[Any]:
        overrides = overrides_of(values, shown.parameters, requested)
        graph = compile_pipeline(file, pipeline, overrides, deployment=deployment or None)
        store = _store_of(file)
        refuse_early(graph, store)
        tracker = Tracker(store, graph.profile.tracking)
        try:
            listeners = [tracker, PrefectArtifacts(store, lambda: tracker.page)]
            with Execution(graph, store, listeners=listeners, deployment=deployment) as execution:
                futures = execution.body()
        finally:
            tracker.close()
        return flow_result(futures, [execution.run])

    return typed_flow(pipeline, shown.about, shown.parameters, body)


def _flow_of_ticks(file: Path, pipeline: str, deployment: str, requested: Collection[str] | None) -> Flow[Any, Any]:
    """The flow of a deployment that continues: `rounds` ticks in a row, in one flow run."""
    store = Store(artifacts_of(file))
    shown = Continuing(file, pipeline, deployment, store).form()

    def body(values: dict[str, JSON]) -> Any:
        from prefect.logging import get_run_logger
        from prefect.runtime import flow_run
        from prefect.states import Completed

        follow_folder(store.root)
        messages: list[str] = []

        def say(text: str) -> None:
            messages.append(text)
            get_run_logger().info(text)

        tracker = TickTracker(store, say)
        own = {n: v for n, v in values.items() if n in shown.parameters}
        overrides = overrides_of(own, shown.parameters, requested)
        rounds, force = int(str(values["rounds"])), bool(values["force"])
        loop = Continuing(file, pipeline, deployment, store)
        rounds = max(0, rounds - rounds_begun_in(loop, str(flow_run.id)))
        ticks = Ticks(loop, tracker)
        try:
            ticked = ticks.make(overrides, rounds=rounds, force=force)
        finally:
            tracker.close()
        if ticked.stalled and not ticked.futures:
            return Completed(name="Stalled", message=messages[-1])
        return flow_result(ticked.futures, tracker.runs)

    return typed_flow(pipeline, shown.about, with_ticks(shown.parameters), body)


def overrides_of(
    values: Mapping[str, JSON], parameters: Mapping[str, Parameter], requested: Collection[str] | None = None
) -> dict[str, JSON]:
    """The values that are overrides; the others stay as the file has them, so that `model: $world` follows `world`.

    Args:
        values: all values with which the flow was called, defaults included.
        parameters: the flow's.
        requested: names in the request for the run. Some of them: these are overrides, also where they are the default.
            All of them, as a form in Prefect's pages sends them, or None, as in a call from Python: the user's choices
            are unknown, so overrides are the values that differ from the defaults.
    """
    chosen = set(requested or ()) if parameters.keys() - set(requested or ()) else set()
    return {n: v for n, v in values.items() if n in chosen or parameters[n].required or v != parameters[n].value}


def pipelines_file_of_flow() -> Path:
    """The pipelines file of flows in this process."""
    if file := os.environ.get("ALIGNFLOW_FILE"):
        return Path(file)
    here = Path.cwd()
    candidates = (folder / "pipelines.yaml" for folder in (here, *here.parents))
    return next((file for file in candidates if file.exists()), SHIPPED)


def _store_of(file: Path) -> Store:
    """The store of a pipelines file. From now on, all that this process writes has the permissions of its folder."""
    root = artifacts_of(file)
    follow_folder(root)
    return Store(root)


def artifacts_of(file: Path) -> Path:
    """The store that belongs to a pipelines file: `ALIGNFLOW_ARTIFACTS`, or `artifacts/` beside it."""
    return Path(os.environ.get("ALIGNFLOW_ARTIFACTS") or file.parent / "artifacts")
