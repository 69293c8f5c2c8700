"""One run from the command line: its progress, then the table by round and where to look next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from flows.commands.options import repeated_options
from flows.commands.outcome import print_outcome, print_repeated, print_where
from flows.commands.printing import say
from flows.commands.progress import progress
from flows.commands.repeats import all_cached, finished_twin, left_open, plan_or_none
from flows.planning.plan import Plan
from flows.reporting.sinks.prefect_artifacts import PrefectArtifacts
from flows.reporting.sinks.prefect_mirror import mirror
from flows.reporting.tracker import Tracker
from flows.run.run import Execution, run_cached, run_pipeline
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph

QUIET = "ignore:resource_tracker:UserWarning"
"""A child that is killed leaves a semaphore to Python's resource tracker, which removes it and warns about that."""
CODES = {"done": 0, "failed": 1, "waiting": 3, "stopped": 130}
UNFINISHED = {
    "stopped": "Stopped. What is finished is kept;",
    "waiting": "Waiting for people. What is finished is kept; when they have answered,",
}
"""How the message begins that says how to go on, by status."""


def run_once(
    file: Path, store: Store, name: str, values: Mapping[str, str], console: Console,
    *, fresh: Sequence[str] = (), deployment: str = "", again: bool = False,
) -> Run:  # fmt: skip
    """Compile and run a pipeline, or a deployment of it that does not continue, and print how it went.

    Unless `again`, a run that would only repeat a finished one is not made: the results of that one are printed, and it
    is returned. Raises SpecError for a wrong request.
    """
    graph = compile_pipeline(file, name, values, deployment=deployment or None, cache=store.python_cache)
    for notice in graph.notices:
        say(console, f"note: {notice}")
    plan = plan_or_none(graph, store)
    cached = all_cached(plan) and not fresh and not left_open(store)
    if plan and cached and not again and (former := finished_twin(Runs(store), plan, deployment)):
        print_repeated(console, store, former)
        return former
    run = _run(graph, store, plan, console, fresh, deployment, cached=cached)
    if run.status in UNFINISHED:
        again_with = shlex.join(
            ["alignflow", "run", run.title, *(f"{k}={v}" for k, v in values.items()), *repeated_options()]
        )
        say(console, f"\n{UNFINISHED[run.status]} go on with: {again_with}")
    return run


def _run(
    graph: Graph, store: Store, plan: Plan | None, console: Console, fresh: Sequence[str], deployment: str,
    *, cached: bool,
) -> Run:  # fmt: skip
    """Run a graph. One whose steps are all `cached` is recorded in MLflow at once, in Prefect once a server is up."""
    os.environ.setdefault("PYTHONWARNINGS", QUIET)
    tracker = Tracker(store, graph.profile.tracking)
    artifacts = PrefectArtifacts(store, lambda: tracker.page)
    try:
        listeners = [tracker, progress(console, expected_seconds(plan))]
        listeners += [] if cached else [artifacts]
        execution = Execution(graph, store, fresh=fresh, listeners=listeners, deployment=deployment)
        run_cached(execution) if cached else run_pipeline(execution, partial(say, console))
    finally:
        trouble = tracker.close()
    print_outcome(console, store, execution)
    not_mirrored = mirror(store, execution.run) if cached else ""
    print_where(console, store, execution.run, trouble)
    for text in filter(None, (not_mirrored, artifacts.trouble)):
        say(console, f"  ! {text}")
    return execution.run


def expected_seconds(plan: Plan | None) -> dict[str, float | None]:
    """Seconds that the plan expects of each step that is not cached; empty where there is no plan."""
    return {s.node.id: s.cost.seconds for s in plan.steps if s.state != "cached"} if plan else {}
