"""The place for heavy work, of which a machine has one: who waits, who goes next, and what stays warm in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

from flows.run.executors.base import Stopped
from flows.system.locks import Waiting

Warm = TypeVar("Warm")
IDLE_SECONDS = 15.0
"""How long a warm child keeps the slot while no heavy step of its run wants it."""


class HeavySlot(Generic[Warm]):
    """The machine's one place for heavy work, as the threads of one run share it.

    Between two steps of equal affinity slot and child are handed over as they are. A warm child that nobody wants gives
    the slot back after `IDLE_SECONDS`, so that another run can have it.
    """

    def __init__(
        self, take: Callable[..., AbstractContextManager[object]], end: Callable[[Warm], None], stopped: threading.Event
    ) -> None:
        """`take` takes the machine's slot, `end` ends a warm child, `stopped` is set when the run is being stopped."""
        self._take = take
        self._end = end
        self._stopped = stopped
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, str]] = []
        self._busy = False
        self._held = ExitStack()
        self._warm: tuple[Warm, str] | None = None
        self._timer: threading.Timer | None = None

    def enter(self, affinity: str, order: int, waiting: Waiting | None = None) -> Warm | None:
        """Wait for the slot; returns the warm child if its affinity is `affinity`. `order` differs for every step."""
        me = (order, affinity)
        with self._changed:
            self._waiting.append(me)
            try:
                self._changed.wait_for(lambda: self._stopped.is_set() or (not self._busy and self._next() == me))
            finally:
                self._waiting.remove(me)
            if self._stopped.is_set():
                raise Stopped("the run is being stopped")
            self._busy = True
            self._still()
            warm, self._warm = self._warm, None
        if warm and warm[1] == affinity:
            return warm[0]
        self._retake(warm, waiting)
        return None

    def _retake(self, warm: tuple[Warm, str] | None, waiting: Waiting | None) -> None:
        """Give the slot back for a moment, so that another run's turn comes."""
        try:
            if warm:
                self._end(warm[0])
            self._held.close()
            self._held.enter_context(self._take(waiting=waiting))
        except BaseException:
            self._free()
            raise

    def leave(self, warm: Warm | None, affinity: str) -> None:
        """Give the slot back, or keep it for a while with the child `warm`."""
        if warm is None:
            self._held.close()
        with self._changed:
            self._busy = False
            if warm is not None:
                self._warm = (warm, affinity)
                self._timer = threading.Timer(IDLE_SECONDS, self.close)
                self._timer.daemon = True
                self._timer.start()
            self._changed.notify_all()

    def close(self) -> None:
        """End a warm child that nobody uses and give its slot back."""
        with self._changed:
            if self._busy:
                return
            self._still()
            warm, self._warm = self._warm, None
            self._busy = True
        if warm:
            self._end(warm[0])
        self._held.close()
        self._free()

    def wake(self) -> None:
        """Let waiting threads see that the run is being stopped."""
        with self._changed:
            self._changed.notify_all()

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _still(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> tuple[int, str]:
        fits = [w for w in self._waiting if self._warm and w[1] == self._warm[1]]
        return min(fits or self._waiting)
