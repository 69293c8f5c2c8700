"""Steps become nodes: signatures are applied, composites are executed, equal steps become one.

This is also how a graph is built in Python: `Builder.add` is what composites are given.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flows.wiring.model import ChoiceValue, Node, Value, Where
from flows.wiring.params import Values
from flows.wiring.rules import check_losses, check_node
from flows.wiring.signatures import Catalogue, Param, Port, Signature
from flows.wiring.tree import Yaml, entries, from_json, refuse, shown
from flows.wiring.types import value_of
from tasks.contract import JSON, ChoiceSpec, SpecError

NVIDIA = "/dev/nvidia0"


@dataclass(frozen=True, eq=False)
class Handle:
    """What stands for a step's result while the graph is built (`tasks.contract.Step`)."""

    index: int
    kind: str
    catalogue: Catalogue

    def is_a(self, kind: str) -> bool:
        return self.catalogue.is_a(self.kind, kind)


Fed = Handle | None | Sequence["Handle | None"]
"""What feeds a port; None is nothing."""


@dataclass(frozen=True)
class Picked:
    """A choice with its values."""

    signature: Signature
    params: Mapping[str, JSON]
    execution: Mapping[str, JSON]

    @property
    def value(self) -> ChoiceValue:
        return ChoiceValue(self.signature.folder, self.signature.name, self.params, self.execution)

    @property
    def spec(self) -> ChoiceSpec:
        s = self.signature
        return ChoiceSpec(s.folder, s.name, {**self.params, **self.execution}, s.arguments, s.returns)


@dataclass(frozen=True)
class Step:
    """A step to be built. `inner`: inside a composite, where `seed` comes only from the composite."""

    name: str
    round: int | None
    where: Where
    task: str
    task_where: Where
    ports: Mapping[str, Fed]
    params: Mapping[str, Yaml]
    inner: bool = False

    @property
    def address(self) -> str:
        return f"{self.name}@{self.round}" if self.round else self.name


class Builder:
    """Collects the nodes of one graph."""

    def __init__(self, catalogue: Catalogue, values: Values, pipeline: str) -> None:
        self.catalogue = catalogue
        self.notices: list[str] = []
        self.nodes: list[Node] = []
        self.addresses: dict[str, int] = {}
        self._values = values
        self._pipeline = pipeline
        self._equal: dict[str, int] = {}

    def build(self, step: Step) -> Handle:
        """Add a step, or all steps of a composite one; gives its result. Raises SpecError."""
        what = f"{self._pipeline}.{step.name}"
        signature = self.catalogue.signature(step.task, step.task_where, f"{what}.task")
        ports = self._ports(step, signature, what)
        picked: dict[str, Picked] = {}
        params: dict[str, JSON] = {}
        for param in signature.params.values():
            self._value(step, param, f"{what}.{param.name}", params, picked)
        losses = {name: p.signature for name, p in picked.items()}
        ports = check_losses(self.catalogue, step.where, what, signature, ports, losses, self.notices)
        if signature.composite:
            return self._compose(step, signature, ports, params, picked)
        return self._task(step, signature, ports, params, picked)

    def name(self, handle: Handle, address: str, first: bool = False) -> None:
        """Give a node one more address, as its first one if it is a composite's own result."""
        self.addresses[address] = handle.index
        node = self.nodes[handle.index]
        if address not in node.addresses:
            addresses = (address, *node.addresses) if first else (*node.addresses, address)
            self.nodes[handle.index] = replace(node, addresses=addresses, id=addresses[0])

    def _ports(self, step: Step, signature: Signature, what: str) -> dict[str, list[Handle]]:
        found = {}
        for port in signature.ports.values():
            fed = step.ports.get(port.name)
            handles = [h for h in (fed if isinstance(fed, Sequence) else [fed]) if h is not None]
            if not port.is_list and isinstance(fed, Sequence):
                refuse(step.where, f"{what}.{port.name} takes one {port}, not a list")
            if not handles and not port.optional:
                nothing = " (what feeds it is nothing yet in this round)" if port.name in step.ports else ""
                refuse(step.where, f"{what} ({signature.name}) needs its port '{port.name}' ({port}){nothing}")
            for handle in handles:
                if not any(handle.is_a(kind) for kind in port.kinds):
                    source = self.nodes[handle.index].addresses[0]
                    refuse(step.where, f"{what}.{port.name} takes {port}, and {source} is {handle.kind}")
            if handles:
                found[port.name] = handles
        return found

    def _value(
        self, step: Step, param: Param, what: str, params: dict[str, JSON], picked: dict[str, Picked]
    ) -> None:
        node = step.params.get(param.name)
        if node is None and (param.name == "engine" or param.type.execution or (param.name == "seed" and not step.inner)):
            node = self._values.feed(param.name)
        if node is None and param.required:
            refuse(step.where, f"{what} has no default: give it a value ({param.type})")
        if node is None:
            node = from_json(param.default, step.where)
        self._values.used(node, param)
        try:
            if param.type.choice and not (node.value is None and param.type.optional):
                picked[param.name] = self.pick(param, node, what)
            else:
                params[param.name] = value_of(param.type, node, what)
        except SpecError as e:
            if node.where == step.where or str(step.where) in str(e):
                raise
            raise SpecError(f"{e} · step at {step.where}") from None

    def pick(self, param: Param, node: Yaml, what: str) -> Picked:
        """The choice that a value names. Raises SpecError."""
        choice = param.type.choice
        assert choice is not None
        name, given = self._named(param, node, what)
        if choice.folder == "engines" and name == "auto":
            name = "vllm" if os.path.exists(NVIDIA) and importlib.util.find_spec("vllm") else "transformers"
        signature = self.catalogue.choice(choice.folder, name, node.where, what)
        if not isinstance(given, dict):
            texts = [p.name for p in signature.params.values() if p.type.base == "str" and p.required]
            if len(texts) != 1:
                refuse(node.where, f"{what}: '{name}' must have exactly one required text to take {shown(node)}")
            given = {texts[0]: given}
        params: dict[str, JSON] = {}
        execution: dict[str, JSON] = {}
        for key, value in given.items():
            if key not in signature.params:
                refuse(value.place, f"{what}.{name} has no parameter '{key}'", key, signature.params)
        for p in signature.params.values():
            value = given.get(p.name) or (self._values.feed(p.name) if p.type.execution else None)
            if value is None and p.required:
                refuse(node.where, f"{what}.{name}.{p.name} has no default: give it a value ({p.type})")
            value = value or from_json(p.default, node.where)
            self._values.used(value, p)
            (execution if p.type.execution else params)[p.name] = value_of(p.type, value, f"{what}.{name}.{p.name}")
        return Picked(signature, params, execution)

    def _named(self, param: Param, node: Yaml, what: str) -> tuple[str, Yaml | dict[str, Yaml]]:
        """The choice's name and its parameters, or the one text for the `other` choice."""
        choice = param.type.choice
        assert choice is not None
        if node.missing:
            known = list(self.catalogue.choices(choice.folder))
            return (choice.other, node) if choice.other else (known[0], {})
        if isinstance(node.value, str):
            if node.value.isidentifier():
                return node.value, {}
            if choice.other:
                return choice.other, node
        if isinstance(node.value, dict) and len(node.value) == 1:
            [(name, inner)] = node.value.items()
            if inner.value is None or isinstance(inner.value, dict):
                return name, dict(entries(inner))
        known = list(self.catalogue.choices(choice.folder))
        form = "a name or {name: {parameter: value}}"
        refuse(node.where, f"{what} = {shown(node)}; a choice is {form}", str(node.value), known)

    def _task(
        self, step: Step, signature: Signature, ports: Mapping[str, list[Handle]], params: Mapping[str, JSON],
        picked: Mapping[str, Picked],
    ) -> Handle:  # fmt: skip
        what = f"{self._pipeline}.{step.name}"
        execution = {k: v for k, v in params.items() if signature.params[k].type.execution}
        keyed: dict[str, Value] = {
            name: picked[name].value if name in picked else params[name]
            for name in signature.params if name not in execution
        }  # fmt: skip
        inputs = {name: tuple(h.index for h in handles) for name, handles in ports.items()}
        equal = json.dumps([signature.name, _canonical(keyed), sorted(inputs.items())], sort_keys=True)
        index = self._equal.get(equal)
        if index is None:
            kind = self._kind(signature, ports, picked, step.where, what)
            index = self._equal[equal] = len(self.nodes)
            lists = frozenset(p.name for p in signature.ports.values() if p.is_list)
            ids = {name: tuple(map(str, indices)) for name, indices in inputs.items()}
            self.nodes.append(Node(
                step.address, (), signature.name, signature.module, kind, keyed, execution, ids, lists, signature.work,
                step.round, step.where,
            ))  # fmt: skip
            check_node(self.catalogue, self.nodes, signature, self.nodes[index], what)
        handle = Handle(index, self.nodes[index].kind, self.catalogue)
        self.name(handle, step.address)
        return handle

    def _kind(
        self, signature: Signature, ports: Mapping[str, list[Handle]], picked: Mapping[str, Picked], where: Where,
        what: str,
    ) -> str:  # fmt: skip
        """The result's kind: of what a type variable stands for, or of what the chosen function says that it returns."""
        variable = [h.kind for p in signature.ports.values() if p.variable == signature.returns for h in ports.get(p.name, [])]
        if len(set(variable)) > 1:
            refuse(where, f"{what} ({signature.name}) takes tables of one kind, not {', '.join(dict.fromkeys(variable))}")
        if variable:
            return variable[0]
        for choice in picked.values():
            if self.catalogue.is_a(choice.signature.returns, signature.returns):
                return choice.signature.returns
        return signature.returns

    def _compose(
        self, step: Step, signature: Signature, ports: Mapping[str, list[Handle]], params: Mapping[str, JSON],
        picked: Mapping[str, Picked],
    ) -> Handle:  # fmt: skip
        def add(task: str, name: str | None = None, **inputs: Any) -> Handle:
            inner = f"{step.name}/{name or task}"
            address = f"{inner}@{step.round}" if step.round else inner
            if address in self.addresses:
                refuse(step.where, f"{self._pipeline}.{step.name}: {signature.name} adds two steps '{name or task}'")
            return self.add(inner, task, inputs, step.round, step.where)

        handles = {p.name: _argument(p, ports.get(p.name, [])) for p in signature.ports.values()}
        given = {**params, **{name: p.spec for name, p in picked.items()}}
        try:
            result = self._composites[signature.name](add, **handles, **given)
        except SpecError as e:
            if str(step.where) in str(e):
                raise
            raise SpecError(f"{step.where}: {self._pipeline}.{step.name}: {e}") from None
        if not isinstance(result, Handle):
            raise TypeError(f"the composite {signature.name} must return a step, not {result!r}")
        inside = self.nodes[result.index].addresses[0].startswith(f"{step.name}/")
        self.name(result, step.address, first=inside)
        return result

    def add(
        self, name: str, task: str, inputs: Mapping[str, Any], round: int | None = None,
        where: Where = Where("python"), inner: bool = True,
    ) -> Handle:  # fmt: skip
        """Add a step from Python: handles for ports, plain values, mappings or ChoiceSpecs for parameters."""
        signature = self.catalogue.signature(task, where, f"{self._pipeline}.{name}.task")
        unknown = [k for k in inputs if k not in signature.ports and k not in signature.params]
        if unknown:
            allowed = [*signature.ports, *signature.params]
            refuse(where, f"{self._pipeline}.{name} ({task}) has no '{unknown[0]}'", unknown[0], allowed)
        ports = {k: v for k, v in inputs.items() if k in signature.ports}
        params = {k: from_json(_json(v), where) for k, v in inputs.items() if k in signature.params}
        return self.build(Step(name, round, where, task, where, ports, params, inner))

    def carry(self, address: str, kind: str, digest: str, where: Where) -> Handle:
        """Add a value that an earlier run left: a node of the task `carried`, which nothing executes."""
        node = Node(address, (), "carried", "", kind, {"digest": digest}, {}, {}, frozenset(), False, None, where)
        self.nodes.append(node)
        handle = Handle(len(self.nodes) - 1, kind, self.catalogue)
        self.name(handle, address)
        return handle

    @cached_property
    def _composites(self) -> Mapping[str, Callable[..., object]]:
        """The composites themselves: their file is light, and executing it sees an edit in a process that lives long."""
        file = self.catalogue.root / "composites.py"
        namespace: dict[str, Any] = {"__name__": "tasks.composites", "__file__": str(file)}
        exec(compile(file.read_bytes(), str(file), "exec"), namespace)
        return namespace


def _argument(port: Port, handles: list[Handle]) -> object:
    return handles if port.is_list else (handles[0] if handles else None)


def _json(value: Any) -> JSON:
    return {value.name: dict(value.params)} if isinstance(value, ChoiceSpec) else value


def _canonical(params: Mapping[str, Value]) -> dict[str, JSON]:
    return {
        k: {"choice": [v.folder, v.name, dict(v.params)]} if isinstance(v, ChoiceValue) else v for k, v in params.items()
    }
