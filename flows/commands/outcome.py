"""What a run prints at its end: how it went, its results by round, and where to look next."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from flows.commands.printing import say, short_path
from flows.reporting.report.page import report_file
from flows.reporting.results import RunResults, run_results, tables
from flows.reporting.sinks.mlflow_sink import address, served_elsewhere
from flows.reporting.sinks.mlflow_view import charts_page, run_page
from flows.reporting.sinks.pending import PendingRuns
from flows.run.prefect.server import prefect_page, running
from flows.run.run import Execution
from flows.store.finished import finished_steps
from flows.store.runs import Run
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.system.durations import seconds


def print_outcome(console: Console, store: Store, execution: Execution) -> None:
    """Print how a run went that this process made, and its results."""
    run, took = execution.run, seconds(execution.seconds)
    own = [step.id for step in run.steps.values() if not step.carried]
    done = [execution.done[id] for id in own if id in execution.done]
    hits = sum(s.hit for s in done)
    for id, error in execution.errors.items():
        say(console, f"✗ {execution.graph.nodes[id].title}: {error}")
    for id, what in execution.waiting.items():
        say(console, f"… {execution.graph.nodes[id].title} waits for people: {what}")
    if run.status == "done" and hits == len(done):
        say(console, f"{run.title}: nothing to compute: {hits} steps cached ({took})")
    else:
        left = len(own) - len(done)
        counts = f"{len(done) - hits} steps run, {hits} cached{f', {left} not done' if left else ''}"
        say(console, f"{run.title}: {run.status} in {took}; {counts}")
    print_results(console, run_results(store, done))


def print_repeated(console: Console, store: Store, run: Run) -> None:
    """Print the results of a finished run that a new one would repeat."""
    say(console, f"{run.title}: nothing to do: run {run.id} has the same parameters, and its {len(run.steps)} steps "
                 f"are all in the store (--again records a new run)")  # fmt: skip
    print_results(console, run_results(store, finished_steps(store, run)))
    waiting = PendingRuns(store, "mlflow").ids()
    print_where(console, store, run, "MLflow did not take all of an earlier run" if waiting else "")


def print_results(console: Console, results: RunResults, more_warnings: Sequence[str] = ()) -> None:
    """Print the tables of results, the notices of steps, and the warnings."""
    for table in tables(results):
        console.print(table)
    for text in results.notices():
        say(console, f"  - {text}")
    for text in [*more_warnings, *results.warnings()]:
        say(console, f"  ! {text}")


def print_where(console: Console, store: Store, run: Run, trouble: str = "") -> None:
    """Print where to look next. `trouble`: what MLflow did not take."""
    for what, where in _where(store, run):
        say(console, f"  {what:<10} {where}".rstrip())
    if trouble:
        say(console, f"  ! {trouble}")


def _where(store: Store, run: Run) -> Iterator[tuple[str, str]]:
    yield "run", f"alignflow show {run.id}"
    views = RecordViews(store)
    records = {id: store.record(run.steps[id].key) for id in run.headline if run.steps[id].key}
    reports = [id for id, r in records.items() if r and (e := views.of(r).evaluation) and all(e.sides)]
    if reports:
        yield "answers", f"alignflow show {run.id}:{reports[-1]}   (prompts with answers before and after)"
    if not run.headline and (made := [step.id for step in run.steps.values() if step.key]):
        yield "result", f"alignflow show {run.id}:{made[-1]}   (`alignflow export` writes it to a folder)"
    yield "artifacts", short_path(store.root)
    if figures := figures_of(store, run):
        yield "figures", f"{', '.join(f.name for f in figures)} in {short_path(figures[0].parent)}"
    if (report := report_file(store, [run])).exists():
        yield "report", f"{short_path(report)}   (one page with all of it)"
    if (logs := store.root / "logs" / run.id).exists():
        yield "logs", short_path(logs)
    yield from _web_uis(store, run.links)


def figures_of(store: Store, run: Run) -> list[Path]:
    """The figures of a run."""
    files = store.inside("figures", run.id).glob("*.png")
    return sorted(files, key=lambda f: (f.stem != "win_rate", f.stem.startswith("training"), f.stem))


def _web_uis(store: Store, links: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The run's pages where they are served now, else how to serve them."""
    served = running(store.root) is not None
    if not served and not (os.environ.get("PREFECT_API_URL") and served_elsewhere(store.root)):
        yield "web UIs", "alignflow up   (serves Prefect and MLflow, with this run in both)"
    if "mlflow" in links and (served or served_elsewhere(store.root)):
        yield "MLflow", f"{address(store.root)}/{run_page(links['mlflow'])}"
        yield "charts", f"{address(store.root)}/{charts_page(links['mlflow'].partition('/')[0])}"
    if "prefect" in links and (served or os.environ.get("PREFECT_API_URL")):
        yield "Prefect", f"{prefect_page(store.root)}/runs/flow-run/{links['prefect']}"
