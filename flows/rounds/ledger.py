"""The ledger of a continuing deployment: `ledger/<pipeline>.<deployment>.jsonl`, one event per line, only appended to.

A line counts once its newline is on disk. Readers ignore what a kill left behind the last newline, and the next writer
cuts it off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from flows.rounds.history import Event, History, history_of
from flows.store.store import Store
from flows.system.locks import WaitingCallback
from tasks.contract import DataError
from tasks.digests import with_digest, without_digest
from tasks.files import sync

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Ledger:
    """The events of one deployment in a store. A writer must hold `lock`."""

    def __init__(self, store: Store, pipeline: str, deployment: str) -> None:
        self.name = f"{pipeline}/{deployment}"
        self.path = store.inside("ledger", f"{pipeline}.{deployment}.jsonl")
        self._store = store

    @contextmanager
    def lock(self, waiting: WaitingCallback | None = None) -> Iterator[None]:
        """Hold the deployment; the kernel frees it when this process dies."""
        with self._store.lock(f"ledger-{self.path.stem}", f"pid {os.getpid()}", waiting=waiting):
            yield

    def is_locked(self) -> bool:
        """Whether a tick is at work."""
        return self._store.is_locked(f"ledger-{self.path.stem}")

    def history(self) -> History:
        """The history of all events. Raises DataError for a ledger that was damaged."""
        events = self.events()
        try:
            return history_of(events)
        except DataError as e:
            raise DataError(f"{self.path}: {e}") from None

    def events(self) -> list[Event]:
        """All events, oldest first. Raises DataError with the number of the first invalid line."""
        events: list[Event] = []
        for number, line in enumerate(self._whole().splitlines(keepends=True), 1):
            try:
                events.append(_event(line))
            except ValueError as e:
                trouble = e.errors()[0]["msg"] if isinstance(e, ValidationError) else e
                raise DataError(f"{self.path}:{number}: invalid ledger event ({trouble})") from None
        return events

    def append(self, event: Event) -> None:
        """Write an event; it is on disk when this returns."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._whole()
        with self.path.open("ab") as file:
            if file.tell() > len(whole):
                file.truncate(len(whole))
            file.write(with_digest(_EVENT.dump_python(event, mode="json")))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self.path.parent)

    def _whole(self) -> bytes:
        """The file up to its last newline."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        end = data.rfind(b"\n") + 1
        with suppress(ValueError):  # a whole line whose newline is another byte is damage, not what a kill left
            without_digest(data[end:-1] + b"\n")
            return data
        return data[:end]


def _event(line: bytes) -> Event:
    """Raises ValueError."""
    value = without_digest(line)
    event = _EVENT.validate_python(value, strict=False)
    if unknown := value.keys() - {field.name for field in fields(event)}:
        raise ValueError(f"it has no {', '.join(sorted(unknown))}")
    return event


def ledgers(store: Store) -> Iterator[Ledger]:
    """All ledgers of a store."""
    for path in sorted((store.root / "ledger").glob("*.jsonl")):
        pipeline, _, deployment = path.stem.partition(".")
        yield Ledger(store, pipeline, deployment)
