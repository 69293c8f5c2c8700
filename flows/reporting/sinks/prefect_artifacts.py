"""What a run leaves on Prefect's pages besides states: the results as a table, where to look; while they run, how far
long steps are.

They come from the run, never from a step, so a cached run has the results too. A thread of their own sends them:
they cannot slow a run, and whatever goes wrong with them fails nothing.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.reporting.results import NOTHING, RunResults, notices, run_results, table, warnings
from flows.reporting.sinks.mlflow_sink import address
from flows.run.events import Listener
from flows.store.finished import FinishedStep
from flows.store.records import Record
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.model import Graph, Node

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import ArtifactCreate

LONG_SECONDS = 4.0
"""A step has a progress bar once it has run for as long as that."""
EVERY_SECONDS = 2.0
"""How often a bar moves."""
LAST_SECONDS = 10.0
"""How long the end of a run waits for its results to be sent."""
RETRIES = 1
"""How often a request is repeated, after two seconds: the run waits for the last ones, also if the server is gone."""
FIRST_ROW = "row"
"""Header of the column that says which evaluation a row is."""


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
        self._run: Run | None = None
        self._sender: Sender | None = None
        self._done: dict[str, FinishedStep] = {}
        self._begun: dict[str, float] = {}

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._run, self._done, self._begun = run, {}, {}
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
        self._done[node.id] = FinishedStep(node.addresses, node.round, record, hit)
        if self._sender:
            self._sender.ended(node.id)

    def step_failed(self, node: Node, error: BaseException) -> None:
        if self._sender:
            self._sender.ended(node.id)

    def run_finished(self, run: Run) -> None:
        if self._sender is None:
            return
        steps = [self._done[id] for id, step in run.steps.items() if id in self._done and not step.carried]
        found = run_results(self._store, steps)
        self._sender.close(last_artifacts(run, found, self._store.root, self._page()))
        self._sender = None


def last_artifacts(run: Run, found: RunResults, root: Path, page: str) -> list[PageArtifact]:
    """What a finished run leaves: its results as a table, if it has any, and how it went. `page`: of the run in MLflow,
    below the address of the server; empty where there is none."""
    return [*_table(run, found), summary(run, found, root, page)]


def _table(run: Run, found: RunResults) -> Iterator[PageArtifact]:
    rows = as_rows(found)
    if rows:
        yield PageArtifact("table", json.dumps(rows), _headline(run, found, rows), _key(run, "results"))


def _headline(run: Run, found: RunResults, rows: list[dict[str, str]]) -> str:
    """What the page of all artifacts says of the table: its last headline row."""
    last = rows[bool(found.floor) + len(found.rows) - 1] if found.rows else rows[-1]
    cells = [f"{head} {cell}".strip() for head, cell in last.items() if cell != NOTHING]
    return f"{run.title}, " + ", ".join(cells).removeprefix("row ")


def as_rows(found: RunResults) -> list[dict[str, str]]:
    """The table that the command line shows, cell by cell: one mapping of column to text per evaluation."""
    columns = table(found).columns
    heads = [" ".join(str(c.header).split()) or FIRST_ROW for c in columns]
    return [dict(zip(heads, map(str, row), strict=True)) for row in zip(*(c.cells for c in columns), strict=True)]


def summary(run: Run, found: RunResults, root: Path, page: str) -> PageArtifact:
    """How the run went, what must be read beside its numbers, and where to look further."""
    own = [step for step in run.steps.values() if not step.carried]
    made, hits = (sum(step.state == state for step in own) for state in ("made", "hit"))
    left = len(own) - made - hits
    report = next((i for i in reversed(run.headline) if i in run.steps and run.steps[i].key), None)
    facts = {
        "run": f"`{run.id}`",
        "steps": f"{made} run, {hits} cached" + (f", {left} not done" if left else ""),
        "look": f"`alignflow show {run.id}`",
        "answers": f"`alignflow show {run.id}:{report}`" if report else "",
        "MLflow": f"[{run.pipeline} in MLflow]({address(root)}/{page})" if page else "",
        "logs": f"`{root.absolute() / 'logs' / run.id}`",
    }  # fmt: skip
    rows = [f"| {name} | {text} |" for name, text in facts.items() if text]
    lines = [f"## {run.title}: {run.status}", "", rows[0], "|---|---|", *rows[1:]]
    failed = [f"- **{s.title}** failed: {_plain(s.reason)}" for s in run.steps.values() if s.state == "failed"]
    beside = [f"- {_plain(text)}" for text in [*notices(found), *run.notices, *warnings(found)]]
    for several in (failed, beside):
        lines += ["", *several] if several else []
    return PageArtifact("markdown", "\n".join(lines), f"How {run.title} went, and where to look", _key(run, "run"))


def _key(run: Run, what: str) -> str:
    """Prefect takes lowercase letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.title}-{what}".lower()).strip("-")


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


class Sender:
    """Sends artifacts of one flow run from a thread, which begins with the first one. Never raises."""

    def __init__(self, flow_run: str) -> None:
        """Takes Prefect's address and password as they are set here: settings do not reach other threads by
        themselves."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES

        self._flow_run = UUID(flow_run)
        self._settings: dict[Any, Any] = {s: s.value() for s in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
        self._settings[PREFECT_CLIENT_MAX_RETRIES] = RETRIES
        self._bars: dict[str, UUID] = {}
        self._over_steps: set[str] = set()
        self._waiting: dict[str, PageArtifact] = {}
        self._last: list[PageArtifact] = []
        self._news, self._over = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="prefect-artifacts", daemon=True)

    def progress(self, step: str, bar: PageArtifact) -> None:
        """Move a step's bar; what was not sent yet is forgotten."""
        with self._news:
            self._waiting[step] = bar
        if not self._thread.is_alive() and not self._over:
            self._thread.start()

    def ended(self, step: str) -> None:
        """Remove a step's bar, if it has one: its state says that it is over."""
        with self._news:
            self._waiting.pop(step, None)
            self._over_steps.add(step)

    def close(self, last: list[PageArtifact], seconds: float = LAST_SECONDS) -> None:
        """Send the rest and `last`; give up after `seconds`."""
        with self._news:
            self._last, self._over = last, True
            self._news.notify()
        if not self._thread.is_alive():
            self._thread.start()
        self._thread.join(seconds)

    def _work(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.settings import temporary_settings

        try:
            with temporary_settings(self._settings), get_client(sync_client=True) as client:
                while not self._over:
                    self._send_bars(client)
                    with self._news:
                        self._news.wait_for(lambda: self._over, EVERY_SECONDS)
                self._remove_bars(client, set(self._bars))
                for artifact in self._last:
                    client.create_artifact(artifact_create(artifact, self._flow_run))
        except Exception as e:
            logging.getLogger("alignflow").warning("Prefect did not take an artifact of this run: %s", e)

    def _send_bars(self, client: SyncPrefectClient) -> None:
        from prefect.client.schemas.actions import ArtifactUpdate

        with self._news:
            waiting, self._waiting = self._waiting, {}
            over, self._over_steps = self._over_steps, set()
        self._remove_bars(client, over)
        for step, bar in waiting.items():
            if step in self._bars:
                client.update_artifact(self._bars[step], ArtifactUpdate(data=bar.data, description=bar.description))
            else:
                self._bars[step] = client.create_artifact(artifact_create(bar, self._flow_run)).id

    def _remove_bars(self, client: SyncPrefectClient, steps: set[str]) -> None:
        from prefect.exceptions import ObjectNotFound

        for step in steps & self._bars.keys():
            with suppress(ObjectNotFound):  # somebody removed it on the pages
                client.delete_artifact(self._bars.pop(step))


def artifact_create(artifact: PageArtifact, flow_run: UUID) -> ArtifactCreate:
    """The request by which Prefect's client makes an artifact of a flow run."""
    from prefect.client.schemas.actions import ArtifactCreate

    fields: Mapping[str, Any] = vars(artifact)
    return ArtifactCreate(**fields, flow_run_id=flow_run)
