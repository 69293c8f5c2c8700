"""`alignflow run PIPELINE/DEPLOYMENT`: ticks from the command line, and the results of each."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from flows.commands.options import repeated_options
from flows.commands.outcome import print_outcome, print_where
from flows.commands.printing import say
from flows.commands.progress import progress
from flows.commands.repeats import plan_or_none
from flows.commands.run import CODES, QUIET, UNFINISHED, expected_seconds, run_once
from flows.planning.plan import refuse_early
from flows.rounds.head import Continuing, continues
from flows.rounds.tick import Ticks, with_ticks
from flows.rounds.tick_request import tick_request
from flows.rounds.tick_tracker import TickTracker
from flows.run.events import Listener
from flows.run.prefect.api import own_server
from flows.run.prefect.flow_run import FlowCall, Form
from flows.run.prefect.people import flow_result
from flows.run.run import Execution
from flows.store.store import Store
from flows.system.disk import blaming_the_disk
from flows.wiring.model import Graph
from tasks.contract import JSON, SpecError


def run_named(
    file: Path, store: Store, name: str, values: Mapping[str, str], console: Console,
    *, fresh: Sequence[str] = (), force: bool = False, again: bool = False,
) -> int:  # fmt: skip
    """Run PIPELINE, or PIPELINE/DEPLOYMENT: ticks if it continues. Returns the exit code. Raises SpecError."""
    pipeline, _, deployment = name.partition("/")
    if not deployment or not continues(file, pipeline, deployment):
        if force:
            raise SpecError(f"command line: --force applies only to continuing deployments, and {name} is not one")
        run = run_once(file, store, pipeline, values, console, fresh=fresh, deployment=deployment, again=again)
        return CODES[run.status]
    if again:
        raise SpecError(f"command line: --again applies only to pipelines: a tick of {name} is a new round anyway")
    if fresh:
        raise SpecError(f"command line: --fresh applies only to pipelines: a finished round of {name} stays as it is")
    return run_ticks(Continuing(file, pipeline, deployment, store), values, force, console)


def run_ticks(loop: Continuing, values: Mapping[str, str], force: bool, console: Console) -> int:
    """Make ticks of a continuing deployment in one flow run, and print their results. Returns the exit code.

    `values` may hold `rounds` and `force` besides parameters. Raises SpecError for a wrong request, DataError if a
    value of the head is gone; both before a number is taken.
    """
    os.environ.setdefault("PYTHONWARNINGS", QUIET)
    overrides, rounds, forced = tick_request(values)
    history = loop.ledger.history()
    loop.check(overrides, history)
    first = loop.next_tick(overrides, history)
    refuse_early(first.graph, loop.store)
    for notice in first.graph.notices:
        say(console, f"note: {notice}")
    tracker = _PrintingTracker(loop, console)
    ticks = Ticks(loop, tracker)
    try:
        _flow(loop, ticks, overrides, rounds, force or forced, tracker)
    finally:
        tracker.close()
    if ticks.ticked.status in UNFINISHED:
        _how_to_go_on(console, loop, ticks, overrides)
    if tracker.runs:
        print_where(console, loop.store, tracker.runs[-1], tracker.trouble)
    say(console, f"  {'rounds':<10} alignflow rounds {loop.name}")
    return CODES[ticks.ticked.status]


class _PrintingTracker(TickTracker):
    """Prints progress and every tick's results as well."""

    def __init__(self, loop: Continuing, console: Console) -> None:
        super().__init__(loop.store, partial(say, console))
        self._console = console

    def listeners(self, graph: Graph) -> Sequence[Listener]:
        shown = progress(self._console, expected_seconds(plan_or_none(graph, self._store)))
        return [*super().listeners(graph), shown]

    def ended(self, execution: Execution) -> None:
        print_outcome(self._console, self._store, execution)
        super().ended(execution)


def _flow(
    loop: Continuing, ticks: Ticks, overrides: Mapping[str, JSON], rounds: int, force: bool, tracker: _PrintingTracker
) -> None:
    """Make all ticks in one flow run, on a server of our own unless PREFECT_API_URL is set."""
    shown = loop.form()
    title = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{loop.pipeline}-{loop.deployment}-{uuid4().hex[:4]}"
    parameters = loop.next_tick(overrides, loop.ledger.history()).graph.parameters
    values: dict[str, JSON] = {name: p.value for name, p in parameters.items()}
    values |= {"rounds": rounds, "force": force}
    form = Form(loop.pipeline, shown.about, with_ticks(shown.parameters), values, title)

    def body() -> Any:
        return flow_result(ticks.make(overrides, rounds=rounds, force=force).futures, tracker.runs)

    with blaming_the_disk(loop.store.root), own_server(loop.store.root) as server:
        if not FlowCall(loop.store.root, server, form, body, runs=lambda: tracker.runs, say=tracker.say).run():
            ticks.ticked.status = "stopped"


def _how_to_go_on(console: Console, loop: Continuing, ticks: Ticks, overrides: Mapping[str, JSON]) -> None:
    unfinished, left, why = loop.ledger.history().open, ticks.left, UNFINISHED[ticks.ticked.status].partition(".")[0]
    first = f"; the next tick finishes round {unfinished.begun.number} first" if unfinished else ""
    say(console, f"\n{why}. What is finished is kept{first}.")
    if left or ticks.ticked.status == "waiting":
        values = [f"rounds={max(left, 1)}", *(f"{k}={v}" for k, v in overrides.items())]
        again = ["alignflow", "run", loop.name, *values, *repeated_options()]
        say(console, f"Go on with: {shlex.join(again)}")
