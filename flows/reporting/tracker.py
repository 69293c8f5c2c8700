"""Publishes a run to MLflow while it goes on, and writes its report with its figures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flows.reporting.report.page import try_to_write_report
from flows.reporting.sinks.mlflow_publication import Publication, note_facts
from flows.reporting.sinks.mlflow_sink import MlflowServer, short_error, tracking_uri
from flows.reporting.sinks.mlflow_view import run_page
from flows.reporting.sinks.pending import PendingRuns
from flows.run.events import Listener
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.retained import CARRIED
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.system.environment import without_password
from flows.wiring.model import Graph, Node
from tasks.contract import SpecError

AGAIN = "the next run publishes this one again"


class Tracker(Listener):
    """Writes to MLflow from a thread of its own, so that MLflow never slows or fails a run; `close` waits for the rest.

    A run that MLflow did not take whole is published again, from the records, by the next tracker.
    """

    def __init__(self, store: Store) -> None:
        self.uri = tracking_uri(store.root)
        self._store = store
        self._waiting = PendingRuns(store, "mlflow")
        self._queue: queue.Queue[Callable[[Publication], None] | None] = queue.Queue()
        self._server: MlflowServer | None = None
        self._publication: Publication | None = None
        self._run: Run | None = None
        self._trouble = ""
        self._incomplete = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def page(self) -> str:
        """The run's page below the address of MLflow; empty if MLflow has none."""
        link = self._link()
        return run_page(link) if link else ""

    def _link(self) -> str:
        return self._server.link(self._run.id) if self._server and self._run else ""

    def close(self, seconds: float = 60.0) -> str:
        """Wait for MLflow, at most `seconds`. Returns a message if something went wrong."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"did not take everything within {seconds:.0f} s; {AGAIN}")
        if self._run and self._incomplete:
            try:
                self._waiting.add(self._run.id)
            except OSError as e:
                self._give_up(f"did not take everything, and the next run cannot know of it ({e.strerror})")
        link = self._link()
        if link and self._run and self._run.status != "running":
            self._run.links["mlflow"] = link
            Runs(self._store).save(self._run)
        return self._trouble or (self._server.refusal if self._server else "")

    def _give_up(self, why: str) -> None:
        self._incomplete = True
        self._trouble = f"MLflow at {without_password(self.uri)} {why}"

    # Events

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._run = run
        note_facts(run, graph, logs)
        self._queue.put(Publication.begin)

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        if node.task == CARRIED:
            self._queue.put(lambda to: to.carried(node.id, record.content))
        else:
            self._queue.put(lambda to: to.step(FinishedStep(node.addresses, node.round, record, hit)))

    def run_finished(self, run: Run) -> None:
        if self._run is None:  # it ended before it began
            return
        steps = finished_steps(self._store, run)
        try_to_write_report(self._store, run)
        self._queue.put(lambda to: to.end(steps))

    def left_open(self, run: Run) -> None:
        self._waiting.add(run.id)

    # The thread

    def _work(self) -> None:
        for write in iter(self._queue.get, None):
            self._attempt(write)
        if self._server:
            self._attempt(lambda to: self._publish_waiting(to.server))

    def _attempt(self, write: Callable[[Publication], None]) -> None:
        """Write something of this run, unless MLflow has already failed to answer."""
        if self._incomplete or self._run is None:
            return
        try:
            if self._publication is None:
                self._server = MlflowServer(self._store.root, self.uri)
                self._trouble = self._server.damage
                self._publish_waiting(self._server)
                self._publication = Publication(self._store, self._server, self._run)
            write(self._publication)
        except Exception as e:
            if not self._incomplete:  # else `close` gave up meanwhile
                self._give_up(f"cannot be reached ({short_error(e)}); {AGAIN}")

    def _publish_waiting(self, server: MlflowServer) -> None:
        def publish(id: str) -> bool:
            with suppress(SpecError):  # a run whose file is gone has nothing to publish
                run = Runs(self._store).load(id)
                return run.status != "running" and self._publish_again(server, run)
            return True

        self._waiting.publish(publish)

    def _publish_again(self, server: MlflowServer, run: Run) -> bool:
        try:
            Publication(self._store, server, run).whole()
        except Exception:
            if not server.answers():
                raise
            return False  # it fails at this run alone, which need not stop others
        run.links["mlflow"] = server.link(run.id)
        Runs(self._store).save(run)
        return True
