"""One run from the command line: progress while it goes on, then the table per round and where to look next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.progress import progress, seconds, shown
from flows.execution.execute import Execution, run_pipeline
from flows.execution.server import prefect_page, running
from flows.plan import make_plan
from flows.tracking.mlflow_sink import address, served_elsewhere
from flows.tracking.prefect_artifacts import PrefectArtifacts
from flows.tracking.table import results, tables, warnings
from flows.tracking.track import Tracker
from flows.wiring import compile_pipeline
from tasks.contract import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from flows.store.runs import Run
    from flows.store.store import Store
    from flows.wiring.model import Graph

QUIET = "ignore:resource_tracker:UserWarning"
"""A child that is killed leaves a semaphore to Python's resource tracker, which removes it and warns about that."""
CODES = {"done": 0, "failed": 1, "waiting": 3, "stopped": 130}


def run_once(
    file: Path, store: Store, name: str, values: Mapping[str, str], fresh: Sequence[str], console: Console,
    deployment: str = "",
) -> int:  # fmt: skip
    """Compile and run a pipeline, or a deployment of it that does not continue, and tell how it went.

    Returns the exit code; raises SpecError for a wrong request.
    """
    os.environ.setdefault("PYTHONWARNINGS", QUIET)
    kept = store.root / ".cache" / "signatures"
    graph = compile_pipeline(file, name, values, deployment=deployment or None, kept=kept)
    for notice in graph.notices:
        say(console, f"note: {notice}")
    waited = expected(graph, store)
    tracker = Tracker(store)
    try:
        listeners = [tracker, progress(console, waited), PrefectArtifacts(store, lambda: tracker.page)]
        execution = run_pipeline(
            graph, store, fresh=fresh, listeners=listeners, deployment=deployment, say=partial(say, console)
        )
    finally:
        trouble = tracker.close()
    tell(console, store, execution)
    if execution.run.status == "stopped":
        title = f"{name}/{deployment}" if deployment else name
        again = shlex.join(["alignflow", "run", title, *(f"{k}={v}" for k, v in values.items())])
        say(console, f"\nStopped. What is finished is kept; go on with: {again}")
    tell_where(console, store, execution.run, tracker, trouble)
    return CODES[execution.run.status]


def expected(graph: Graph, store: Store) -> dict[str, float | None]:
    """Seconds that the plan expects of each step that is not cached; empty where only a run can plan (hub ids)."""
    try:
        steps = make_plan(graph, store).steps
    except SpecError:
        return {}
    return {s.node.id: s.cost.seconds for s in steps if s.state != "cached"}


def tell(console: Console, store: Store, execution: Execution) -> None:
    run, took = execution.run, execution.seconds
    own = [step.id for step in run.steps.values() if not step.carried]
    done = [execution.done[id] for id in own if id in execution.done]
    hits = sum(s.hit for s in done)
    title = f"{run.pipeline}/{run.deployment}" if run.deployment else run.pipeline
    for id, error in execution.errors.items():
        say(console, f"✗ {execution.graph.nodes[id].title}: {error}")
    if run.status == "done" and hits == len(done):
        say(console, f"{title}: nothing to do: {hits} steps cached ({seconds(took)})")
    else:
        said = f"{len(done) - hits} steps run, {hits} cached"
        left = len(own) - len(done)
        say(console, f"{title}: {run.status} in {seconds(took)}; {said}{f', {left} not done' if left else ''}")
    found = results(store, done)
    for table in tables(found):
        console.print(table)
    for warning in warnings(found):
        say(console, f"  ! {warning}")


def tell_where(console: Console, store: Store, run: Run, tracker: Tracker, trouble: str) -> None:
    steps = [id for id in run.headline if run.steps[id].key and run.steps[id].task == "measure"]
    look = [("run", f"alignflow show {run.id}")]
    look += (
        [("answers", f"alignflow show {run.id}:{steps[-1]}   (prompts with answers before and after)")] if steps else []
    )
    look += [("artifacts", shown(store.root))]
    look += (
        [("pictures", ", ".join(p.name for p in tracker.drawn) + f" in {shown(tracker.drawn[0].parent)}")]
        if tracker.drawn
        else []
    )
    look += [("logs", shown(store.root / "logs" / run.id))]
    elsewhere = bool(os.environ.get("PREFECT_API_URL")) and served_elsewhere(store.root)
    look += [("pages", "" if elsewhere or running(store.root) else "alignflow up   (starts both; then open)")]
    look += [("", f"{address(store.root)}/{tracker.page}")] if tracker.page else []
    look += [("", f"{prefect_page(store.root)}/runs/flow-run/{run.links['prefect']}")] if "prefect" in run.links else []
    for what, where in look:
        say(console, f"  {what:<10} {where}".rstrip())
    if trouble:
        say(console, f"  ! {trouble}; what is missing there is kept and sent by the next run")


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
