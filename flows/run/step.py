"""One step of a run: its key, the lookup, the lock, the devices, the child, the record. Independent of Prefect."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.python.declared import Declarations
from flows.run.events import Listener
from flows.run.executors.base import Executor, Needs, Stopped
from flows.run.executors.job import Input, Job, Result
from flows.store.identities import choices_of
from flows.store.keys import Choices, Key, digest_of, plain_value
from flows.store.lineage import refuse_seen
from flows.store.records import HowMade, Record
from flows.store.references import Reference, all_of
from flows.store.retained import CARRIED, carried_record
from flows.store.store import ANSWERS, Lookup, Store
from flows.store.views import RecordViews
from flows.store.witness import Witness
from flows.system.locks import WaitingCallback
from flows.wiring.machine import this_machine
from flows.wiring.model import ChoiceValue, Graph, Node
from flows.wiring.views import MODELS
from tasks.contract import JSON, SpecError

Inputs = Mapping[str, Sequence[Record]]
"""Port → records in list order."""


@dataclass(frozen=True)
class StepOutcome:
    """The result of a step, and whether it was in the store."""

    record: Record
    hit: bool
    reason: str
    """Why it was a hit, or why it had to run."""


class Steps:
    """The steps of one graph, over one snapshot of the code. Called from many threads."""

    def __init__(
        self, graph: Graph, store: Store, choices: Choices, workers: Executor, listener: Listener,
        *, logs: Path, fresh: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`fresh`: ids of steps that run whatever the store holds."""
        self._graph, self._store, self._choices, self._workers = graph, store, choices, workers
        self._listener, self._logs, self._fresh = listener, logs, fresh
        self._views = RecordViews(store, Declarations(choices.code.codebase))
        self._order = {id: i for i, id in enumerate(graph.nodes)}
        self._execution: dict[str, Mapping[str, JSON]] = {}
        """By the content of what a step of this graph made: the execution parameters of its choices."""
        self._started = threading.Lock()
        self._running = False

    def key(self, node: Node, inputs: Inputs) -> Key:
        """The key of a step whose inputs are known."""
        contents = {port: [r.content for r in several] for port, several in inputs.items()}
        return self._choices.prepare(node).key(contents)

    def run(self, node: Node, inputs: Inputs) -> StepOutcome:
        """Take the step's result from the store, or make it.

        Raises SpecError, DataError, Waiting, StepFailed, Stopped.
        """
        outcome = self._found_or_made(node, inputs)
        if execution := _execution_of_choices(node):
            self._execution[outcome.record.content] = execution
        return outcome

    def _found_or_made(self, node: Node, inputs: Inputs) -> StepOutcome:
        self._refuse_stopped()
        if node.task == CARRIED:
            return StepOutcome(carried_record(self._store, node), True, "carried over from an earlier tick")
        evaluation = self._views.of_step(node, inputs).evaluation
        if evaluation and (notice := refuse_seen(self._store, evaluation)):
            self._listener.step_notice(node, notice)
        key = self.key(node, inputs)
        stored = self._lookup(node, key)
        if stored.record:
            return self._hit(node, stored.record, stored.reason)
        waiting = self._waiting(node, "another run makes the same")
        with self._store.lock(key.digest, self._logs.name, waiting=waiting):
            made_meanwhile = self._lookup(node, key)
            if made_meanwhile.record:
                return self._hit(node, made_meanwhile.record, f"{made_meanwhile.reason}, meanwhile")
            if node.id in self._fresh:
                shutil.rmtree(self._store.partial(key.digest), ignore_errors=True)
            return StepOutcome(self._make(node, key, inputs, stored.reason), False, stored.reason)

    def _refuse_stopped(self) -> None:
        if self._workers.stopped.is_set():
            raise Stopped("the run is being stopped")

    def _lookup(self, node: Node, key: Key) -> Lookup:
        return Lookup(None, "requested by --fresh") if node.id in self._fresh else self._store.lookup(key.digest)

    def _hit(self, node: Node, record: Record, reason: str) -> StepOutcome:
        for notice in record.notices:
            self._listener.step_notice(node, notice)
        return StepOutcome(record, True, reason)

    def _make(self, node: Node, key: Key, inputs: Inputs, reason: str) -> Record:
        from tasks.kinds import KINDS

        job = self._job(node, key, inputs)
        witness = Witness(outside_paths(node, inputs, self._store, self._choices), self._store.contents, node.id)
        seen = self._store.partial(key.digest) / ".seen.json"
        if self._store.begun(key.digest):
            reason = f"{reason}; {self._continue(key, witness.same_as(seen))}"
        witness.save(seen)
        self._warm([node])
        result = self._work(node, job, inputs, reason, witness.check)
        if result.kind not in KINDS:
            raise SpecError(f"{node.task} returned a {result.kind}; known are {sorted(KINDS)}")
        made = HowMade(
            result.seconds, execution={**self._choices.prepare(node).execution, **_execution_of_inputs(job)},
            totals=result.totals, curves=result.curves, notices=result.notices, hardware=self._placement(node),
        )  # fmt: skip
        handle = KINDS[result.kind](result.path, result.digest)
        return self._store.publish(key, handle, parents=inputs, made=made, fresh=node.id in self._fresh)

    def _continue(self, key: Key, inputs_unchanged: bool) -> str:
        """Keep the work of an earlier attempt unless the files that it read have changed since. Returns which."""
        if inputs_unchanged:
            return "continues an earlier attempt"
        aside = self._store.put_aside(self._store.partial(key.digest), f"partial-{key.digest}")
        return f"files that an earlier attempt read were touched since, so its work is not used{aside}"

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
        return self._workers.submit(job, events, self._needs(node, inputs), waiting=waiting, check=check)

    def _needs(self, node: Node, inputs: Inputs) -> Needs:
        """What a step needs of the machine, as its task declares it and the run's profile has it."""
        view, profile = self._views.of_step(node, inputs), self._graph.profile
        resources, ranks = view.resources, self._graph.ranks_of(node)
        machine = replace(this_machine(), ranks=ranks, sharding=profile.sharding)
        return Needs(
            resources.exclusive, resources.gpus, ranks, profile.sharding, profile.timeout_minutes * 60,
            view.memory(machine) if resources.exclusive else None, self._affinity(node, inputs), self._order[node.id],
        )  # fmt: skip

    def _placement(self, node: Node) -> dict[str, JSON]:
        """With how many threads, and ranks, a step was computed: last bits may depend on it."""
        ranks = self._graph.ranks_of(node)
        threads = max(1, self._workers.threads // ranks)
        return {"threads": threads, "ranks": ranks} if ranks > 1 else {"threads": threads}

    def _affinity(self, node: Node, inputs: Inputs) -> str:
        """Equal for steps that an engine with the same weights and options serves; empty where there is no engine.

        Adapters count by their base, whose weights an engine keeps while adapters come and go.
        """
        engines = [v for v in node.params.values() if isinstance(v, ChoiceValue) and v.folder == "engines"]
        if not engines:
            return ""
        records = [r for several in inputs.values() for r in several if r.kind in MODELS]
        models: list[JSON] = [content for r in records for content in r.refers_to or (r.content,)]
        options = self._choices.prepare(node).execution
        return digest_of({"models": models, "engines": [plain_value(e) for e in engines], "options": options})

    def _job(self, node: Node, key: Key, inputs: Inputs) -> Job:
        opened = {port: self._opened(node, port, several) for port, several in inputs.items()}
        return Job(
            node.module, node.task, opened, node.lists, self._choices.prepare(node).arguments,
            self._store.partial(key.digest), self._logs / _log_name(node), node.work,
            {name: (group.module, group.name) for name, group in node.groups.items()}, self._store.root / ANSWERS,
        )  # fmt: skip

    def _opened(self, node: Node, port: str, records: Sequence[Record]) -> tuple[Input, ...]:
        """The inputs of a port, each with the execution parameters of the step of this graph that made it."""
        inputs = []
        for id, record in zip(node.inputs[port], records, strict=True):
            members = self._store.references.of(record)
            whole = Reference(record.kind, record.content, self._store.root / record.path, members=members)
            one, made_by = self._whole_input(whole), self._graph.nodes.get(id)
            inputs.append(replace(one, execution=_execution_of_choices(made_by)) if made_by else one)
        return tuple(inputs)

    def _whole_input(self, one: Reference) -> Input:
        """An input with the digest of its code, and the execution parameters of what this graph's steps made."""
        members = {role: tuple(self._whole_input(m) for m in several) for role, several in one.members.items()}
        opened_by, execution = self._choices.opener_digest(one.kind), self._execution.get(one.content, {})
        return Input(one.kind, one.path, one.content, members, opened_by, execution)

    def _waiting(self, node: Node, what: str) -> WaitingCallback:
        """Called while a lock is awaited: says so once, and gives up when the run is being stopped."""
        announced = threading.Event()

        def waiting(seconds: float, holder: str) -> None:
            self._refuse_stopped()
            if seconds > 1 and not announced.is_set():
                announced.set()
                self._listener.step_waiting(node, f"{what} ({holder})" if holder else what)

        return waiting

    def prepare(self) -> None:
        """Start the forkserver with the packages of the steps that are not in the store, if there are any.

        Steps behind a missing one count as missing, although they may turn out to be hits.
        """
        known: dict[str, Record] = {}
        for node in self._graph.nodes.values():
            if all(i in known for ids in node.inputs.values() for i in ids):
                inputs = {port: [known[i] for i in ids] for port, ids in node.inputs.items()}
                if record := self._recorded(node, inputs):
                    known[node.id] = record
        self._warm([node for id, node in self._graph.nodes.items() if id not in known])

    def _recorded(self, node: Node, inputs: Inputs) -> Record | None:
        if node.id in self._fresh:
            return None
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


def outside_paths(node: Node, inputs: Inputs, store: Store, choices: Choices) -> dict[Path, str]:
    """What a step reads outside of the store, with content digests: models that are referred to, also by adapters and
    scorers, and the files that the identities of its choices, and of the oracles among its inputs, name."""
    from tasks.kinds import Oracle

    records = [r for several in inputs.values() for r in several]
    referred_to = [one for r in records for one in all_of(store.references.of(r))]
    paths = {Path(r.location): r.content for r in records if r.location} | choices.prepare(node).outside
    paths |= {one.location: one.content for one in referred_to if one.location}
    opened = [store.root / r.path for r in records] + [one.path for one in referred_to]
    for path in (path for path in opened if (path / "oracle.json").exists()):
        c = Oracle(path).choice
        paths |= choices.identities.paths(ChoiceValue(c.folder, c.name, c.params), c.identity)
    return paths


def _execution_of_inputs(job: Job) -> dict[str, JSON]:
    """Execution parameters of the choices that a step's inputs specify, by port."""
    several = ((port, one.execution) for port, inputs in job.inputs.items() for one in inputs)
    return {f"{port}.{name}": value for port, execution in several for name, value in execution.items()}


def _execution_of_choices(node: Node) -> dict[str, JSON]:
    """Execution parameters of a step's choices: a specification that the step wrote does not have them."""
    return {name: value for _, choice in choices_of(node.params) for name, value in choice.execution.items()}


def _log_name(node: Node) -> str:
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", node.id) + ".log"
