"""The interface between a run and what executes its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flows.run.executors.job import Job, Result
from flows.system.locks import WaitingCallback
from tasks.declarations import Memory, Sharding

Events = Callable[..., None]
"""Called with ("started",), ("progress", done, total, unit) and ("notice", text) while a job runs."""


@dataclass(frozen=True)
class Needs:
    """What a job needs of the machine, and how it goes with the others of its run."""

    exclusive: bool = False
    """Whether it keeps all CPU threads busy where it has no GPU."""
    gpus: int = 0
    """GPUs of each rank, where the machine has any."""
    ranks: int = 1
    """Processes as which it runs."""
    sharding: Sharding = "auto"
    timeout: float = 1800.0
    """Seconds after which ranks that give no sign of life are ended. A process alone may take as long as it needs."""
    memory: Memory | None = None
    """What each rank needs at its peak; None: not known."""
    affinity: str = ""
    """Equal for heavy jobs of which the second is quicker where the first one ran; may be empty."""
    order: int = 0
    """Of the heavy jobs that wait, one of equal affinity goes first, then the one of lowest `order`."""


LIGHT = Needs()
"""Of jobs that need one thread."""


class Stopped(RuntimeError):
    """The run is being stopped; nothing new starts."""


class StepFailed(RuntimeError):
    """A task raised another error than the user's mistakes, or its process died. The log has the traceback."""


class Executor(Protocol):
    """Runs the jobs of one run. Its methods are called from many threads."""

    threads: int
    """Threads that a job may use, all its ranks together."""
    stopped: threading.Event
    """Set once the run is being stopped."""

    def start(self, packages: list[str]) -> None:
        """Get ready for jobs that import these packages; returns at once."""

    def submit(
        self, job: Job, events: Events, needs: Needs = LIGHT, *,
        waiting: WaitingCallback | None = None, check: Callable[[], None] = lambda: None,
    ) -> Result:  # fmt: skip
        """Run a job and return its result.

        Raises SpecError, DataError and Waiting as the task does, StepFailed, Stopped.

        Args:
            job: what to run.
            events: called with its events, those of rank 0 where there are several.
            needs: devices, ranks, memory.
            waiting: called while other runs hold the devices.
            check: called when the job is done; what it raises makes the job fail.
        """
        ...

    def stop(self) -> None:
        """End every job now; what waits or comes later raises Stopped."""

    def close(self) -> None:
        """End everything that was started."""
