"""The interface between a run and what executes its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from flows.run.executors.worker import Job, Result
from flows.system.locks import Waiting

Events = Callable[..., None]
"""Called with ("started",), ("progress", done, total, unit) and ("notice", text) while a job runs."""


class Stopped(RuntimeError):
    """The run is being stopped; nothing new starts."""


class StepFailed(RuntimeError):
    """A task raised another error than the user's mistakes, or its process died. The log has the traceback."""


class Executor(Protocol):
    """Runs the jobs of one run. Its methods are called from many threads."""

    threads: int
    """Threads that a job may use."""
    stopped: threading.Event
    """Set once the run is being stopped."""

    def start(self, packages: list[str]) -> None:
        """Get ready for jobs that import these packages; returns at once."""

    def submit(
        self, job: Job, events: Events, *, exclusive: bool = False, affinity: str = "", order: int = 0,
        waiting: Waiting | None = None, check: Callable[[], None] = lambda: None,
    ) -> Result:  # fmt: skip
        """Run a job and return its result. Raises SpecError and DataError as the task does, StepFailed, Stopped.

        Args:
            job: what to run.
            events: called with its events.
            exclusive: whether it has the machine's heavy slot to itself.
            affinity: equal for exclusive jobs of which the second is quicker where the first one ran; may be empty.
            order: of the exclusive jobs that wait, one of equal affinity goes first, then the one of lowest `order`.
            waiting: called while the slot is not free.
            check: called when the job is done; what it raises makes the job fail.
        """
        ...

    def stop(self) -> None:
        """End every job now; what waits or comes later raises Stopped."""

    def close(self) -> None:
        """End everything that was started."""
