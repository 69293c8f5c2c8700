"""The checks of a pipeline that need no values: every reference holds, and nothing is written that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from flows.python.closure import closure
from flows.wiring.catalogue import Catalogue
from flows.wiring.grammar import BUILT_IN, REFERENCE, TICKS, DeploymentText, PipelineText, StepText
from flows.wiring.groups import flattened
from flows.wiring.live_steps import LiveSteps, StepRead
from flows.wiring.params import references
from flows.wiring.signatures import Port, Signature
from flows.wiring.tree import Yaml, fail, mapping, quoted_value

_SEEN = {
    "steps": ("steps",), "repeat": ("steps", "repeat"), "after": ("steps", "after"),
    "tick": ("steps", "repeat", "tick"),
}  # fmt: skip
"""Section → the sections whose steps its steps may name without a prefix."""
_PREFIXES = {"steps": (), "repeat": ("prev",), "after": ("last", "every"), "tick": ("prev",)}


def split_reference(node: Yaml, what: str) -> StepRead:
    """`x`, `prev.x`, `last.x` or `every.x` as prefix and name. Raises SpecError."""
    parts = re.fullmatch(REFERENCE, node.value) if isinstance(node.value, str) else None
    if isinstance(node.value, str) and node.value.startswith("$"):
        fail(node.where, f"{what} = {node.value}; a port is fed by a step: other wiring is a variant (`extends`)")
    if parts is None:
        fail(node.where, f"{what} = {quoted_value(node)}; a port is fed by a step's name, prev.x, last.x or every.x")
    return StepRead(parts.group(1), parts.group(2), node.where)


class Checked:
    """A pipeline whose references all hold. Raises SpecError where one does not."""

    def __init__(self, text: PipelineText, catalogue: Catalogue) -> None:
        self.text = text
        self._catalogue = catalogue
        self._signatures: dict[StepText, Signature] = {}
        self.reads = {step.name: self._reads(step, text.steps) for step in text.steps.values()}
        self.tick_reads = {d.name: self._reads_of_ticks(d) for d in text.deployments.values()}
        self._check_circles(text.steps, self.reads)
        self._check_starts()
        wanted = frozenset(s.name for s in text.steps.values() if self._wanted(s))
        self.results = LiveSteps(text, self.reads, self.tick_reads, wanted)

    def signature(self, step: StepText) -> Signature:
        """The signature of the step's task."""
        return self._signatures[step]

    def unread(self) -> list[str]:
        """Refuse what is written here and nothing reads; notices on what is inherited and dropped.

        Called last, so that a typing error is reported before its consequences.
        """
        return [*self._unread_starts(), *self.results.notices(), *self._unread_parameters()]

    def head(self, deployment: DeploymentText) -> tuple[frozenset[str], frozenset[str]]:
        """The steps whose results ticks hand on: those that are read by prev. or last., and those by every."""
        steps = [*self.reads.values(), *self.tick_reads[deployment.name].values()]
        reads = [read for step in steps for read in step]
        one = frozenset(r.name for r in reads if r.prefix in ("prev", "last"))
        return one, frozenset(r.name for r in reads if r.prefix == "every")

    def _reads_of_ticks(self, deployment: DeploymentText) -> dict[str, list[StepRead]]:
        known = {**self.text.steps, **deployment.steps}
        reads = {step.name: self._reads(step, known) for step in deployment.steps.values()}
        self._check_circles(deployment.steps, reads)
        if deployment.continues:
            self._check_names(deployment)
        if gate := deployment.gate:
            step = known[str(gate.value)]
            what = f"{self.text.name}.{deployment.name}: the gate '{step.name}'"
            if step.alias or not self._catalogue.is_a(self.signature(step).returns, "Report"):
                fail(gate.where, f"{what} must be a Report")
            if step.section not in ("repeat", "tick"):
                fail(gate.where, f"{what} is not a step of a round")
        return reads

    def _check_names(self, deployment: DeploymentText) -> None:
        """Refuse a parameter that has the name of an option of ticks, because no tick could be given its value."""
        counts = {name for name, _ in references(self.text.times)} if self.text.times else set()
        declared = {**self.text.params, **self.text.each}
        for name in (n for n in TICKS if n in declared and n not in counts):
            what = f"{self.text.name} has a parameter '{name}', and to its deployment '{deployment.name}' that means"
            fail(declared[name].place, f"{what}: {TICKS[name]}. Name the parameter otherwise")

    def _reads(self, step: StepText, known: Mapping[str, StepText]) -> list[StepRead]:
        what = f"{self.text.name}.{step.name}"
        if step.alias:
            read = self._read(step.node, step, known, what)
            if read.prefix == "every":
                fail(read.where, f"{what} = {quoted_value(step.node)}; a plain reference names one value")
            return [read]
        keys = mapping(step.node, what)
        if "task" not in keys:
            fail(step.node.place, f"{what} has no task")
        task = keys["task"]
        signature = self._catalogue.signature(str(task.value), task.where, f"{what}.task")
        self._signatures[step] = signature
        allowed = ["task", *signature.ports, *signature.params, *signature.groups]
        for key, value in keys.items():
            if key not in allowed:
                fail(value.place, f"{what} ({signature.name}) has no port or parameter '{key}'", key, allowed)
        written = {k: v for k, v in keys.items() if k not in signature.groups or not isinstance(v.value, str)}
        flattened(signature.groups, written, what)
        for port in signature.ports.values():
            if port.name not in keys and not port.optional:
                fail(step.node.place, f"{what} ({signature.name}) needs its port '{port.name}' ({port})")
        return [
            self._one_or_list(port, keys[port.name], self._read(node, step, known, f"{what}.{port.name}"), what)
            for port in signature.ports.values()
            for node in fed_steps(keys.get(port.name))
        ]

    def _read(self, node: Yaml, step: StepText, known: Mapping[str, StepText], what: str) -> StepRead:
        """The step that a node names, which must be one that a step of this section may read."""
        read = split_reference(node, what)
        target = known.get(read.name)
        if target is None:
            fail(read.where, f"{what} = '{read.name}'; there is no such step", read.name, known.keys() - {step.name})
        if read.prefix is None and target.section not in _SEEN[step.section]:
            how = f": use last.{read.name} or every.{read.name}" if step.section == "after" else ""
            place = {"repeat": "inside `repeat`", "after": "in `after`", "tick": "in a deployment"}[target.section]
            fail(read.where, f"{what} = '{read.name}', which is a step {place} and cannot be used here{how}")
        if read.prefix and read.prefix not in _PREFIXES[step.section]:
            allowed = "in `after`" if read.prefix in ("last", "every") else "inside `repeat`"
            fail(read.where, f"{what}: {read.prefix}.{read.name} can be used only {allowed}")
        if read.prefix and target.section != "repeat":
            loop = [s.name for s in known.values() if s.section == "repeat"]
            fail(read.where, f"{what} = {read.prefix}.{read.name}; the loop has no such step", read.name, loop)
        if read.prefix == "prev" and read.name not in self.text.start:
            meaning = f"prev.{read.name} has no meaning in the first round: give it one in repeat.start (null: empty)"
            fail(read.where, f"{what}: {meaning}", read.name, self.text.start)
        return read

    def _one_or_list(self, port: Port, value: Yaml, read: StepRead, what: str) -> StepRead:
        if not port.is_list and (isinstance(value.value, list) or read.prefix == "every"):
            fail(value.where, f"{what}.{port.name} = {quoted_value(value)}; it takes one {port}, not a list")
        return read

    def _check_circles(self, steps: Mapping[str, StepText], reads: Mapping[str, list[StepRead]]) -> None:
        names = [*steps]
        try:
            TopologicalSorter({n: [r.name for r in reads[n] if r.prefix is None] for n in names}).prepare()
        except CycleError as e:
            circle = e.args[1][:0:-1]
            first = min(circle, key=names.index)
            start = circle.index(first)
            shown = " → ".join([*circle[start:], *circle[:start], first])
            fail(steps[first].node.place, f"{self.text.name}: a circle of steps: {shown}")

    def _check_starts(self) -> None:
        outer = {s.name: s for s in self.text.section("steps")}
        for name, node in self.text.start.items():
            if node.value is not None:
                read = split_reference(node, f"{self.text.name}.repeat.start.{name}")
                if read.prefix or read.name not in outer:
                    what = f"{self.text.name}.repeat.start.{name} = {quoted_value(node)}"
                    fail(node.where, f"{what}; it must be a step before the loop", read.name, outer)

    def _unread_starts(self) -> Iterator[str]:
        steps = [*self.reads.values(), *(reads for ticks in self.tick_reads.values() for reads in ticks.values())]
        read = {r.name for reads in steps for r in reads if r.prefix == "prev"}
        for name, node in self.text.start.items():
            if name not in read:
                yield from self._unread(
                    node, f"the start of '{name}', which nothing reads as prev.{name}", "start", name
                )

    def _wanted(self, step: StepText) -> bool:
        """Whether a step is a result by its kind: a report, or a model that is trained on a table."""
        if step.alias:
            return False
        is_a, signature = self._catalogue.is_a, self.signature(step)
        tables = any(is_a(k, "Table") for p in signature.ports.values() for k in p.kinds)
        return is_a(signature.returns, "Report") or (tables and is_a(signature.returns, "Model"))

    def _unread(self, node: Yaml, what: str, section: str, name: str) -> Iterator[str]:
        """Refuse an entry that is written here; a notice where it is inherited."""
        if f"{section}.{name}" in self.text.own:
            fail(node.place, f"{self.text.name} has {what}")
        yield f"{self.text.name} inherits {what}: dropped"

    @cached_property
    def read_parameters(self) -> frozenset[str]:
        """Parameters that live steps, `times`, and other parameters that are read, name."""
        nodes = [s.node for s in self.text.steps.values() if s.name in self.results.live]
        nodes += [s.node for d in self.text.deployments.values() for s in d.steps.values()]
        nodes += [self.text.times] if self.text.times else []
        declared = {**self.text.params, **self.text.each}
        read = self._with_their_values({name for node in nodes for name, _ in references(node)}, declared)
        built_in = {n for n in declared if n not in read and (n in BUILT_IN or n in self._catalogue.execution)}
        return frozenset(read | self._with_their_values(built_in, declared))

    def _with_their_values(self, names: set[str], declared: Mapping[str, Yaml]) -> set[str]:
        """The parameters and those that their values read."""

        def read(name: str) -> list[str]:
            return [n for n, _ in references(declared[name]) if n in declared]

        return {*closure(names & declared.keys(), read)}

    def _unread_parameters(self) -> Iterator[str]:
        for section, params in (("params", self.text.params), ("each", self.text.each)):
            for name, node in params.items():
                if name not in self.read_parameters:
                    yield from self._unread(node, f"the parameter '{name}', which nothing reads", section, name)


def fed_steps(node: Yaml | None) -> list[Yaml]:
    """The values of a port as a list, without nulls."""
    if node is None or node.value is None:
        return []
    return [n for n in node.value if n.value is not None] if isinstance(node.value, list) else [node]
