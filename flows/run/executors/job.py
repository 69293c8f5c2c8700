"""The messages between a run and a child: what to run, as which rank, and what came of it.

Nothing of `tasks` at the top, because a child imports that from the run's snapshot.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ALIGNFLOW_RENDEZVOUS")
"""Variables that say which rank a process is: a process alone has none, whatever started the run has."""


@dataclass(frozen=True)
class Input:
    """An artifact in the store, as a child opens it."""

    kind: str
    path: Path
    digest: str
    members: Mapping[str, tuple[Input, ...]] = field(default_factory=dict)
    """What it refers to, by role: the base of an adapter, the members of a scorer."""
    opened_by: str = ""
    """Of an oracle that code opens: the digest of that code."""
    execution: Mapping[str, Any] = field(default_factory=dict)
    """Execution parameters, in this run, of the choice that its files specify: those are in no file."""


@dataclass(frozen=True)
class Job:
    """One call of a task, complete: nothing else is read from the parent."""

    module: str
    task: str
    inputs: Mapping[str, tuple[Input, ...]]
    lists: frozenset[str]
    """Ports that take a list; the others get the one handle."""
    params: Mapping[str, Any]
    """Parameters and execution parameters; a choice is a `tasks.contract.Chosen`."""
    folder: Path
    """`artifacts/partial/<key>`: survives a kill."""
    log: Path
    work: bool = False
    """Whether the task asks for `work: Workspace`."""
    groups: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Arguments that are dataclasses, by module and name; `params` has their fields."""
    answers: Path | None = None
    """Folder of the store's answers of oracles; None: one of its own, in `folder`."""


@dataclass(frozen=True)
class Seat:
    """Which of the processes of a job this one is, and with what it computes."""

    rank: int = 0
    world: int = 1
    threads: int = 0
    """Threads of its own; 0: as many as the forkserver has."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides those of ranks: devices, and how training is spread over them."""
    rendezvous: str = ""
    """The file at which the ranks meet."""

    def apply(self) -> None:
        """Make this process what it is to be, before the task is imported."""
        for name in OF_RANKS:
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        if self.world > 1:
            ranks = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.world}
            os.environ.update({name: str(value) for name, value in ranks.items()})
            os.environ["ALIGNFLOW_RENDEZVOUS"] = self.rendezvous
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            if torch := sys.modules.get("torch"):  # the forkserver has imported it with all threads
                torch.set_num_threads(self.threads)

    def log_of(self, log: Path) -> Path:
        """Where it prints, for a job with this log."""
        return log.with_name(f"{log.stem}.rank{self.rank}{log.suffix}") if self.rank else log


@dataclass(frozen=True)
class Result:
    """What a task made. `path` lies inside the job's folder, or is a folder of the user that is only referred to."""

    kind: str
    path: Path
    digest: str = ""
    """Set where the task returned one of its inputs."""
    seconds: float = 0.0
    """Of the task alone: no waiting, no fork."""
    totals: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[Mapping[str, float], ...] = ()
    notices: tuple[str, ...] = ()
