"""Runs that a tracking server lacks: each is an empty file in `artifacts/pending/<server>/` until the server has it."""

from __future__ import annotations

from collections.abc import Callable

from flows.store.store import Store
from flows.system.locks import try_lock


class PendingRuns:
    """The runs that wait for one server. A run that is published twice looks like one that was published once."""

    def __init__(self, store: Store, server: str) -> None:
        self._folder = store.inside("pending", server)
        self._turn = store.inside("locks", f"pending-{server}.lock")

    def add(self, run: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / run).touch()

    def ids(self) -> list[str]:
        """Ids of the waiting runs, oldest first."""
        return sorted(file.name for file in self._folder.glob("*"))

    def publish(self, publish: Callable[[str], bool]) -> None:
        """Call `publish` with each waiting id; those for which it returns True no longer wait.

        What `publish` raises ends this, and leaves all others waiting. Does nothing while another process is at it.
        """
        if self.ids() and (turn := try_lock(self._turn)):
            try:
                for id in self.ids():
                    if publish(id):
                        (self._folder / id).unlink(missing_ok=True)
            finally:
                turn.release()
