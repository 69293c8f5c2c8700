"""The devices that one run holds: which of its steps comes next, and the processes that keep a model between two.

A process that keeps a model (a *warm* one) holds its devices while it waits for the next step that wants this model.
Another step of the run may have the devices meanwhile: then the warm process rests, so that it needs little of them, or
ends where even that is too much. It ends, too, when another run waits for the devices, or nobody wanted it for long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from flows.run.executors.base import Needs, Stopped
from flows.run.executors.devices import PATIENCE, Devices, Ticket
from flows.system.locks import HeldLock, Waiting

IDLE_SECONDS = 15.0
"""How long a warm process keeps devices for which another run waits, and how long it may keep a GPU's memory idle."""
LONGEST_IDLE = 600.0
"""Seconds after which a warm process ends whose devices stand idle, even if no run wants them."""
LONGEST_REST = 3600.0
"""Seconds after which a resting process ends: by then, loading its model again is a small share of what ran since."""
POLL_SECONDS = 0.1


class Resting(Protocol):
    """What stays warm."""

    def rest(self) -> bool:
        """Free what can be made again quickly; whether that worked."""

    def close(self) -> None:
        """End it."""


Process = TypeVar("Process", bound=Resting)


@dataclass(eq=False)
class Warm(Generic[Process]):
    """A process that waits for a step of its affinity."""

    process: Process
    affinity: str
    devices: tuple[str, ...]
    since: float = field(default_factory=time.monotonic)
    """When it finished its last step."""
    rests: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


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
    needs: Needs
    count: int
    since: float = field(default_factory=time.time)
    grant: Grant[Process] | None = None
    ticket: Ticket | None = None


class Pool(Generic[Process]):
    """The devices of one kind for the steps of one run. Safe to use from many threads."""

    def __init__(
        self, devices: Devices, stopped: threading.Event, has_room: Callable[[Needs, tuple[str, ...]], bool],
        limit: int | None = None,
    ) -> None:  # fmt: skip
        """`has_room`: whether a step's needs fit on devices as they are now; `limit`: see the attribute."""
        self._machine, self._stopped, self._has_room = devices, stopped, has_room
        self.limit = limit or len(devices.names)
        """Most devices at a time."""
        self._changed = threading.Condition()
        self._held: dict[str, HeldLock] = {}
        self._busy: set[str] = set()
        self._warm: list[Warm[Process]] = []
        self._waiting: list[_Claim[Process]] = []
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None

    # What steps call

    def enter(self, needs: Needs, count: int, waiting: Waiting | None = None) -> Grant[Process]:
        """Wait for `count` devices. Of the steps that wait, one whose model is warm goes first, then the earliest.

        `waiting` is called while other runs hold the devices.
        """
        claim: _Claim[Process] = _Claim(needs, count)
        try:
            self._wait(claim, waiting)
        except BaseException:
            if claim.grant:
                self.leave(claim.grant)
            raise
        finally:
            self._forget(claim)
        assert claim.grant
        for warm in claim.grant.displaced:
            self._make_room(warm, claim)
        return claim.grant

    def leave(self, grant: Grant[Process], process: Process | None = None, affinity: str = "") -> None:
        """Give the devices back, or keep them for a while with `process`, which holds a model."""
        with self._changed:
            older = [warm for warm in self._warm if process and set(warm.devices) & set(grant.devices)]
            self._warm = [warm for warm in self._warm if warm not in older]
            if process:
                self._warm.append(Warm(process, affinity, grant.devices))
                self._start_sweeper()
        for warm in older:  # one for each device
            warm.process.close()
        with self._changed:
            self._busy -= set(grant.devices)
            self._release_unused()
            self._changed.notify_all()

    def close(self) -> None:
        """End the warm processes and give all devices back that no step uses."""
        self._closed.set()
        self._end(lambda warm: True)

    def wake(self) -> None:
        """Let waiting threads see that the run is being stopped."""
        with self._changed:
            self._changed.notify_all()

    # Who comes next

    def _wait(self, claim: _Claim[Process], waiting: Waiting | None) -> None:
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
                self._end(lambda warm: not self._is_wanted(warm))
            with self._changed:
                self._serve()
                if claim.grant:
                    return
                claim.ticket = claim.ticket or self._machine.wait_in_queue(claim.since)
                others = self._machine.holders() if len(self._busy) + claim.count <= self.limit else None
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
                self._changed.notify_all()
            elif time.time() - claim.since > PATIENCE:
                return

    def _match(self, claim: _Claim[Process]) -> Warm[Process] | None:
        """The idle warm process that serves a step."""
        if not claim.needs.affinity:
            return None
        wanted = claim.needs.affinity, claim.count
        fitting = (w for w in self._warm if (w.affinity, len(w.devices)) == wanted and self._is_idle(w))
        return next(fitting, None)

    def _grant(self, claim: _Claim[Process]) -> Grant[Process] | None:
        if warm := self._match(claim):
            self._warm.remove(warm)
            self._busy |= set(warm.devices)
            return Grant(warm.devices, warm.process)
        idle = [name for name in self._machine.names if name in self._held and name not in self._busy]
        most = min(claim.count, self.limit - len(self._held))
        fresh = self._machine.take(max(0, claim.count - len(idle)), max(0, most), claim.ticket)
        if fresh is None or len(fresh) + len(idle) < claim.count:
            return None
        self._held |= fresh
        chosen = [*fresh, *idle][: claim.count]
        devices = tuple(name for name in self._machine.names if name in chosen)
        self._busy |= set(devices)
        return Grant(devices, None, tuple(w for w in self._warm if set(w.devices) & set(devices)))

    def _is_idle(self, warm: Warm[Process]) -> bool:
        return not self._busy & set(warm.devices)

    def _is_wanted(self, warm: Warm[Process]) -> bool:
        return any(claim.needs.affinity == warm.affinity for claim in self._waiting)

    # Warm processes

    def _make_room(self, warm: Warm[Process], claim: _Claim[Process]) -> None:
        """Let a warm process rest for another step; end it where what it keeps leaves the step too little."""
        assert claim.grant
        with warm.lock:
            warm.rests = warm.rests or warm.process.rest()
            if warm.rests and self._has_room(claim.needs, claim.grant.devices):
                return
            with self._changed:
                if warm not in self._warm:
                    return
                self._warm.remove(warm)
            warm.process.close()

    def _end(self, condition: Callable[[Warm[Process]], bool]) -> None:
        """End idle warm processes, and give their devices back."""
        with self._changed:
            ending = [warm for warm in self._warm if self._is_idle(warm) and condition(warm)]
            self._warm = [warm for warm in self._warm if warm not in ending]
            taken = {name for warm in ending for name in warm.devices}
            self._busy |= taken
        for warm in ending:
            warm.process.close()
        with self._changed:
            self._busy -= taken
            self._release_unused()
            self._changed.notify_all()

    def _release_unused(self) -> None:
        """Give back the devices that neither a step nor a warm process uses."""
        used = self._busy | {name for warm in self._warm for name in warm.devices}
        for name in [name for name in self._held if name not in used]:
            self._held.pop(name).release()

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        """End warm processes that have waited too long; let the others rest, so that other programs have the memory."""
        while not self._closed.wait(min(1.0, IDLE_SECONDS / 2)):
            longest = IDLE_SECONDS if self._machine.others_wait() else LONGEST_IDLE
            self._end(lambda warm: _age(warm) > longest)  # noqa: B023
            self._rest_idle()
            with self._changed:
                old = [warm for warm in self._warm if _age(warm) > LONGEST_REST]
                self._warm = [warm for warm in self._warm if warm not in old]
            for warm in old:
                warm.process.close()

    def _rest_idle(self) -> None:
        with self._changed:
            idle = [w for w in self._warm if self._is_idle(w) and not w.rests and _age(w) > IDLE_SECONDS]
            taken = {name for warm in idle for name in warm.devices}
            self._busy |= taken
        for warm in idle:
            warm.rests = warm.process.rest()
        with self._changed:
            self._busy -= taken
        self._end(lambda warm: warm in idle and not warm.rests)


def _age(warm: Warm[Process]) -> float:
    return time.monotonic() - warm.since
