"""What Prefect's pages show of a run besides states: its results as a table, where to look, and the progress of long
steps.

The artifacts are made from the run, never in a step, so a cached run has the results too. A thread of its own sends
them, so they cannot slow a run, and an error in them fails nothing.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.reporting.results import NOTHING, RunResults, run_results, table
from flows.reporting.sinks.mlflow_sink import address
from flows.reporting.sinks.mlflow_view import report_page
from flows.reporting.sinks.prefect_answers import answers_section
from flows.reporting.totals import totals_rows
from flows.run.events import Listener
from flows.store.finished import finished_steps
from flows.store.records import Record
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.model import Graph, Node

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import ArtifactCreate

LONG_SECONDS = 4.0
"""A step has a progress bar once it has run for so long."""
EVERY_SECONDS = 2.0
"""The least time between two moves of a bar."""
LAST_SECONDS = 10.0
"""How long a run waits at its end until its results are sent."""
RETRIES = 1
"""Repetitions of a request, each after two seconds: a run whose server is gone waits for them, too."""
FIRST_ROW, LAST_ROW = "row", "evaluation"
"""Headers of the columns with the labels of the rows, and with what kind of evaluation each is."""


@dataclass(frozen=True)
class PageArtifact:
    """One artifact as Prefect stores it. Those with a key are versions of one thing over runs."""

    type: str
    data: Any
    description: str
    key: str | None = None


class PrefectArtifacts(Listener):
    """Sends a run's progress and results to Prefect.

    Args:
        store: where the results are read.
        page: the run's MLflow page, below the address of the server; empty where there is none yet.
    """

    def __init__(self, store: Store, page: Callable[[], str] = str) -> None:
        self._store, self._page = store, page
        self._sender: Sender | None = None
        self._begun: dict[str, float] = {}
        self.trouble = ""
        """What Prefect did not take of the run, once it is over; empty if nothing."""

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        flow_run = run.links.get("prefect")
        self._sender = Sender(flow_run) if flow_run else None

    def step_started(self, node: Node, reason: str, log: Path) -> None:
        self._begun[node.id] = time.monotonic()

    def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
        begun = self._begun.setdefault(node.id, time.monotonic())
        if self._sender and total > 0 and time.monotonic() - begun > LONG_SECONDS:
            text = f"{node.title}: {done:,.0f} of {total:,.0f} {unit}"
            self._sender.progress(node.id, PageArtifact("progress", round(100 * min(1.0, done / total), 1), text))

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        if self._sender:
            self._sender.ended(node.id)

    def step_failed(self, node: Node, error: BaseException) -> None:
        if self._sender:
            self._sender.ended(node.id)

    def step_awaits_people(self, node: Node, what: str) -> None:
        if self._sender:
            self._sender.ended(node.id)

    def run_finished(self, run: Run) -> None:
        if self._sender:
            self._sender.close(last_artifacts(self._store, run, self._page()))
            self.trouble, self._sender = self._sender.trouble, None


def last_artifacts(store: Store, run: Run, page: str) -> list[PageArtifact]:
    """The artifacts of a finished run: its results as a table, if it has any, and a page of it.

    Prefect's pages show artifacts in a random order, so what is to be read in an order is in one: the results, answers
    before and after, where to look. `page`: of the run in MLflow, below the address of the server; empty where there is
    none yet.
    """
    steps = finished_steps(store, run)
    results = run_results(store, steps)
    answers, totals = answers_section(store, steps), totals_rows(store, steps)
    last = summary(run, results, store.root, page, answers, totals)
    rows = as_rows(results)
    if not rows:
        return [last]
    shown = rows[len(results.main_rows) - 1] if results.rows else rows[-1]
    cells = [f"{head} {cell}".strip() for head, cell in shown.items() if cell != NOTHING]
    description = f"{run.title}, " + ", ".join(cells).removeprefix("row ")
    return [PageArtifact("table", json.dumps(rows), description, _key(run, "results")), last]


def as_rows(results: RunResults) -> list[dict[str, str]]:
    """The table that the command line shows, cell by cell: one mapping of column to text per evaluation. Where there
    are others than the headline, a last column has the kind of each."""
    columns = table(results).columns
    heads = [" ".join(str(c.header).split()) or FIRST_ROW for c in columns]
    rows = [dict(zip(heads, map(str, row), strict=True)) for row in zip(*(c.cells for c in columns), strict=True)]
    kinds = [result.about for result in results.all_rows] if results.others else []
    return [row | {LAST_ROW: kind} for row, kind in zip(rows, kinds, strict=True)] if any(kinds) else rows


def summary(
    run: Run, results: RunResults, root: Path, page: str, answers: Sequence[str] = (),
    totals: Sequence[Mapping[str, str]] = (),
) -> PageArtifact:  # fmt: skip
    """The page of a run: what failed, the results with the warnings that belong to them, answers, where to look next,
    and the totals of its steps."""
    own = [step for step in run.steps.values() if not step.carried]
    made, hits = (sum(step.state == state for step in own) for state in ("made", "hit"))
    left = len(own) - made - hits
    report = next((i for i in reversed(run.headline) if i in run.steps and run.steps[i].key), None)
    facts = {
        "run": f"`{run.id}`",
        "steps": f"{made} run, {hits} cached" + (f", {left} not done" if left else ""),
        "look": f"`alignflow show {run.id}`",
        "answers": f"`alignflow show {run.id}:{report}`" if report else "",
        "report": f"[all of it on one page]({address(root)}/{report_page(page)})" if page else "",
        "MLflow": f"[{run.pipeline} in MLflow]({address(root)}/{page})" if page else "",
        "logs": f"`{root.absolute() / 'logs' / run.id}`",
    }  # fmt: skip
    rows = [f"| {name} | {text} |" for name, text in facts.items() if text]
    failed = [f"- **{s.title}** failed: {_plain(s.reason)}" for s in run.steps.values() if s.state == "failed"]
    waiting = [
        f"- **{s.title}** waits for people: {_plain(s.reason)}" for s in run.steps.values() if s.state == "waiting"
    ]
    beside = [f"- {_plain(text)}" for text in [*results.notices(), *run.notices, *results.warnings()]]
    where = ["### Where to look", "", rows[0], "|---|---|", *rows[1:]]
    lines = [f"## {run.title}: {run.status}"]
    numbers = _markdown_table(as_rows(results))
    for several in (failed, waiting, numbers, beside, answers, where, _markdown_table(totals)):
        lines += ["", *several] if several else []
    return PageArtifact("markdown", "\n".join(lines), f"How {run.title} went, and where to look", _key(run, "run"))


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    return [f"| {' | '.join(map(_plain, row))} |" for row in cells]


def _key(run: Run, what: str) -> str:
    """Prefect takes lowercase letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.title}-{what}".lower()).strip("-")


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


class Sender:
    """Sends artifacts of one flow run from a thread, which starts with the first one. Never raises."""

    def __init__(self, flow_run: str) -> None:
        """Reads Prefect's address and password here: other threads do not inherit the settings of a block."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES

        self._flow_run = UUID(flow_run)
        self._settings: dict[Any, Any] = {s: s.value() for s in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
        self._settings[PREFECT_CLIENT_MAX_RETRIES] = RETRIES
        self._bars: dict[str, UUID] = {}
        self._moved: dict[str, float] = {}
        self._ending = self._refused = False
        self.trouble = ""
        self._queue: queue.SimpleQueue[Callable[[SyncPrefectClient], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="prefect-artifacts", daemon=True)

    def progress(self, step: str, bar: PageArtifact) -> None:
        """Move a step's bar, at most once in EVERY_SECONDS. After the first bar that Prefect refuses there are no more:
        results matter more, and each attempt costs time."""
        now = time.monotonic()
        if now - self._moved.get(step, -math.inf) >= EVERY_SECONDS and not self._refused:
            self._moved[step] = now
            self._put(lambda client: self._move_bar(client, step, bar))

    def ended(self, step: str) -> None:
        """Remove a step's bar, if it has one: its state shows that it is over."""
        if step in self._moved:
            self._put(lambda client: self._remove_bar(client, step))

    def close(self, last: Sequence[PageArtifact], seconds: float = LAST_SECONDS) -> None:
        """Remove all bars and send `last`; give up after `seconds`."""

        def finish(client: SyncPrefectClient) -> None:
            for artifact in last:
                client.create_artifact(artifact_create(artifact, self._flow_run))
            for step in list(self._bars):
                self._remove_bar(client, step)

        self._ending = True
        self._put(finish)
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._refuse(TimeoutError(f"it did not take the results within {seconds:g} s"))

    def _put(self, send: Callable[[SyncPrefectClient], None]) -> None:
        self._queue.put(send)
        if self._thread.ident is None:
            self._thread.start()

    def _work(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.settings import temporary_settings

        try:
            with temporary_settings(self._settings), get_client(sync_client=True) as client:
                for send in iter(self._queue.get, None):
                    self._attempt(send, client)
        except Exception as e:
            self._refuse(e)

    def _attempt(self, send: Callable[[SyncPrefectClient], None], client: SyncPrefectClient) -> None:
        """Send one thing; where that fails, the next ones are tried all the same."""
        try:
            send(client)
        except Exception as e:
            self._refuse(e)

    def _refuse(self, error: Exception) -> None:
        self._refused = True
        self.trouble = f"Prefect did not take an artifact of this run: {error}"
        logging.getLogger("alignflow").warning(self.trouble)

    def _move_bar(self, client: SyncPrefectClient, step: str, bar: PageArtifact) -> None:
        from prefect.client.schemas.actions import ArtifactUpdate

        if self._ending or self._refused:
            return
        if step in self._bars:
            client.update_artifact(self._bars[step], ArtifactUpdate(data=bar.data, description=bar.description))
        else:
            self._bars[step] = client.create_artifact(artifact_create(bar, self._flow_run)).id

    def _remove_bar(self, client: SyncPrefectClient, step: str) -> None:
        from prefect.exceptions import ObjectNotFound

        with suppress(KeyError, ObjectNotFound):  # it has none yet, or somebody removed it on the pages
            client.delete_artifact(self._bars.pop(step))


def artifact_create(artifact: PageArtifact, flow_run: UUID) -> ArtifactCreate:
    """The request by which Prefect's client makes an artifact of a flow run."""
    from prefect.client.schemas.actions import ArtifactCreate

    return ArtifactCreate(**vars(artifact), flow_run_id=flow_run)
