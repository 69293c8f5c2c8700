"""From a pipeline's text to its graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.wiring.builder import Builder, Fed, Handle, Step
from flows.wiring.check import Checked, Read, fed, split_reference
from flows.wiring.grammar import DeploymentText, StepText, load_file
from flows.wiring.model import Graph, Node
from flows.wiring.params import Overrides, Values
from flows.wiring.signatures import Catalogue, Param
from flows.wiring.toy_lr import ToyRates
from flows.wiring.tree import entries, refuse
from flows.wiring.types import Type, value_of
from tasks.contract import Bounds, SpecError

_ROUNDS = Param("rounds", Type("int", bounds=Bounds(min=1)), "Annotated[int, Bounds(min=1)]", True, None, "number of rounds")


@dataclass(frozen=True)
class Carried:
    """A value that an earlier tick left: `digest` is its content."""

    kind: str
    digest: str


@dataclass(frozen=True)
class Tick:
    """One round of a continuing deployment, or, with `after`, what runs once behind the last one."""

    round: int
    values: Mapping[str, Carried | None] = field(default_factory=dict)
    """What prev.x and last.x mean; a step that is missing here means its `start`."""
    every: Mapping[str, tuple[Carried, ...]] = field(default_factory=dict)
    after: bool = False


def compile_pipeline(
    file: Path,
    name: str,
    overrides: Overrides | None = None,
    *,
    deployment: str | None = None,
    tick: Tick | None = None,
    tasks_root: Path | None = None,
    kept: Path | None = None,
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
        kept: folder in which readings of source are kept; default: `.cache/signatures` of the artifacts.
        lenient: required parameters without a value are accepted as any value (`check`, `graph`).

    Raises SpecError with file, line and column.
    """
    text = load_file(file).pipeline(name)
    catalogue = Catalogue(tasks_root, kept or cache_folder(file))
    if deployment is not None and deployment not in text.deployments:
        refuse(text.node.place, f"{name} has no deployment '{deployment}'", deployment, text.deployments)
    checked = Checked(text, catalogue)
    deployed = text.deployments[deployment] if deployment else None
    if deployed and deployed.continues:
        tick = tick or Tick(1)
    elif tick:
        raise SpecError(f"{name}/{deployment} does not continue, so it has no ticks")
    return _Compiler(checked, catalogue, overrides or {}, deployed, tick, lenient).graph(file)


def cache_folder(file: Path) -> Path:
    """Where readings of source are kept unless said."""
    return Path(os.environ.get("ALIGNFLOW_ARTIFACTS") or file.parent / "artifacts") / ".cache" / "signatures"


class _Compiler:
    def __init__(
        self, checked: Checked, catalogue: Catalogue, overrides: Overrides, deployment: DeploymentText | None,
        tick: Tick | None, lenient: bool,
    ) -> None:  # fmt: skip
        self._checked = checked
        self._text = checked.text
        self._deployment = deployment
        self._tick = tick
        self._values = Values(checked.text, checked.read_parameters, catalogue, overrides, lenient)
        self._builder = Builder(catalogue, self._values, self._text.name)
        self._rates = ToyRates(self._text.name, catalogue, self._values)
        self._done: dict[tuple[str, int | None], Handle | None] = {}
        self._carried: dict[tuple[str, str], Handle] = {}
        self._steps = {**self._text.steps, **(deployment.steps if deployment else {})}
        self.rounds = self._times()

    def _times(self) -> int:
        """How many rounds the loop has."""
        if self._text.times is not None:
            node = self._values.substitute(self._text.times)
            self._values.used(node, _ROUNDS)
            value = value_of(_ROUNDS.type, node, f"{self._text.name}.repeat.times")
            return value if isinstance(value, int) else 1
        return max((len(self._values.per_round(name)) for name in self._text.each), default=0)

    def graph(self, file: Path) -> Graph:
        rounds = [self._tick.round] if self._tick else list(range(1, self.rounds + 1))
        rounds = [] if self._tick and self._tick.after else rounds
        sinks = set(self._checked.sinks(self._text.steps.values())) | self._wanted_by_ticks()
        for step in self._live():
            if step.section in ("repeat", "tick"):
                for number in rounds:
                    self._result(step, number)
            elif step.section == "steps" or not self._tick or self._tick.after:
                self._result(step, None)
        self._rates.check()
        return self._finished(file, sinks)

    def _live(self) -> list[StepText]:
        order = ("steps", "repeat", "tick", "after")
        steps = [s for s in self._steps.values() if s.section == "tick" or s.name in self._checked.live]
        return sorted(steps, key=lambda s: order.index(s.section))

    def _wanted_by_ticks(self) -> set[str]:
        """In a tick, what later ones are given is wanted for itself, and so is the gate."""
        if not (self._tick and self._deployment):
            return set()
        reads = [r for reads in self._checked.reads.values() for r in reads]
        reads += [r for s in self._deployment.steps for r in self._checked.tick_reads[self._deployment.name, s]]
        return {r.name for r in reads if r.prefix} | set(self._deployment.steps)

    def _result(self, step: StepText, round: int | None) -> Handle | None:
        """The step's result in a round; None where it is a plain reference to nothing yet."""
        key = (step.name, round)
        if key not in self._done:
            self._done[key] = self._aliased(step, round) if step.alias else self._built(step, round)
        return self._done[key]

    def _aliased(self, step: StepText, round: int | None) -> Handle | None:
        [found] = self._found(split_reference(step.node, step.name), step, round)
        if found is not None:
            self._builder.name(found, f"{step.name}@{round}" if round else step.name)
        return found

    def _built(self, step: StepText, round: int | None) -> Handle:
        keys = entries(step.node)
        signature = self._checked.signature(step, self._deployment.name if step.section == "tick" and self._deployment else "")
        what = f"{self._text.name}.{step.name}"
        ports: dict[str, Fed] = {}
        for port in signature.ports:
            if port in keys:
                found = [h for n in fed(keys[port]) for h in self._found(split_reference(n, what), step, round)]
                single = not isinstance(keys[port].value, list) and len(found) == 1
                ports[port] = found[0] if single else found
        params = {k: self._values.substitute(v, round) for k, v in keys.items() if k in signature.params}
        built = self._builder.build(
            Step(step.name, round, step.node.place, signature.name, keys["task"].where, ports, params)
        )
        self._rates.note(signature, params, keys, what, round)
        return built

    def _found(self, read: Read, step: StepText, round: int | None) -> list[Handle | None]:
        """What a reference stands for in a round."""
        target = self._steps[read.name]
        if read.prefix is None:
            return [self._result(target, round if target.section in ("repeat", "tick") else None)]
        if self._tick:
            return self._from_head(read, self._tick)
        if read.prefix == "every":
            return [self._result(target, number) for number in range(1, self.rounds + 1)]
        number = self.rounds if read.prefix == "last" else (round or 1) - 1
        return [self._result(target, number) if number else self._start(read.name)]

    def _start(self, name: str) -> Handle | None:
        node = self._text.start[name]
        return None if node.value is None else self._result(self._steps[str(node.value)], None)

    def _from_head(self, read: Read, tick: Tick) -> list[Handle | None]:
        if read.prefix == "every":
            return [self._carry(f"{read.name}.{i + 1}", c) for i, c in enumerate(tick.every.get(read.name, ()))]
        if read.name in tick.values:
            carried = tick.values[read.name]
            return [None if carried is None else self._carry(f"prev.{read.name}", carried)]
        return [self._start(read.name) if read.name in self._text.start else None]

    def _carry(self, address: str, carried: Carried) -> Handle:
        key = (carried.kind, carried.digest)
        if key not in self._carried:
            self._carried[key] = self._builder.carry(address, carried.kind, carried.digest, self._text.node.place)
        return self._carried[key]

    def _finished(self, file: Path, sinks: set[str]) -> Graph:
        """Only what is wanted, or feeds what is wanted, stays; indices become addresses."""
        nodes, addresses = self._builder.nodes, self._builder.addresses
        kept: set[int] = set()
        todo = [i for i, n in enumerate(nodes) if n.kind == "Report"]
        todo += [i for a, i in addresses.items() if a.split("@")[0] in sinks]
        while todo:
            i = todo.pop()
            if i not in kept:
                kept.add(i)
                todo += [int(j) for indices in nodes[i].inputs.values() for j in indices]
        final = {nodes[i].id: self._renamed(nodes[i]) for i in range(len(nodes)) if i in kept}
        headline = [nodes[i].id for a, i in addresses.items() if i in kept and a.split("@")[0] == "report"]
        return Graph(
            self._text.name, self._text.about, str(file), final,
            {a: nodes[i].id for a, i in addresses.items() if i in kept}, self._values.parameters(),
            self.rounds, tuple(dict.fromkeys(headline)), (*self._checked.notices, *self._builder.notices),
        )  # fmt: skip

    def _renamed(self, node: Node) -> Node:
        ids = {port: tuple(self._builder.nodes[int(i)].id for i in indices) for port, indices in node.inputs.items()}
        return replace(node, inputs=ids)
