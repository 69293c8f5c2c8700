"""The steps of one run that wait for devices, and which of them comes next."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Generic

from flows.run.executors.base import Needs, Stopped
from flows.run.executors.devices import PATIENCE, Devices, Ticket
from flows.run.executors.holdings import HasRoom, Holdings, Process, Warm
from flows.system.locks import WaitingCallback

POLL_SECONDS = 0.1
"""How often devices are tried that other runs hold."""


@dataclass(eq=False)
class Grant(Generic[Process]):
    """What a step may use."""

    devices: tuple[str, ...]
    process: Process | None = None
    """The warm process of its affinity."""
    displaced: tuple[Warm[Process], ...] = ()
    """Warm processes on these devices, which must rest first."""


@dataclass(eq=False)
class _Claim(Generic[Process]):
    """A step that waits."""

    needs: Needs
    count: int
    since: float = field(default_factory=time.time)
    grant: Grant[Process] | None = None
    ticket: Ticket | None = None


class Pool(Generic[Process]):
    """The devices of one kind for the steps of one run. Safe to use from many threads."""

    def __init__(self, devices: Devices, stopped: threading.Event, has_room: HasRoom, limit: int | None = None) -> None:
        """`stopped` is set when the run is being stopped; `limit`: most devices at a time."""
        self._machine, self._stopped, self._has_room = devices, stopped, has_room
        self._holdings: Holdings[Process] = Holdings(devices, limit)
        self._changed = self._holdings.changed
        self._waiting: list[_Claim[Process]] = []
        self._served = 0.0
        """When a step of this run got devices last: runs have their turns, however many steps of each wait."""

    @property
    def limit(self) -> int:
        """Most devices at a time."""
        return self._holdings.limit

    def enter(self, needs: Needs, count: int, waiting: WaitingCallback | None = None) -> Grant[Process]:
        """Wait for `count` devices. Of the steps that wait, one whose model is warm goes first, then the earliest.

        `waiting` is called while other runs hold the devices. Raises Stopped.
        """
        claim: _Claim[Process] = _Claim(needs, count)
        try:
            try:
                self._wait(claim, waiting)
            finally:
                self._forget(claim)
            assert claim.grant
            self._make_room(needs, claim.grant)
        except BaseException:
            if claim.grant:
                self.leave(claim.grant)
            raise
        return claim.grant

    def leave(self, grant: Grant[Process], process: Process | None = None, affinity: str = "") -> None:
        """Give the devices back, or keep them for a while with `process`, which holds a model."""
        self._holdings.give_back(grant.devices, process, affinity)

    def close(self) -> None:
        """End the warm processes and give all devices back that no step uses."""
        self._holdings.close()

    def wake(self) -> None:
        """Let waiting threads see that the run is being stopped."""
        with self._changed:
            self._changed.notify_all()

    def _make_room(self, needs: Needs, grant: Grant[Process]) -> None:
        """Let warm processes on the step's devices rest or end; end those on others where the machine is too full."""
        for warm in grant.displaced:
            self._holdings.make_room(warm, needs, grant.devices, self._has_room)
        if not grant.process and self._holdings.warm and not self._has_room(needs, grant.devices):
            self._holdings.end_idle()

    def _wait(self, claim: _Claim[Process], waiting: WaitingCallback | None) -> None:
        """Wait until a step has its grant. The thread of the first step in the order serves all."""
        with self._changed:
            self._waiting.append(claim)
            self._changed.notify_all()
        while not claim.grant:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped.is_set() or claim.grant or self._order()[0] is claim)
            if self._stopped.is_set():
                raise Stopped("the run is being stopped")
            if self._machine.others_wait():
                self._holdings.end_idle(lambda warm: not self._is_wanted(warm))
            with self._changed:
                self._serve()
                if claim.grant:
                    return
                claim.ticket = claim.ticket or self._machine.wait_in_queue(max(claim.since, self._served))
                mine = len(self._holdings.busy)
                others = self._machine.holders() if mine + claim.count <= self.limit else None
                self._changed.wait(POLL_SECONDS)
            if waiting and others is not None:
                waiting(time.time() - claim.since, others)

    def _forget(self, claim: _Claim[Process]) -> None:
        with self._changed:
            self._waiting.remove(claim)
            self._changed.notify_all()
        if claim.ticket:
            claim.ticket.close()

    def _order(self) -> list[_Claim[Process]]:
        """The steps that wait, those whose model is warm first."""
        waiting = [claim for claim in self._waiting if not claim.grant]
        return sorted(waiting, key=lambda claim: (self._match(claim) is None, claim.needs.order))

    def _serve(self) -> None:
        """Grant devices to those that wait, in order. One that has waited for long is not overtaken."""
        for claim in self._order():
            claim.grant = self._grant(claim)
            if claim.grant:
                self._end_turn()
            elif time.time() - claim.since > PATIENCE:
                return

    def _end_turn(self) -> None:
        """Behind the other runs that wait now, the steps of this one queue again."""
        self._served = time.time()
        for claim in self._waiting:
            if claim.ticket:
                claim.ticket.close()
                claim.ticket = None
        self._changed.notify_all()

    def _grant(self, claim: _Claim[Process]) -> Grant[Process] | None:
        if warm := self._match(claim):
            return Grant(warm.devices, self._holdings.take_warm(warm))
        devices = self._holdings.take(claim.count, claim.ticket)
        return Grant(devices, None, self._holdings.on(devices)) if devices else None

    def _match(self, claim: _Claim[Process]) -> Warm[Process] | None:
        """The idle warm process that serves a step."""
        if not claim.needs.affinity:
            return None
        wanted = claim.needs.affinity, claim.count
        idle = (warm for warm in self._holdings.warm if self._holdings.is_idle(warm))
        return next((warm for warm in idle if (warm.affinity, len(warm.devices)) == wanted), None)

    def _is_wanted(self, warm: Warm[Process]) -> bool:
        return any(claim.needs.affinity == warm.affinity for claim in self._waiting)
