"""From a pipeline's text to its graph: the steps of every round, every reference followed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.python.codebase import CACHE, Codebase, tasks_in
from flows.python.importing import activate
from flows.wiring.builder import Builder, StepSpec, address_of
from flows.wiring.catalogue import Catalogue
from flows.wiring.check import Checked, fed_steps, split_reference
from flows.wiring.cron import cron_error
from flows.wiring.grammar import MOST_ROUNDS, DeploymentText, StepText
from flows.wiring.groups import flattened
from flows.wiring.live_steps import StepRead
from flows.wiring.model import Fed, Graph, Handle
from flows.wiring.params import Overrides, Values
from flows.wiring.prechecks import check_wiring
from flows.wiring.profiles import selected_profile, with_profile
from flows.wiring.signatures import Param
from flows.wiring.text import PipelineFile
from flows.wiring.tree import Yaml, entries, fail, quoted_value
from flows.wiring.types import checked_value, parse_type
from flows.wiring.world_values import WorldValues
from tasks.contract import SpecError

_COUNT = f"Annotated[int, Bounds(min=1, max={MOST_ROUNDS})]"
_TIMES = Param("times", parse_type(_COUNT), _COUNT, True, None, "number of rounds")


@dataclass(frozen=True)
class CarriedValue:
    """A result of an earlier tick: `digest` is its content."""

    kind: str
    digest: str


@dataclass(frozen=True)
class Tick:
    """One round of a continuing deployment, or, with `after`, the steps after the last one."""

    round: int
    values: Mapping[str, CarriedValue | None] = field(default_factory=dict)
    """Step → what prev.x and last.x mean; for a step that is missing, its `start`."""
    every: Mapping[str, tuple[CarriedValue, ...]] = field(default_factory=dict)
    after: bool = False


def compile_pipeline(
    file: Path,
    name: str,
    overrides: Overrides | None = None,
    *,
    deployment: str | None = None,
    tick: Tick | None = None,
    tasks_root: Path | None = None,
    cache: Path | None = None,
    lenient: bool = False,
) -> Graph:
    """Compile a pipeline for given parameters.

    Args:
        file: the pipelines file.
        name: the pipeline's name.
        overrides: parameter → value; a text is read as YAML, as on the command line.
        deployment: compile this deployment of it: one round at a time if it continues.
        tick: which round, for a continuing deployment; default: the first.
        tasks_root: the folder of tasks; default: the package's.
        cache: file of parses; default: the one among the artifacts.
        lenient: required parameters without a value are accepted as any value (`check`, `graph`).

    Raises SpecError with file, line and column.
    """
    source = PipelineFile(file)
    catalogue = catalogue_for(source, tasks_root, cache)
    graph = compile_from(source, catalogue, name, overrides or {}, deployment=deployment, tick=tick, lenient=lenient)
    catalogue.codebase.save()
    return graph


def compile_from(
    source: PipelineFile, catalogue: Catalogue, name: str, overrides: Overrides, *, deployment: str | None = None,
    tick: Tick | None = None, lenient: bool = False,
) -> Graph:  # fmt: skip
    """Compile a pipeline of a file and a catalogue that were read before, as `compile_pipeline` does."""
    activate(catalogue.codebase.packages.values())
    text = source.pipeline(name)
    if deployment is not None and deployment not in text.deployments:
        fail(text.node.place, f"{name} has no deployment '{deployment}'", deployment, text.deployments)
    deployed = text.deployments[deployment] if deployment else None
    if deployed and deployed.schedule and (error := cron_error(str(deployed.cron))):
        fail(deployed.schedule.where, f"{name}/{deployment}: cron = {quoted_value(deployed.schedule)}: {error}")
    checked = Checked(text, catalogue)
    if tick and not (deployed and deployed.continues):
        raise SpecError(f"{name} has ticks only in a deployment that continues")
    if deployed and deployed.continues:
        tick = tick or Tick(1)
    graph = _Compiler(checked, catalogue, overrides, deployed, tick, lenient).graph(str(source.path))
    check_wiring(graph, catalogue.declared)
    profile = selected_profile(source)
    return with_profile(graph, source, catalogue, profile) if profile else graph


def catalogue_for(source: PipelineFile, tasks_root: Path | None = None, cache: Path | None = None) -> Catalogue:
    """The catalogue of a file's pipelines. Raises SpecError where two folders that extend it have one name."""
    cache = cache or Path(os.environ.get("ALIGNFLOW_ARTIFACTS") or source.path.parent / "artifacts") / CACHE
    tasks, *own = source.packages
    packages = [tasks_in(tasks_root) if tasks_root else tasks, *own]
    activate(packages)
    return Catalogue(Codebase(packages, cache))


class _Compiler:
    def __init__(
        self, checked: Checked, catalogue: Catalogue, overrides: Overrides, deployment: DeploymentText | None,
        tick: Tick | None, lenient: bool,
    ) -> None:  # fmt: skip
        self._checked = checked
        self._text = checked.text
        self._catalogue = catalogue
        self._deployment = deployment
        self._tick = tick
        self._values = Values(checked.text, checked.read_parameters, catalogue, overrides, lenient)
        self._builder = Builder(catalogue, self._text.name, self._values)
        self._world_values = WorldValues(self._text, catalogue, self._values)
        self._steps = {**self._text.steps, **(deployment.steps if deployment else {})}
        self._done: dict[tuple[str, int | None], Handle | None] = {}
        self._carried: dict[CarriedValue, Handle] = {}
        self._last = self._times()

    def _times(self) -> int:
        """How many rounds the loop has."""
        if self._text.times is None:
            longest = max((len(self._values.per_round(name)) for name in self._text.each), default=0)
            if longest > MOST_ROUNDS:
                fail(self._text.node.place, f"{self._text.name}: `each` has {longest} rounds; at most {MOST_ROUNDS}")
            return longest
        node = self._values.substitute(self._text.times)
        self._values.used(node, _TIMES)
        times = checked_value(_TIMES.type, node, f"{self._text.name}.repeat.times")
        return times if isinstance(times, int) else 1

    def graph(self, file: str) -> Graph:
        for step, number in self._plan():
            self._result(step, number)
        self._world_values.check()
        sinks = {*self._checked.results.sinks}
        if self._tick and self._deployment:
            one, every = self._checked.head(self._deployment)
            sinks |= {*one, *every, *self._deployment.steps}
        graph = self._builder.finish(
            about=self._text.about, file=file, parameters=self._values.parameters(), rounds=self._last, sinks=sinks,
            notices=[*self._checked.unread(), *self._values.notices()],
        )  # fmt: skip
        if self._tick and not self._tick.after:
            self._check_gate(graph, self._tick)
        return graph

    def _check_gate(self, graph: Graph, tick: Tick) -> None:
        """Refuse a gate whose task declares no win rate among its metrics."""
        gate = self._deployment.gate if self._deployment else None
        if gate is None:
            return
        task = graph.nodes[graph.addresses[address_of(str(gate.value), tick.round)]].task
        several = self._catalogue.declared.all_of("metrics")
        gates = [name for name, metrics in several if any(m.role == "win_rate" for m in metrics.values())]
        if task not in gates:
            what = f"the gate '{gate.value}' is measured by {task}, which reports no win rate"
            fail(gate.where, f"{self._text.name}: {what}; tasks that do: {', '.join(gates) or 'none'}")

    def _plan(self) -> list[tuple[StepText, int | None]]:
        """The steps with their rounds, in the order of drawings: before the loop, round by round, after it."""
        live = [s for s in self._steps.values() if s.section == "tick" or s.name in self._checked.results.live]
        rounds = [self._tick.round] if self._tick else range(1, self._last + 1)
        after: list[tuple[StepText, int | None]] = [(s, None) for s in live if s.section == "after"]
        if self._tick and self._tick.after:
            return after
        before: list[tuple[StepText, int | None]] = [(s, None) for s in live if s.section == "steps"]
        loop = [(s, number) for number in rounds for s in live if s.section in ("repeat", "tick")]
        return [*before, *loop, *([] if self._tick else after)]

    def _result(self, step: StepText, round: int | None) -> Handle | None:
        """The step's result in a round; None where it is a plain reference to something empty."""
        key = (step.name, round)
        if key not in self._done:
            self._done[key] = self._aliased(step, round) if step.alias else self._built(step, round)
        return self._done[key]

    def _aliased(self, step: StepText, round: int | None) -> Handle | None:
        [result] = self._referenced(split_reference(step.node, step.name), round)
        if result is not None:
            self._builder.name(result, address_of(step.name, round))
        return result

    def _built(self, step: StepText, round: int | None) -> Handle:
        keys, signature = entries(step.node), self._checked.signature(step)
        ports = {port: self._fed(keys[port], round) for port in signature.ports if port in keys}
        taken = {*signature.params, *signature.groups}
        given = {k: self._values.substitute(v, round) for k, v in keys.items() if k in taken}
        params = flattened(signature.groups, given, f"{self._text.name}.{step.name}")
        spec = StepSpec(step.name, round, step.node.place, signature.name, keys["task"].where, ports, params)
        built = self._builder.build(spec)
        self._world_values.note(signature, params, step.name)
        return built

    def _fed(self, node: Yaml, round: int | None) -> Fed:
        results = [h for n in fed_steps(node) for h in self._referenced(split_reference(n, ""), round)]
        return results[0] if not isinstance(node.value, list) and len(results) == 1 else results

    def _referenced(self, read: StepRead, round: int | None) -> list[Handle | None]:
        """The results that a reference means in a round."""
        target = self._steps[read.name]
        if read.prefix is None:
            return [self._result(target, round if target.section in ("repeat", "tick") else None)]
        if self._tick:
            return self._from_head(read, self._tick)
        if read.prefix == "every":
            return [self._result(target, number) for number in range(1, self._last + 1)]
        number = self._last if read.prefix == "last" else (round or 1) - 1
        return [self._result(target, number) if number else self._start(read.name)]

    def _start(self, name: str) -> Handle | None:
        node = self._text.start.get(name)
        return None if node is None or node.value is None else self._result(self._steps[str(node.value)], None)

    def _from_head(self, read: StepRead, tick: Tick) -> list[Handle | None]:
        if read.prefix == "every":
            return [self._carry(f"every.{read.name}", c) for c in tick.every.get(read.name, ())]
        carried = tick.values.get(read.name)
        if carried is not None:
            return [self._carry(f"prev.{read.name}", carried)]
        return [None if read.name in tick.values else self._start(read.name)]

    def _carry(self, address: str, carried: CarriedValue) -> Handle:
        """Results of equal content are one node; of several of one step, later ones have a number."""
        if carried not in self._carried:
            number = sum(h is not None for h in self._carried.values())
            where = self._text.node.place
            unique = address if address.startswith("prev.") else f"{address}.{number + 1}"
            self._carried[carried] = self._builder.carry(unique, carried.kind, carried.digest, where)
        return self._carried[carried]
