"""Publishes one run to one tracking server while it goes on, and the earlier runs that the server lacks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from flows.reporting.sinks.pending import PendingRuns
from flows.reporting.sinks.publication import Publication
from flows.reporting.sinks.servers import Target
from flows.reporting.sinks.tracking import TrackingServer, short_error
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import DataError, SpecError

AGAIN = "the next run publishes this one again"


class Delivery:
    """Writes to a server from a thread of its own, so that it never slows or fails a run; `finish` waits for the rest.

    A run that the server did not take whole is published again, from the records, by the next delivery.
    """

    def __init__(self, store: Store, target: Target) -> None:
        self.target = target
        self._store = store
        self._waiting = PendingRuns(store, target.name)
        self._queue: queue.Queue[Callable[[Publication], None] | None] = queue.Queue()
        self._server: TrackingServer | None = None
        self._publication: Publication | None = None
        self._run: Run | None = None
        self._trouble = ""
        self._incomplete = False
        self._thread = threading.Thread(target=self._work, name=target.name, daemon=True)
        self._thread.start()

    @property
    def link(self) -> str:
        """Where the run is on the server; empty if it is not there."""
        return self._server.link(self._run.id) if self._server and self._run else ""

    def begin(self, run: Run) -> None:
        self._run = run
        self.put(Publication.begin)

    def put(self, write: Callable[[Publication], None]) -> None:
        """Write something of the run, after all that was put before."""
        self._queue.put(write)

    def add(self, run: Run) -> None:
        """A run that ended unpublished."""
        self._waiting.add(run.id)

    def stop(self) -> None:
        """Nothing more will be put."""
        self._queue.put(None)

    def finish(self, seconds: float, since: float) -> str:
        """Wait for the server, at most `seconds` after the moment `since` at which it was stopped. Returns a message if
        something went wrong."""
        self._thread.join(max(0.0, since + seconds - time.monotonic()))
        if self._thread.is_alive():
            self._give_up(f"did not take everything within {seconds:.0f} s; {AGAIN}")
        if self._run and self._incomplete:
            try:
                self._waiting.add(self._run.id)
            except OSError as e:
                self._give_up(f"did not take everything, and the next run cannot know of it ({e.strerror})")
        link = self.link
        if link and self._run and self._run.status != "running":
            self._run.links[self.target.name] = link
            Runs(self._store).save(self._run)
        return self._trouble or (self._server.refusal if self._server else "")

    def _give_up(self, why: str) -> None:
        self._incomplete = True
        self._trouble = f"{self.target.title} at {self.target.where} {why}"

    # The thread

    def _work(self) -> None:
        for write in iter(self._queue.get, None):
            self._attempt(write)
        if self._server:
            self._attempt(lambda to: self._publish_waiting(to.server))

    def _attempt(self, write: Callable[[Publication], None]) -> None:
        """Write something of this run, unless the server has already failed to answer."""
        if self._incomplete or self._run is None:
            return
        try:
            if self._publication is None:
                self._server = self.target.open()
                self._trouble = self._server.damage
                self._publish_waiting(self._server)
                self._publication = Publication(self._store, self._server, self._run)
            write(self._publication)
        except Exception as e:
            if not self._incomplete:  # else `finish` gave up meanwhile
                why = f"cannot be used: {e}" if isinstance(e, DataError) else f"cannot be reached ({short_error(e)})"
                self._give_up(f"{why}; {AGAIN}")

    def _publish_waiting(self, server: TrackingServer) -> None:
        def publish(id: str) -> bool:
            with suppress(SpecError):  # a run whose file is gone has nothing to publish
                run = Runs(self._store).load(id)
                return run.status != "running" and self._publish_again(server, run)
            return True

        self._waiting.publish(publish)

    def _publish_again(self, server: TrackingServer, run: Run) -> bool:
        try:
            Publication(self._store, server, run).whole()
        except Exception:
            if not server.answers():
                raise
            return False  # it fails at this run alone, which need not stop others
        run.links[self.target.name] = server.link(run.id)
        Runs(self._store).save(run)
        return True
