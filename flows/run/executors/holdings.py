"""The devices that a run holds, and the processes on them that keep a model between two steps (*warm* ones).

A warm process holds its devices while it waits for the next step that wants its model. Another step of the run may have
the devices meanwhile: then the process rests, so that it needs little of them, or ends where even that is too much. It
ends, too, when another run waits for the devices, or no step has wanted it for long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from flows.run.executors.base import Needs
from flows.run.executors.devices import Devices, Ticket
from flows.system.locks import HeldLock

IDLE_SECONDS = 15.0
"""How long a warm process keeps devices for which another run waits, and how long it may keep a GPU's memory idle."""
LONGEST_WARM = 3600.0
"""Seconds after which a warm process ends: by then, loading its model again is a small share of what ran since."""


class Resting(Protocol):
    """What stays warm."""

    def rest(self) -> bool:
        """Free what can be made again quickly; whether that worked."""

    def close(self) -> None:
        """End it."""


Process = TypeVar("Process", bound=Resting)
HasRoom = Callable[[Needs, tuple[str, ...]], bool]
"""Whether a step's needs fit on devices as they are now."""


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
    """Of those who let it rest, or end it."""

    @property
    def age(self) -> float:
        """Seconds since its last step."""
        return time.monotonic() - self.since


class Holdings(Generic[Process]):
    """The devices of one kind that a run holds: each is busy with a step, or kept for a warm process, or both."""

    def __init__(self, devices: Devices, limit: int | None = None) -> None:
        """`limit`: most devices at a time; default: all."""
        self.machine = devices
        self.limit = limit or len(devices.names)
        self.changed = threading.Condition()
        """Guards all below; notified whenever devices become free."""
        self.busy: set[str] = set()
        self.warm: list[Warm[Process]] = []
        self._held: dict[str, HeldLock] = {}
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None

    # With `changed` held

    def take(self, count: int, ticket: Ticket | None) -> tuple[str, ...] | None:
        """Make `count` devices busy, free ones before those of warm processes; None if there are fewer."""
        idle = [name for name in self.machine.names if name in self._held and name not in self.busy]
        most = max(0, min(count, self.limit - len(self._held)))
        fresh = self.machine.take(max(0, count - len(idle)), most, ticket)
        if fresh is None:
            return None
        self._held |= fresh
        chosen = [*fresh, *idle][:count]
        self.busy |= set(chosen)
        return tuple(name for name in self.machine.names if name in chosen)

    def is_idle(self, warm: Warm[Process]) -> bool:
        return not self.busy & set(warm.devices)

    def take_warm(self, warm: Warm[Process]) -> Process:
        """Make a warm process busy with a step."""
        self.warm.remove(warm)
        self.busy |= set(warm.devices)
        return warm.process

    def on(self, devices: tuple[str, ...]) -> tuple[Warm[Process], ...]:
        """The warm processes on these devices."""
        return tuple(warm for warm in self.warm if set(warm.devices) & set(devices))

    # Without it

    def give_back(self, devices: tuple[str, ...], process: Process | None = None, affinity: str = "") -> None:
        """A step has finished: keep the devices for a while with `process`, which holds a model; else release them."""
        if process and self._closed.is_set():
            process.close()
            process = None
        with self.changed:
            older = self.on(devices) if process else ()
            self.warm = [warm for warm in self.warm if warm not in older]
            if process:
                self.warm.append(Warm(process, affinity, devices))
                self._start_sweeper()
        for warm in older:  # one for each device
            warm.process.close()
        self._make_free(set(devices))

    def make_room(self, warm: Warm[Process], needs: Needs, devices: tuple[str, ...], has_room: HasRoom) -> None:
        """Let a warm process rest for another step; end it where what it keeps leaves the step too little."""
        with warm.lock:
            warm.rests = warm.rests or warm.process.rest()
            if warm.rests and has_room(needs, devices):
                return
            with self.changed:
                if warm not in self.warm:
                    return
                self.warm.remove(warm)
            warm.process.close()

    def end_idle(self, condition: Callable[[Warm[Process]], bool] = lambda _: True) -> None:
        """End the idle warm processes that fulfil a condition, and release their devices."""
        with self.changed:
            ending = [warm for warm in self.warm if self.is_idle(warm) and condition(warm)]
            self.warm = [warm for warm in self.warm if warm not in ending]
            taken = {name for warm in ending for name in warm.devices}
            self.busy |= taken
        for warm in ending:
            warm.process.close()
        self._make_free(taken)

    def close(self) -> None:
        """End the warm processes and release all devices that no step uses."""
        self._closed.set()
        self.end_idle()

    def _make_free(self, devices: set[str]) -> None:
        """These devices are no longer busy; release those that no warm process keeps."""
        with self.changed:
            self.busy -= devices
            used = self.busy | {name for warm in self.warm for name in warm.devices}
            for name in [name for name in self._held if name not in used]:
                self._held.pop(name).release()
            self.changed.notify_all()

    # The sweeper

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        """End warm processes that have waited too long; let the others rest, so that other programs have the memory."""
        while not self._closed.wait(min(1.0, IDLE_SECONDS / 2)):
            longest = IDLE_SECONDS if self.machine.others_wait() else LONGEST_WARM
            self._end_older(longest)
            self._rest_idle()
            with self.changed:
                old = [warm for warm in self.warm if warm.age > LONGEST_WARM]
                self.warm = [warm for warm in self.warm if warm not in old]
            for warm in old:
                warm.process.close()

    def _end_older(self, seconds: float) -> None:
        self.end_idle(lambda warm: warm.age > seconds)

    def _rest_idle(self) -> None:
        with self.changed:
            idle = [w for w in self.warm if self.is_idle(w) and not w.rests and w.age > IDLE_SECONDS]
            taken = {name for warm in idle for name in warm.devices}
            self.busy |= taken
        for warm in idle:
            warm.rests = warm.process.rest()
        self._make_free(taken)
        self.end_idle(lambda warm: warm in idle and not warm.rests)
