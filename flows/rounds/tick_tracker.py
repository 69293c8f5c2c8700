"""Publishes ticks to MLflow and to Prefect's pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flows.reporting.sinks.prefect_artifacts import PrefectArtifacts
from flows.reporting.sinks.tracking import family_name
from flows.reporting.tracker import Tracker
from flows.rounds.ledger import Ledger
from flows.rounds.tick import TickObserver
from flows.run.events import Listener
from flows.run.run import Execution
from flows.store.runs import Run
from flows.store.store import Store
from flows.wiring.model import Graph

WAIT_SECONDS = 60.0
"""How long a tick waits until MLflow has all of it; only AGAIN_SECONDS once MLflow has failed to."""
AGAIN_SECONDS = 5.0


class TickTracker(TickObserver):
    """Publishes every tick. Unless MLflow fails, it has all of a tick before the next begins."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self._store, self._say = store, say
        self._open: Tracker | None = None
        self.runs: list[Run] = []
        """The runs that are over."""
        self.trouble = ""
        """A message if MLflow did not take everything."""

    def listeners(self, graph: Graph) -> Sequence[Listener]:
        self.close()
        tracker = self._open = Tracker(self._store, graph.profile.tracking)
        return [tracker, PrefectArtifacts(self._store, lambda: tracker.page)]

    def say(self, text: str) -> None:
        self._say(text)

    def ended(self, execution: Execution) -> None:
        run = execution.run
        self.runs.append(run)
        if self._open and run.deployment:
            champion = Ledger(self._store, run.pipeline, run.deployment).history().champion
            self._open.promote(family_name(run.pipeline, run.deployment), champion)
        self.close()

    def close(self) -> None:
        """Wait for MLflow. The caller must end with this, as `ended` is not called for a tick that ends by an error."""
        if self._open:
            tracker, self._open = self._open, None
            self.trouble = tracker.close(AGAIN_SECONDS if self.trouble else WAIT_SECONDS) or self.trouble
