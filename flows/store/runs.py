"""Runs: which steps a run had, with what result; and how people name them (`last:policy@2`, `sppo/report`, `3fa2`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from flows.store.records import JsonObject, Record
from flows.store.retained import CARRIED
from flows.store.store import Store
from flows.store.tags import Tags
from flows.system.json_files import read_json, write_json
from flows.system.locks import HeldLock, is_free, locked, try_lock
from tasks.contract import JSON, SpecError

Status = Literal["running", "done", "failed", "stopped", "waiting"]


@dataclass
class RunStep:
    """One step of a run."""

    id: str
    addresses: tuple[str, ...]
    task: str
    title: str
    round: int | None = None
    state: str = "pending"
    """pending, running, hit, made, failed, stopped, waiting (for people), skipped."""
    key: str = ""
    content: str = ""
    kind: str = ""
    seconds: float = 0.0
    reason: str = ""
    """Why it ran, was a hit, or failed; what it waits for."""
    fed_by: tuple[str, ...] = ()
    """Ids of the steps that it takes results of; empty in runs of older versions."""

    @property
    def hit(self) -> bool:
        return self.state == "hit"

    @property
    def carried(self) -> bool:
        """Whether its result is a value that an earlier tick left: it belongs to the run that made it."""
        return self.task == CARRIED


@dataclass
class Run:
    """What `runs/<id>.json` holds. Change it, then `Runs.save` it."""

    id: str
    pipeline: str
    parameters: JsonObject
    file: str = ""
    deployment: str = ""
    status: Status = "running"
    started: str = ""
    ended: str = ""
    about: str = ""
    """What the pipeline does, as its file says."""
    rounds: int = 0
    headline: tuple[str, ...] = ()
    steps: dict[str, RunStep] = field(default_factory=dict)
    """By node id."""
    links: dict[str, str] = field(default_factory=dict)
    """Ids elsewhere: `prefect`, `mlflow`."""
    notices: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """What others keep with a run, by name; JSON values."""

    @property
    def title(self) -> str:
        """The pipeline, or PIPELINE/DEPLOYMENT."""
        return f"{self.pipeline}/{self.deployment}" if self.deployment else self.pipeline

    @property
    def has_headline(self) -> bool:
        """Whether one of its own steps measures a headline; the steps after a loop of ticks only take theirs over."""
        return any(not s.carried for id in self.headline if (s := self.steps.get(id)))

    def step(self, address: str) -> RunStep | None:
        """The step at an address; without `@round`, that of the last round. None if there is none."""
        by_address = {a: s for s in self.steps.values() for a in s.addresses}
        if address in by_address:
            return by_address[address]
        rounds = [a for a in by_address if a.rpartition("@")[0] == address]
        return by_address[max(rounds, key=lambda a: int(a.rpartition("@")[2]))] if rounds else None


class FoundRecord(NamedTuple):
    """The record that a REF names, and the run and step that the REF names it by, if any."""

    record: Record
    run: Run | None
    step: RunStep | None


class Runs:
    """The runs of a store. A run is open while its status is `running`; its process holds a lock until it dies."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._folder = store.root / "runs"
        self._held: dict[str, HeldLock] = {}
        self._lock = RLock()

    def begin(self, pipeline: str, parameters: Mapping[str, JSON], *, file: str = "", deployment: str = "") -> Run:
        """A new run, written at once, whose lock this process holds."""
        with locked(self.store.root / "locks" / "gc", shared=True):  # results are deleted only while no run is open
            now = datetime.now(UTC)
            while self._path(id := _id(pipeline, now)).exists() or not self._take(id):
                now += _TICK
            run = Run(id, pipeline, parameters, file, deployment, started=now.isoformat(timespec="seconds"))
            self.save(run)
        return run

    def adopt(self, run: Run) -> bool:
        """Take the lock of an open run whose process died. False if another process has it."""
        return self._take(run.id)

    def end(self, run: Run, status: Status) -> None:
        """Close a run and free its lock."""
        run.status, run.ended = status, datetime.now(UTC).isoformat(timespec="seconds")
        self.save(run)
        held = self._held.pop(run.id, None)
        if held:
            held.release()

    def save(self, run: Run) -> None:
        with self._lock:
            data = _adapter().dump_python(run, mode="json")
            write_json(self._path(run.id), data, durable=run.status != "running")

    def load(self, id: str) -> Run:
        """The run of an id. Raises SpecError if there is none, or if its file is not what was written."""
        try:
            run = _adapter().validate_python(read_json(self._path(id)))
        except OSError:
            raise SpecError(f"there is no run '{id}'{near_names(id, self.ids())}") from None
        except ValueError:
            run = None
        if run is None or run.id != id:
            raise SpecError(f"runs/{id}.json was damaged, or is of an older version; `alignflow verify` sets it aside")
        return run

    def ids(self) -> list[str]:
        """Ids of all runs, oldest first."""
        return sorted(p.stem for p in self._folder.glob("*.json") if not p.name.startswith("."))

    def newest(self, pipeline: str | None = None) -> Iterator[Run]:
        """Runs (of one pipeline), newest first."""
        return self._intact(id for id in reversed(self.ids()) if pipeline is None or _pipeline_of(id) == pipeline)

    def open(self) -> list[Run]:
        """Runs whose status is `running` although their process is dead, oldest first."""
        ids = (id for id in self.ids() if self._may_run(id) and is_free(self._lock_path(id)))
        return [run for run in self._intact(ids) if run.status == "running"]

    def working(self) -> list[str]:
        """Ids of the runs whose process is at work."""
        return [id for id in self.ids() if self._may_run(id) and not is_free(self._lock_path(id))]

    def _intact(self, ids: Iterable[str]) -> Iterator[Run]:
        """The runs of these ids, without those whose file is damaged."""
        for id in ids:
            with suppress(SpecError):
                yield self.load(id)

    def _may_run(self, id: str) -> bool:
        """Whether the file of a run has the text of this status: of a thousand files, few need be parsed."""
        with suppress(OSError):
            return b'"status":"running"' in self._path(id).read_bytes()
        return False

    def find_run(self, ref: str) -> Run:
        """The run that RUN names: an id, the first letters of one, or `last`. Raises SpecError."""
        ids = self.ids()
        if not ids:
            raise SpecError("there are no runs yet; begin one with `alignflow run NAME`")
        if ref == "last":
            return self.load(ids[-1])
        matching = [ref] if ref in ids else [i for i in ids if i.startswith(ref)]
        if len(matching) > 1:
            raise SpecError(f"'{ref}' begins several runs: {', '.join(matching[-5:])}")
        return self.load(matching[0] if matching else ref)

    def find(self, ref: str) -> FoundRecord:
        """What REF names: `RUN:STEP`, `NAME/STEP`, a tag, a digest's first letters.

        `NAME/STEP` is of the pipeline's last run that has the step; of a deployment's run only if no other has it.
        Raises SpecError, naming what comes near, if it names nothing or several things.
        """
        if ":" in ref:
            run, _, address = ref.partition(":")
            return self._step(self.find_run(run), address)
        if "/" in ref:
            name, _, address = ref.partition("/")
            return self._step(self._with_step(name, address), address)
        return FoundRecord(Tags(self.store).record(ref) or self._by_digest(ref), None, None)

    def _with_step(self, name: str, address: str) -> Run:
        """The last run of a pipeline that has the step, ticks last; where none has it, the pipeline's last run."""
        newest = having = deployed = None
        for run in self.newest(name):
            newest = newest or run
            deployed = deployed or (run if run.deployment == address else None)
            if run.step(address):
                having = having or run
                if not run.deployment:
                    return run
        if newest is None:
            raise SpecError(f"'{name}' has not run yet{near_names(name, map(_pipeline_of, self.ids()))}")
        if deployed and not having:
            text = f"'{name}/{address}' is a deployment; its last run is {deployed.id}"
            raise SpecError(f"{text}: show that, or a step of it, {deployed.id}:STEP")
        return having or newest

    def _step(self, run: Run, address: str) -> FoundRecord:
        step = run.step(address)
        if step is None:
            known = [a for s in run.steps.values() for a in s.addresses]
            raise SpecError(f"run {run.id} has no step '{address}'{near_names(address, known)}")
        record = self.store.record(step.key) if step.key else None
        if record is None:
            raise SpecError(f"step '{address}' of run {run.id} has no result ({step.state})")
        return FoundRecord(record, run, step)

    def _by_digest(self, ref: str) -> Record:
        entries = self.store.index.entries().values() if re.fullmatch(r"[0-9a-f]{4,32}", ref) else ()
        matching = [e for e in entries if e.content.startswith(ref) or e.key.startswith(ref)]
        if len({e.content for e in matching}) > 1:
            several = ", ".join(sorted({f"{e.kind} {e.content[:12]}" for e in matching})[:5])
            raise SpecError(f"'{ref}' begins several digests: {several}; give more letters")
        record = self.store.record(max(matching, key=lambda e: e.made).key) if matching else None
        if record is None:
            raise SpecError(f"'{ref}' {self._no_artifact(ref)}")
        return record

    def _no_artifact(self, ref: str) -> str:
        """What a REF is that names no artifact, and how to name one."""
        if ref == "last" or ref in self.ids():
            return f"is a run; name a step of it: {ref}:STEP"
        if ref in map(_pipeline_of, self.ids()):
            return f"is a pipeline; name a step of its last run: {ref}/STEP"
        return "names nothing: give RUN:STEP, NAME/STEP, a tag or at least 4 letters of a digest"

    def _take(self, id: str) -> bool:
        held = try_lock(self._lock_path(id), f"pid {os.getpid()}")
        if held:
            self._held[id] = held
        return held is not None

    def _path(self, id: str) -> Path:
        return self.store.inside("runs", f"{id}.json")

    def _lock_path(self, id: str) -> Path:
        return self.store.inside("locks", f"run-{id}.lock")


@cache
def _adapter() -> TypeAdapter[Run]:
    return TypeAdapter(Run)


_TICK = timedelta(microseconds=16)
"""More than the last letter of an id counts."""


def _id(pipeline: str, now: datetime) -> str:
    """`20261121-081530-sppo-3f2a`; the last letters are the fraction of the second, so that ids sort by time."""
    return f"{now:%Y%m%d-%H%M%S}-{pipeline}-{now.microsecond * 2**16 // 10**6:04x}"


def _pipeline_of(id: str) -> str:
    """`sppo-paper` of `20261121-081530-sppo-paper-3f2a`."""
    return "-".join(id.split("-")[2:-1])


def near_names(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name ends with: the nearest known one, else the known ones."""
    names = sorted(set(known))
    close = get_close_matches(name, names, 1)
    return f" (did you mean '{close[0]}'?)" if close else f"; known: {', '.join(names[-12:])}" if names else ""
