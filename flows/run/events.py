"""Events of a run. A subclass of Listener overrides those that it needs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

from flows.store.records import Record
from flows.store.runs import Run
from flows.wiring.model import Graph, Node


class Listener:
    """Ignores all events. Called from several threads, one call at a time; each should return at once."""

    def run_started(self, run: Run, graph: Graph, logs: Path) -> None:
        """The run has an id, a file, and a folder for what its steps print."""

    def step_started(self, node: Node, reason: str, log: Path) -> None:
        """A step was not in the store, and begins; `reason` says why it runs."""

    def step_waiting(self, node: Node, what: str) -> None:
        """A step waits for something outside: devices that other runs hold, or another run that makes the same."""

    def step_progress(self, node: Node, done: float, total: float, unit: str) -> None:
        """`done` of `total` units of a step's work are finished."""

    def step_notice(self, node: Node, text: str) -> None:
        """A message of a step for the user."""

    def step_finished(self, node: Node, record: Record, *, hit: bool, reason: str) -> None:
        """A step has its result, found (`hit`) or made."""

    def step_failed(self, node: Node, error: BaseException) -> None:
        """A step failed: SpecError and DataError are the user's mistakes, StepFailed names a log."""

    def step_awaits_people(self, node: Node, what: str) -> None:
        """A step cannot go on before people have done something; `what` says what, and with which command."""

    def run_finished(self, run: Run) -> None:
        """The run is over; `run.status` says how."""

    def left_open(self, run: Run) -> None:
        """An earlier run was killed and is being closed now; its MLflow run may still be open."""


class CompositeListener(Listener):
    """Calls several listeners, one event at a time. One that fails is logged and stops nothing."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        self._lock = threading.RLock()

    def _call(self, event: str, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            for listener in self._listeners:
                try:
                    getattr(listener, event)(*args, **kwargs)
                except Exception:
                    logging.getLogger("alignflow").exception("%s failed", type(listener).__name__)


for _event in (name for name in vars(Listener) if not name.startswith("_")):
    setattr(CompositeListener, _event, partialmethod(CompositeListener._call, _event))
