"""What can be said of a pipeline before any value is known: every reference, what is read and what nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from flows.wiring.grammar import BUILT_IN, REFERENCE, PipelineText, StepText
from flows.wiring.model import Where
from flows.wiring.params import references
from flows.wiring.signatures import Catalogue, Signature
from flows.wiring.tree import Yaml, mapping, refuse, shown

_SEEN = {"steps": ("steps",), "repeat": ("steps", "repeat"), "after": ("steps", "after"), "tick": ("steps", "repeat", "tick")}
"""Sections whose steps a step may name as they are."""
_PREFIXES = {"steps": (), "repeat": ("prev",), "after": ("last", "every"), "tick": ("prev",)}


@dataclass(frozen=True)
class Read:
    """A place where a step names another one."""

    prefix: str | None
    """`prev`, `last`, `every` or nothing."""
    name: str
    where: Where


def split_reference(node: Yaml, what: str) -> Read:
    """What `x`, `prev.x`, `last.x` or `every.x` names. Raises SpecError."""
    found = re.fullmatch(REFERENCE, node.value) if isinstance(node.value, str) else None
    if isinstance(node.value, str) and node.value.startswith("$"):
        refuse(node.where, f"{what} = {node.value}; a port is fed by a step: other wiring is a variant (`extends`)")
    if found is None:
        refuse(node.where, f"{what} = {shown(node)}; a port is fed by a step's name, prev.x, last.x or every.x")
    return Read(found.group(1), found.group(2), node.where)


class Checked:
    """A pipeline whose references all hold. Raises SpecError where one does not."""

    def __init__(self, text: PipelineText, catalogue: Catalogue) -> None:
        self.text = text
        self._catalogue = catalogue
        self.signatures: dict[str, Signature] = {}
        self.reads: dict[str, list[Read]] = {}
        for step in text.steps.values():
            self.reads[step.name] = self._reads(step, text.steps)
        self.tick_reads: dict[tuple[str, str], list[Read]] = {}
        for deployment in text.deployments.values():
            known = {**text.steps, **deployment.steps}
            for step in deployment.steps.values():
                self.tick_reads[deployment.name, step.name] = self._reads(step, known, deployment.name)
        self._check_circles(text.steps, self.reads)
        self._check_starts()
        self.notices = [*self._unread_starts(), *self._dead_steps(), *self._unread_parameters()]
        for deployment in text.deployments.values():
            reads = {name: self.tick_reads[deployment.name, name] for name in deployment.steps}
            self._check_circles(deployment.steps, {**self.reads, **reads})

    def signature(self, step: StepText, deployment: str = "") -> Signature:
        return self.signatures[f"{deployment}:{step.name}"]

    def _reads(self, step: StepText, known: Mapping[str, StepText], deployment: str = "") -> list[Read]:
        what = f"{self.text.name}.{step.name}"
        if step.alias:
            read = split_reference(step.node, what)
            if read.prefix == "every":
                refuse(read.where, f"{what} = {shown(step.node)}; a plain reference names one value")
            return [self._legal(read, step, known, what)]
        keys = mapping(step.node, what)
        if "task" not in keys:
            refuse(step.node.place, f"{what} has no task")
        task = keys["task"]
        signature = self._catalogue.signature(str(task.value), task.where, f"{what}.task")
        self.signatures[f"{deployment}:{step.name}"] = signature
        allowed = ["task", *signature.ports, *signature.params]
        for key, value in keys.items():
            if key not in allowed:
                refuse(value.place, f"{what} ({signature.name}) has no port or parameter '{key}'", key, allowed)
        for port in signature.ports.values():
            if port.name not in keys and not port.optional:
                refuse(step.node.place, f"{what} ({signature.name}) needs its port '{port.name}' ({port})")
        return [
            self._legal(split_reference(node, f"{what}.{port}"), step, known, f"{what}.{port}")
            for port in signature.ports
            for node in fed(keys.get(port))
        ]

    def _legal(self, read: Read, step: StepText, known: Mapping[str, StepText], what: str) -> Read:
        target = known.get(read.name)
        if target is None:
            refuse(read.where, f"{what} = '{read.name}'; there is no such step", read.name, known)
        if read.prefix is None and target.section not in _SEEN[step.section]:
            how = f": say last.{read.name} or every.{read.name}" if step.section == "after" else ""
            place = {"repeat": "inside `repeat`", "after": "in `after`", "tick": "in a deployment"}[target.section]
            refuse(read.where, f"{what} = '{read.name}', which is a step {place} and cannot be used here{how}")
        if read.prefix and read.prefix not in _PREFIXES[step.section]:
            allowed = "in `after`" if read.prefix in ("last", "every") else "inside `repeat`"
            refuse(read.where, f"{what}: {read.prefix}.{read.name} can be used only {allowed}")
        if read.prefix and target.section != "repeat":
            loop = [s.name for s in known.values() if s.section == "repeat"]
            refuse(read.where, f"{what}: {read.prefix}.{read.name}: the loop has no step '{read.name}'", read.name, loop)
        if read.prefix == "prev" and read.name not in self.text.start:
            refuse(
                read.where, f"{what}: prev.{read.name} has no meaning in the first round: say it in repeat.start "
                "(null: nothing yet)", read.name, self.text.start,
            )  # fmt: skip
        return read

    def _check_circles(self, steps: Mapping[str, StepText], reads: Mapping[str, list[Read]]) -> None:
        done: set[str] = set()

        def visit(name: str, path: tuple[str, ...], where: Where) -> None:
            if name in path:
                circle = [*path[path.index(name) :], name]
                refuse(where, f"{self.text.name}: a circle of steps: {' → '.join(circle)}")
            if name not in done:
                for read in reads.get(name, []):
                    if read.prefix is None:
                        visit(read.name, (*path, name), read.where)
                done.add(name)

        for name, step in steps.items():
            visit(name, (), step.node.place)

    def _check_starts(self) -> None:
        outer = {s.name: s for s in self.text.section("steps")}
        for name, node in self.text.start.items():
            if node.value is not None:
                read = split_reference(node, f"{self.text.name}.repeat.start.{name}")
                if read.prefix or read.name not in outer:
                    what = f"{self.text.name}.repeat.start.{name} = {shown(node)}"
                    refuse(node.where, f"{what}; it must be a step before the loop", read.name, outer)

    @cached_property
    def _all_reads(self) -> list[tuple[str, Read]]:
        """Who reads what, over the pipeline and its deployments."""
        both = [*self.reads.items(), *((step, reads) for (_, step), reads in self.tick_reads.items())]
        return [(name, read) for name, reads in both for read in reads]

    def _unread_starts(self) -> Iterator[str]:
        read = {r.name for _, r in self._all_reads if r.prefix == "prev"}
        for name, node in self.text.start.items():
            if name not in read:
                yield from self._unread(f"start.{name}", node, f"the start of '{name}', which nothing reads as prev.{name}")

    def sinks(self, steps: Iterable[StepText], deployment: str = "") -> list[str]:
        """Steps that are wanted for themselves: reports and what trains a model."""
        return [s.name for s in steps if not s.alias and self._wanted(self.signature(s, deployment))]

    def _wanted(self, signature: Signature) -> bool:
        tables = any(self._catalogue.is_a(k, "Table") for p in signature.ports.values() for k in p.kinds)
        is_a = self._catalogue.is_a
        return is_a(signature.returns, "Report") or (tables and is_a(signature.returns, "Model"))

    @cached_property
    def live(self) -> frozenset[str]:
        """Steps from which a Report or a trained model is reached, in the pipeline or in one of its deployments."""
        todo = self.sinks(self.text.steps.values())
        for d in self.text.deployments.values():
            todo += [read.name for s in d.steps for read in self.tick_reads[d.name, s]]
            todo += [str(d.gate.value)] if d.gate else []
        found: set[str] = set()
        while todo:
            name = todo.pop()
            if name in self.reads and name not in found:
                found.add(name)
                todo += [r.name for r in self.reads[name]]
                if any(r.prefix == "prev" and r.name == n for n in self.text.start for r in self.reads[name]):
                    todo += [str(self.text.start[r.name].value) for r in self.reads[name] if r.prefix == "prev"]
        return frozenset(found | self._starts_of_deployments())

    def _starts_of_deployments(self) -> set[str]:
        reads = [r for reads in self.tick_reads.values() for r in reads if r.prefix == "prev"]
        return {str(self.text.start[r.name].value) for r in reads}

    def _dead_steps(self) -> Iterator[str]:
        for step in self.text.steps.values():
            if step.name not in self.live:
                text = "from which no Report and no trained model is reached"
                yield from self._unread(f"step '{step.name}'", step.node, f"the step '{step.name}', {text}", step.own)

    def _unread(self, name: str, node: Yaml, what: str, own: bool | None = None) -> Iterator[str]:
        """Refuse what is written here and serves nothing; drop, with a notice, what is inherited."""
        if name in self.text.own if own is None else own:
            refuse(node.place, f"{self.text.name} has {what}")
        yield f"{self.text.name} inherits {what}: dropped"

    @cached_property
    def read_parameters(self) -> frozenset[str]:
        """Parameters that live steps, `times`, and other parameters that are read, name."""
        nodes = [s.node for s in self.text.steps.values() if s.name in self.live]
        nodes += [s.node for d in self.text.deployments.values() for s in d.steps.values()]
        nodes += [self.text.times] if self.text.times else []
        declared = {**self.text.params, **self.text.each}
        todo = [name for node in nodes for name, _ in references(node)] + [n for n in declared if self._built_in(n)]
        found: set[str] = set()
        while todo:
            name = todo.pop()
            if name in declared and name not in found:
                found.add(name)
                todo += [n for n, _ in references(declared[name])]
        return frozenset(found)

    def _built_in(self, name: str) -> bool:
        return name in BUILT_IN or name in self._catalogue.execution

    def _unread_parameters(self) -> Iterator[str]:
        for section, params in (("params", self.text.params), ("each", self.text.each)):
            for name, node in params.items():
                if name not in self.read_parameters:
                    yield from self._unread(f"{section}.{name}", node, f"the parameter '{name}', which nothing reads")


def fed(node: Yaml | None) -> list[Yaml]:
    """What a port is given, as a list; null is nothing."""
    if node is None or node.value is None:
        return []
    return [n for n in node.value if n.value is not None] if isinstance(node.value, list) else [node]
