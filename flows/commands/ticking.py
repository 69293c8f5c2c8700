"""`alignflow run PIPELINE/DEPLOYMENT`: ticks without a server of yours, and how each of them went."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.progress import progress
from flows.commands.running import CODES, QUIET, expected, run_once, say, tell, tell_where
from flows.continuing.head import Continuing, continues
from flows.continuing.ticks import Ticks, Watch, with_ticks
from flows.execution.execute import Execution
from flows.execution.listen import Listener
from flows.execution.prefect_api import caught_up, own_server, prefect_settings
from flows.tracking.prefect_artifacts import PrefectArtifacts
from flows.tracking.track import Tracker
from flows.wiring.model import Graph
from tasks.contract import JSON, SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from flows.store.runs import Run
    from flows.store.store import Store


def run_named(
    file: Path, store: Store, name: str, values: Mapping[str, str], fresh: Sequence[str], force: bool, console: Console
) -> int:
    """Run PIPELINE, or PIPELINE/DEPLOYMENT: ticks if it continues. Returns the exit code. Raises SpecError."""
    pipeline, _, deployment = name.partition("/")
    if not deployment or not continues(file, pipeline, deployment):
        if force:
            raise SpecError(f"command line: --force is for deployments that continue, and {name} is none")
        return run_once(file, store, pipeline, values, fresh, console, deployment)
    if fresh:
        raise SpecError(f"command line: --fresh is for pipelines: a round of {name} that is done stays as it is")
    return run_ticks(Continuing(file, pipeline, deployment, store), values, force, console)


def run_ticks(loop: Continuing, values: Mapping[str, str], force: bool, console: Console) -> int:
    """Make ticks of a continuing deployment in one flow run, and tell how they went. Returns the exit code.

    `values` may hold `rounds` and `force` besides parameters. Raises SpecError for a wrong request, DataError where
    what the head names is gone; both before a number is taken.
    """
    os.environ.setdefault("PYTHONWARNINGS", QUIET)
    asked: dict[str, JSON] = {n: v for n, v in values.items() if n not in ("rounds", "force")}
    rounds, force = _rounds(values.get("rounds", "1")), force or _truth(values.get("force", "false"))
    history = loop.ledger.history()
    loop.check(asked, history)
    first = loop.next_tick(asked, history)
    for notice in first.graph.notices:
        say(console, f"note: {notice}")
    told = _Told(loop.store, console)
    ticks = Ticks(loop, told)
    try:
        _flow(loop, ticks, asked, rounds, force, told)
    finally:
        troubles = [tracker.close() for tracker in told.trackers]
    if ticks.ticked.status == "stopped":
        _stopped(console, loop, asked, ticks.left)
    if told.runs:
        tell_where(console, loop.store, told.runs[-1], told.trackers[-1], next(filter(None, troubles), ""))
    say(console, f"  {'rounds':<10} alignflow rounds {loop.name}")
    return CODES[ticks.ticked.status]


class _Told(Watch):
    """Shows progress, tells every tick's results, and tells MLflow."""

    def __init__(self, store: Store, console: Console) -> None:
        self._store, self._console = store, console
        self._start = time.monotonic()
        self.trackers: list[Tracker] = []
        self.runs: list[Run] = []

    def listeners(self, graph: Graph) -> Sequence[Listener]:
        self._start = time.monotonic()
        tracker = Tracker(self._store)
        self.trackers.append(tracker)
        shown = progress(self._console, expected(graph, self._store))
        return [tracker, shown, PrefectArtifacts(self._store, lambda: tracker.page)]

    def say(self, text: str) -> None:
        say(self._console, text)

    def ended(self, execution: Execution) -> None:
        self.runs.append(execution.run)
        tell(self._console, self._store, execution, time.monotonic() - self._start)


def _flow(loop: Continuing, ticks: Ticks, asked: Mapping[str, JSON], rounds: int, force: bool, told: _Told) -> None:
    """One flow run with all the ticks, on a server of our own unless PREFECT_API_URL is set."""
    form = loop.form()
    failed: list[Exception] = []

    def body(_: dict[str, JSON]) -> Any:
        try:
            return ticks.make(asked, rounds=rounds, force=force).futures
        except Exception as e:
            failed.append(e)
            raise

    title = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{loop.pipeline}-{loop.deployment}"
    with own_server(loop.store.root) as server, prefect_settings():
        from flows.execution.typed import typed_flow

        flow = typed_flow(loop.pipeline, form.about, with_ticks(form.parameters), body, title)
        try:
            flow(**{**_values(loop, asked), "rounds": rounds, "force": force}, return_state=True)
        except KeyboardInterrupt:
            ticks.ticked.status = "stopped"
        if server:
            caught_up(*told.runs)
    if failed:
        raise failed[0]


def _values(loop: Continuing, asked: Mapping[str, JSON]) -> dict[str, JSON]:
    """All parameters, as the flow run's page shows them."""
    parameters = loop.next_tick(asked, loop.ledger.history()).graph.parameters
    return {n: p.value for n, p in parameters.items() if n.isidentifier()}


def _stopped(console: Console, loop: Continuing, asked: Mapping[str, JSON], left: int) -> None:
    unfinished = loop.ledger.history().open
    first = f"; the next tick finishes round {unfinished.begun.number} first" if unfinished else ""
    say(console, f"\nStopped. What is finished is kept{first}.")
    if left:
        again = ["alignflow", "run", loop.name, f"rounds={left}", *(f"{k}={v}" for k, v in asked.items())]
        say(console, f"Go on with: {shlex.join(again)}")


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(f"command line: rounds = {text!r}; the number of ticks must be a whole number from 1")
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise SpecError(f"command line: force = {text!r}; choose one of [false, true]")
    return text == "true"
