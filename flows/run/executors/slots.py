"""The machine's one slot for heavy work, and the child that stays warm in it between two steps."""

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
    """The machine's slot for heavy work, shared by the threads of one run.

    Of two steps of equal affinity the second takes over slot and child. A warm child that no step wants gives the slot
    back after `IDLE_SECONDS`, so that another run can have it.
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
        try:
            if warm:
                self._end(warm[0])
            self._held.close()  # so that another run may take the slot first
            self._held.enter_context(self._take(waiting=waiting))
        except BaseException:
            self._free()
            raise
        return None

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
        """End a warm child that no step uses and give its slot back."""
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
