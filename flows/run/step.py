"""One step of a run: its key, the lookup, the lock, the slot, the child, the record. Knows nothing of Prefect."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.python.declared import Declarations
from flows.run.events import Listener
from flows.run.executors.base import Executor, Stopped
from flows.run.executors.worker import Input, Job, Result
from flows.store.keys import Choices, Key, digest_of, plain_value
from flows.store.lineage import MODELS, refuse_seen
from flows.store.records import Record
from flows.store.retained import CARRIED, carried_record
from flows.store.store import HowMade, Store
from flows.store.views import RecordViews
from flows.store.witness import Witness
from flows.wiring.model import ChoiceValue, Graph, Node
from tasks.contract import JSON, SpecError

Inputs = Mapping[str, Sequence[Record]]
"""Port → records in list order."""


@dataclass(frozen=True)
class StepOutcome:
    """How a step came to its result."""

    record: Record
    hit: bool
    reason: str
    """Why it was a hit, or why it had to run."""


class Steps:
    """The steps of one graph, over one snapshot of the code. Called from many threads."""

    def __init__(
        self,
        graph: Graph,
        store: Store,
        choices: Choices,
        workers: Executor,
        listener: Listener,
        *,
        logs: Path,
        fresh: frozenset[str] = frozenset(),
        stopped: threading.Event | None = None,
    ) -> None:
        """`fresh`: ids of steps that run whatever the store holds. `stopped` ends every wait with `Stopped`."""
        self._graph, self._store, self._choices, self._workers = graph, store, choices, workers
        self._listener, self._logs, self._fresh = listener, logs, fresh
        self._stopped = stopped or threading.Event()
        self._views = RecordViews(store, Declarations(choices.code.codebase))
        self._order = {id: i for i, id in enumerate(graph.nodes)}
        self._started = threading.Lock()
        self._running = False

    def key(self, node: Node, inputs: Inputs) -> Key:
        """The key of a step whose inputs are known."""
        contents = {port: [r.content for r in several] for port, several in inputs.items()}
        return self._choices.prepare(node).key(contents)

    def run(self, node: Node, inputs: Inputs) -> StepOutcome:
        """Find the step's result or make it. Raises SpecError, DataError, StepFailed, Stopped."""
        if self._stopped.is_set():
            raise Stopped("the run is being stopped")
        if node.task == CARRIED:
            return StepOutcome(carried_record(self._store, node), True, "carried over from an earlier tick")
        evaluation = self._views.of_step(node, inputs).evaluation
        if evaluation and (notice := refuse_seen(self._store, evaluation)):
            self._listener.step_notice(node, notice)
        key = self.key(node, inputs)
        if node.id in self._fresh:
            return self._locked(node, key, inputs, "requested by --fresh")
        look = self._store.lookup(key.digest)
        if look.record:
            return self._hit(node, look.record, look.reason)
        return self._locked(node, key, inputs, look.reason)

    def _hit(self, node: Node, record: Record, reason: str) -> StepOutcome:
        for notice in record.notices:
            self._listener.step_notice(node, notice)
        return StepOutcome(record, True, reason)

    def _locked(self, node: Node, key: Key, inputs: Inputs, reason: str) -> StepOutcome:
        """Whoever waited here for another run that made the same finds its result."""
        waiting = self._waiting(node, "another run makes the same")
        with self._store.lock(key.digest, str(self._logs.name), waiting=waiting):
            if node.id not in self._fresh:
                look = self._store.lookup(key.digest)
                if look.record:
                    return self._hit(node, look.record, f"{look.reason}, meanwhile")
            else:
                shutil.rmtree(self._store.partial(key.digest), ignore_errors=True)
            return StepOutcome(self._make(node, key, inputs, reason), False, reason)

    def _make(self, node: Node, key: Key, inputs: Inputs, reason: str) -> Record:
        from tasks.kinds import KINDS

        job = self._job(node, key, inputs)
        witness = Witness(outside_paths(node, inputs, self._store, self._choices), self._store.contents, node.id)
        if self._store.begun(key.digest):
            reason = f"{reason}; {self._goes_on(key, witness)}"
        witness.save(self._seen(key))
        self._warm([node])
        result = self._work(node, job, inputs, reason, witness.check)
        if result.kind not in KINDS:
            raise SpecError(f"{node.task} returned a {result.kind}; known are {sorted(KINDS)}")
        made = HowMade(
            result.seconds, execution=self._choices.prepare(node).execution, totals=result.totals, curves=result.curves,
            notices=result.notices, hardware={"threads": self._workers.threads},
        )  # fmt: skip
        handle = KINDS[result.kind](result.path, result.digest)
        return self._store.publish(key, handle, parents=inputs, made=made, fresh=node.id in self._fresh)

    def _seen(self, key: Key) -> Path:
        """Where an attempt keeps what it saw of the files outside that it reads."""
        return self._store.partial(key.digest) / ".seen.json"

    def _goes_on(self, key: Key, witness: Witness) -> str:
        """Whether what an earlier attempt left can be gone on from: not where what it read was touched since."""
        if witness.same_as(self._seen(key)):
            return "goes on where it was left"
        aside = self._store.put_aside(self._store.partial(key.digest), f"partial-{key.digest}")
        return f"what an earlier attempt read was touched meanwhile, so its work is set aside in {aside}"

    def _work(self, node: Node, job: Job, inputs: Inputs, reason: str, check: Callable[[], None]) -> Result:
        def events(kind: str, *rest: Any) -> None:
            if kind == "started":
                check()
                self._listener.step_started(node, reason, job.log)
            elif kind == "progress":
                self._listener.step_progress(node, *rest)
            else:
                self._listener.step_notice(node, *rest)

        waiting = self._waiting(node, "the machine is busy with heavy work of another run")
        return self._workers.submit(
            job, events, exclusive=self._views.of_step(node, inputs).resources.exclusive,
            affinity=self._affinity(node, inputs), order=self._order[node.id], waiting=waiting, check=check,
        )  # fmt: skip

    def _affinity(self, node: Node, inputs: Inputs) -> str:
        """Equal for steps that an engine with the same weights and options serves; empty where there is no engine."""
        engines = [v for v in node.params.values() if isinstance(v, ChoiceValue) and v.folder == "engines"]
        if not engines:
            return ""
        models: list[JSON] = [r.content for several in inputs.values() for r in several if r.kind in MODELS]
        return digest_of(
            {
                "models": models,
                "engines": [plain_value(e) for e in engines],
                "how": self._choices.prepare(node).execution,
            }
        )

    def _job(self, node: Node, key: Key, inputs: Inputs) -> Job:
        opened = {
            port: tuple(Input(r.kind, self._store.root / r.path, r.content) for r in several)
            for port, several in inputs.items()
        }
        return Job(
            node.module, node.task, opened, node.lists, self._choices.prepare(node).arguments,
            self._store.partial(key.digest), self._logs / f"{_slug(node.id)}.log", node.work,
            {name: (group.module, group.name) for name, group in node.groups.items()},
        )  # fmt: skip

    def _waiting(self, node: Node, what: str) -> Waiting:
        return Waiting(self._stopped, lambda: self._listener.step_waiting(node, what))

    # What is going to run, as far as one can know

    def prepare(self) -> None:
        """Start the forkserver with the packages that the steps need which are not in the store, if there are any."""
        self._warm(self.missing())

    def missing(self) -> list[Node]:
        """Steps without a record, or behind one without: they may still turn out to be hits."""
        known: dict[str, Record] = {}
        missing: list[Node] = []
        for node in self._graph.nodes.values():
            record = None
            if node.id not in self._fresh and all(i in known for ids in node.inputs.values() for i in ids):
                record = self._recorded(node, {port: [known[i] for i in ids] for port, ids in node.inputs.items()})
            if record:
                known[node.id] = record
            else:
                missing.append(node)
        return missing

    def _recorded(self, node: Node, inputs: Inputs) -> Record | None:
        if node.task == CARRIED:
            return carried_record(self._store, node)
        return self._store.record(self.key(node, inputs).digest)

    def _warm(self, nodes: list[Node]) -> None:
        with self._started:
            if self._running or not nodes:
                return
            reached = {p for node in nodes for p in self._choices.prepare(node).reached.packages}
            self._workers.start(["pyarrow", *sorted(reached)])
            self._running = True


class Waiting:
    """Called while a lock is awaited: says so once, and gives up when the run is being stopped."""

    def __init__(self, stopped: threading.Event, announce: Callable[[], None]) -> None:
        self._stopped = stopped
        self._announce = announce
        self._announced = False

    def __call__(self, seconds: float, holder: str) -> None:
        if self._stopped.is_set():
            raise Stopped("the run is being stopped")
        if seconds > 1 and not self._announced:
            self._announced = True
            self._announce()


def outside_paths(node: Node, inputs: Inputs, store: Store, choices: Choices) -> dict[Path, str]:
    """What a step reads outside of the store, with content digests: models that are referred to, and what its choices
    and the oracles that it is handed name by their identities."""
    from tasks.kinds import Oracle

    records = [r for several in inputs.values() for r in several]
    found = {Path(r.location): r.content for r in records if r.location} | choices.prepare(node).outside
    for oracle in (store.open(r) for r in records if (store.root / r.path / "oracle.json").exists()):
        if isinstance(oracle, Oracle):
            c = oracle.choice
            found |= choices.identities.paths(ChoiceValue(c.folder, c.name, c.params), c.identity)
    return found


def _slug(id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", id)
