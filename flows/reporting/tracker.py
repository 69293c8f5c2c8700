"""Publishes a run to its tracking servers while it goes on, and writes its report with its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.reporting.delivery import Delivery
from flows.reporting.report.page import try_to_write_report
from flows.reporting.sinks.mlflow_view import run_page
from flows.reporting.sinks.publication import Publication
from flows.reporting.sinks.run_facts import note_facts
from flows.reporting.sinks.servers import MLFLOW, targets
from flows.reporting.sinks.tracking import chosen_servers
from flows.run.events import Listener
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.retained import CARRIED
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.model import Graph, Node, Profile


class Tracker(Listener):
    """Hands the events of a run to each of its servers; `close` waits for them."""

    def __init__(self, store: Store, tracking: Sequence[str] = Profile().tracking) -> None:
        """`tracking`: names of servers, as the run's profile has them. Raises SpecError for an unknown one in the
        environment."""
        self._store = store
        self._begun = False
        self.deliveries = [Delivery(store, target) for target in targets(store.root, chosen_servers(tracking))]

    @property
    def page(self) -> str:
        """The run's page below the address of MLflow; empty if MLflow has none."""
        links = (d.link for d in self.deliveries if d.target.name == MLFLOW)
        link = next(links, "")
        return run_page(link) if link else ""

    def close(self, seconds: float = 60.0) -> str:
        """Wait for all servers, at most `seconds`. Returns a message if something went wrong."""
        for delivery in self.deliveries:
            delivery.stop()
        now = time.monotonic()
        troubles = [delivery.finish(seconds, now) for delivery in self.deliveries]
        return "; ".join(trouble for trouble in troubles if trouble)

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        self._begun = True
        note_facts(run, graph, logs)
        for delivery in self.deliveries:
            delivery.begin(run)

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        if node.task == CARRIED:
            self._write(lambda to: to.carried(node.id, record.content))
        else:
            self._write(lambda to: to.step(FinishedStep(node.addresses, node.round, record, hit)))

    def run_finished(self, run: Run) -> None:
        if not self._begun:  # it ended before it began
            return
        steps = finished_steps(self._store, run)
        try_to_write_report(self._store, run)
        self._write(lambda to: to.end(steps))

    def promote(self, family: str, digest: str) -> None:
        """Make the model of a digest the champion of a registered model; an empty digest: it has none."""
        self._write(lambda to: to.server.promote(family, digest))

    def left_open(self, run: Run) -> None:
        for delivery in self.deliveries:
            delivery.add(run)

    def _write(self, write: Callable[[Publication], None]) -> None:
        for delivery in self.deliveries:
            delivery.put(write)
