"""The next tick of a continuing deployment: its number, its graph over the head, and the values that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flows.reporting.results import Estimate, metric_of, read_report
from flows.rounds.gate import Evidence, evidence_of, win_rates_by_prompt
from flows.rounds.history import Head, History, Measured
from flows.rounds.ledger import Ledger
from flows.rounds.tick_request import tick_request
from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.retained import CARRIED, carried_record, retain_values
from flows.store.store import Store
from flows.store.views import RecordViews
from flows.wiring.builder import address_of
from flows.wiring.check import Checked
from flows.wiring.grammar import DeploymentText, PipelineText
from flows.wiring.graph import CarriedValue, Tick, catalogue_for, compile_from, compile_pipeline
from flows.wiring.model import Graph, Parameter
from flows.wiring.params import references
from flows.wiring.text import PipelineFile
from flows.wiring.tree import fail
from tasks.contract import JSON, DataError, SpecError


@dataclass(frozen=True)
class Next:
    """The tick that comes next."""

    number: int
    graph: Graph
    overrides: Mapping[str, JSON]
    parameters: Mapping[str, JSON]
    """Values of all parameters that its keys hold."""
    resumed: bool
    """Whether its number was begun before."""


def continues(file: Path, pipeline: str, deployment: str) -> bool:
    """Whether a deployment goes on where its last tick stopped. Raises SpecError for an unknown name."""
    return _deployed(PipelineFile(file).pipeline(pipeline), deployment).continues


def compile_named(file: Path, name: str, values: Mapping[str, JSON], store: Store, *, lenient: bool = False) -> Graph:
    """The graph of PIPELINE or PIPELINE/DEPLOYMENT; of a deployment that continues, the graph of its next tick.

    Raises SpecError, and DataError where what the next tick starts from is gone.
    """
    pipeline, _, deployment = name.partition("/")
    if not deployment or not continues(file, pipeline, deployment):
        return compile_pipeline(
            file, pipeline, values, deployment=deployment or None, cache=store.python_cache, lenient=lenient
        )
    loop = Continuing(file, pipeline, deployment, store, lenient=lenient)
    history = loop.ledger.history()
    tick = loop.next_tick(tick_request(values).parameters, history)
    start = f"what round {history.head.round} left" if history.head.round else "the start"
    notices = [f"{name}: the next tick {'finishes' if tick.resumed else 'is'} round {tick.number}, from {start}"]
    if not tick.resumed and history.is_stalled(tick.parameters):
        notices.append(f"{name} is stalled: with these parameters it works only with --force")
    return replace(tick.graph, notices=(*tick.graph.notices, *notices))


def _deployed(text: PipelineText, deployment: str) -> DeploymentText:
    if deployment not in text.deployments:
        fail(text.node.place, f"{text.name} has no deployment '{deployment}'", deployment, text.deployments)
    return text.deployments[deployment]


class Continuing:
    """A continuing deployment, as the file defines it now, over a store. Raises SpecError where it does not compile."""

    def __init__(
        self, file: Path, pipeline: str, deployment: str, store: Store, *, tasks_root: Path | None = None,
        lenient: bool = False,
    ) -> None:  # fmt: skip
        """`lenient`: required parameters may be without a value."""
        self._lenient = lenient
        self.store, self.pipeline, self.deployment = store, pipeline, deployment
        self.ledger = Ledger(store, pipeline, deployment)
        self._source = PipelineFile(file)
        self._catalogue = catalogue_for(self._source, tasks_root, store.python_cache)
        store.declared = self._catalogue.declared
        self._text = self._source.pipeline(pipeline)
        self._deployed = _deployed(self._text, deployment)
        if not self._deployed.continues:
            fail(self._deployed.node.place, f"{self.name} does not continue: it runs the whole pipeline every time")
        self._one, self._every = Checked(self._text, self._catalogue).head(self._deployed)
        times = self._text.times
        self._counts = {name for name, _ in references(times)} if times else set()

    @property
    def name(self) -> str:
        return f"{self.pipeline}/{self.deployment}"

    def form(self) -> Graph:
        """The graph of the first tick, for its description and its parameters; required ones may be without a value."""
        return self._compiled({}, Tick(1), lenient=True)

    def check(self, overrides: Mapping[str, JSON], history: History) -> None:
        """Raise SpecError for parameters with which no new round can be made, even if an unfinished one comes first."""
        for name in self._counts & overrides.keys():
            raise SpecError(f"command line: {self.name} makes one round per tick, whatever '{name}' is: use rounds=…")
        self._compiled(overrides, Tick(history.last + 1, history.head.values))

    def next_tick(self, overrides: Mapping[str, JSON], history: History) -> Next:
        """The tick that comes next: the unfinished round with its own parameters, or a new one with these.

        Raises SpecError where it does not compile or the head does not fit, DataError where a carried value is gone.
        """
        if history.open is None:
            return self._next(history.last + 1, overrides, overrides, history.head, resumed=False)
        begun = history.open.begun
        try:
            values = {**begun.overrides, **{n: _literal(v) for n, v in begun.parameters.items()}}
            return self._next(begun.number, begun.overrides, values, history.head, resumed=True)
        except SpecError as e:
            raise SpecError(
                f"round {begun.number} of {self.name} is unfinished and cannot be made as it began: {e}\n"
                f"Mend that, or give the round up: {self.roll_back(history)}"
            ) from None

    def roll_back(self, history: History) -> str:
        """The command that gives up the round that is unfinished."""
        return f"alignflow rounds {self.name} --back-to {history.head.round}"

    def after(self, overrides: Mapping[str, JSON], history: History) -> Graph | None:
        """The graph of the steps `after` the loop; None if there are none, or they have run for this head.

        Raises SpecError where it does not compile, DataError where a carried value is gone.
        """
        head = history.head
        if not self._text.section("after") or head.round in (0, history.after):
            return None
        graph = self._compiled(overrides, Tick(history.last, head.values, head.every, after=True))
        self._check_values(graph)
        return graph if graph.nodes else None

    # What a finished tick left

    def left(self, tick: Next, records: Mapping[str, Record]) -> tuple[dict[str, CarriedValue | None], ...]:
        """The values that it leaves to the next tick, and those that it appends to the lists."""

        def value(name: str) -> CarriedValue | None:
            record = self._record(tick, records, name)
            return CarriedValue(record.kind, record.content) if record else None

        return {n: value(n) for n in sorted(self._one)}, {n: value(n) for n in sorted(self._every)}

    def keep(self, tick: Next, records: Mapping[str, Record]) -> None:
        """Retain the records of what it left: the plain pipeline has the same keys, and may replace their results."""
        values = [self._record(tick, records, name) for name in sorted(self._one | self._every)]
        retain_values(self.store, [r for r in values if r], records.values())

    def _record(self, tick: Next, records: Mapping[str, Record], name: str) -> Record | None:
        id = tick.graph.addresses.get(address_of(name, tick.number))
        return records[id] if id else None

    def gate(self, tick: Next, records: Mapping[str, Record]) -> tuple[Measured, Evidence, str] | None:
        """The gate's win rate, its test, and the content of the model that it measured (empty where its report declares
        none); None for a deployment that accepts every round.

        Raises DataError for a report that has no win rate, or none by prompt.
        """
        from tasks.kinds import Report

        if self._deployed.gate is None:
            return None
        step = str(self._deployed.gate.value)
        record = records[tick.graph.addresses[address_of(step, tick.number)]]
        metrics = read_report(self.store, record)
        name = metric_of(metrics, "win_rate")
        try:
            if not name:
                raise DataError(f"reports no win rate; it has {', '.join(metrics)}")
            rates = win_rates_by_prompt(Report(self.store.root / record.path).per_prompt, name)
        except DataError as e:
            what = f"the gate '{step}' of {self.name} {e}"
            raise DataError(f"{what}. The round is unfinished until the file names another gate") from None
        evaluation = RecordViews(self.store).of(record).evaluation
        candidate = origin(evaluation.model).content if evaluation and evaluation.model else ""
        return _measured(metrics[name]), evidence_of(rates, self._deployed.alpha, tick.number), candidate

    def headline(self, tick: Next, records: Mapping[str, Record]) -> dict[str, Measured]:
        """The numbers of the step `report`."""
        reports = [read_report(self.store, records[id]) for id in tick.graph.headline]
        return {name: _measured(e) for metrics in reports for name, e in metrics.items() if e.metric.column}

    # Compiling

    def _next(
        self, number: int, overrides: Mapping[str, JSON], values: Mapping[str, JSON], head: Head, *, resumed: bool
    ) -> Next:  # fmt: skip
        if head.round:
            self._check_head(head, self._compiled(values, Tick(number)), number)
        graph = self._compiled(values, Tick(number, head.values))
        self._check_values(graph)
        keyed = {n: p.value for n, p in graph.parameters.items() if _keyed(p)}
        return Next(number, graph, overrides, json.loads(json.dumps(keyed)), resumed)

    def _compiled(self, values: Mapping[str, JSON], tick: Tick, lenient: bool = False) -> Graph:
        graph = compile_from(
            self._source, self._catalogue, self.pipeline, values, deployment=self.deployment, tick=tick,
            lenient=lenient or self._lenient,
        )  # fmt: skip
        read = {n: p for n, p in graph.parameters.items() if n not in self._counts}
        return replace(graph, parameters=read, rounds=tick.round)

    def _check_head(self, head: Head, now: Graph, number: int) -> None:
        """Raise SpecError for a head that lacks a value that the file names now, or holds one of another kind."""
        has = f"the head of {self.name} (round {head.round})"
        how = f"go back to the start (alignflow rounds {self.name} --back-to 0), or name the deployment otherwise"
        for prefix, wanted, held in (("prev", self._one, head.values), ("every", self._every, head.every)):
            for name in sorted(wanted - held.keys()):
                raise SpecError(f"{has} holds no '{name}', which {prefix}.{name} names now: {how}")
        for name in sorted(self._one | self._every):
            id = now.addresses.get(address_of(name, number))
            for old in [head.values.get(name), *head.every.get(name, ())[-1:]]:
                if id and old and not self._fits(now.nodes[id].kind, old.kind):
                    kind = now.nodes[id].kind
                    raise SpecError(f"{has} holds '{name}' as {old.kind}, and the file makes it {kind} now: {how}")

    def _fits(self, new: str, old: str) -> bool:
        return self._catalogue.is_a(new, old) or self._catalogue.is_a(old, new)

    def _check_values(self, graph: Graph) -> None:
        """Raise DataError for a graph over a value that is gone."""
        try:
            for node in graph.nodes.values():
                if node.task == CARRIED:
                    carried_record(self.store, node)
        except DataError as e:
            raise DataError(f"{e}; alignflow rounds {self.name} lists the rounds to which you can go back") from None


def _keyed(p: Parameter) -> bool:
    return p.type is not None and not p.type.execution


def _literal(value: JSON) -> JSON:
    """A value as an override: a text must be quoted, for overrides are read as YAML."""
    if not isinstance(value, str):
        return value
    return json.dumps(f"${value}" if value.startswith("$") else value)


def _measured(e: Estimate) -> Measured:
    return Measured(_number(e.value), _number(e.low), _number(e.high), e.n)


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value
