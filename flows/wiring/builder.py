"""Steps become nodes: signatures are applied, composites are executed, equal steps become one.

A graph is built in Python with the same class: `Builder(Catalogue(), "mine")`, `add`, `finish`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from traceback import extract_tb
from types import ModuleType
from typing import Any

from flows.python.closure import closure
from flows.python.loading import fresh_module
from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import PYTHON, Feeds, Picked, pick
from flows.wiring.grammar import BUILT_IN
from flows.wiring.groups import flattened
from flows.wiring.model import ChoiceValue, Fed, Graph, Handle, Node, Parameter, Value
from flows.wiring.open_numbers import restore_values, stand_in
from flows.wiring.rules import check_losses, check_node, upstream_of
from flows.wiring.signatures import Param, Signature
from flows.wiring.tree import Yaml, fail, yaml_from_json
from flows.wiring.types import checked_value
from flows.wiring.views import View
from flows.wiring.where import Where
from tasks.contract import JSON, ChoiceSpec, SpecError


@dataclass(frozen=True)
class StepSpec:
    """A step to be built. `inner`: inside a composite, which alone gives it a `seed`."""

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
        return address_of(self.name, self.round)


def address_of(name: str, round: int | None) -> str:
    """`policy@2`, or the name alone outside the loop."""
    return f"{name}@{round}" if round else name


class Builder:
    """Collects the nodes of one graph. Until `finish`, inputs are indices of nodes."""

    def __init__(self, catalogue: Catalogue, pipeline: str, feeds: Feeds | None = None) -> None:
        self.catalogue = catalogue
        self.notices: list[str] = []
        self._nodes: list[Node] = []
        self._above: list[int] = []
        self._views: list[View] = []
        self._addresses: dict[str, int] = {}
        self._feeds = feeds or Feeds()
        self._pipeline = pipeline
        self._equal: dict[str, int] = {}

    def add(
        self, name: str, task: str, inputs: Mapping[str, Any], *, round: int | None = None, where: Where = PYTHON,
        inner: bool = False,
    ) -> Handle:  # fmt: skip
        """Add a step: handles for ports, plain values, mappings or ChoiceSpecs for parameters. Raises SpecError."""
        signature = self.catalogue.signature(task, where, f"{self._pipeline}.{name}.task")
        allowed = [*signature.ports, *signature.params, *signature.groups]
        for key in inputs:
            if key not in allowed:
                fail(where, f"{self._pipeline}.{name} ({task}) has no port or parameter '{key}'", key, allowed)
        ports = {k: v for k, v in inputs.items() if k in signature.ports}
        given = {k: yaml_from_json(_json(v), where) for k, v in inputs.items() if k not in signature.ports}
        params = flattened(signature.groups, given, f"{self._pipeline}.{name}")
        return self.build(StepSpec(name, round, where, task, where, ports, params, inner))

    def build(self, step: StepSpec) -> Handle:
        """Add a step, or all steps of a composite one; gives its result. Raises SpecError."""
        what = f"{self._pipeline}.{step.name}"
        signature = self.catalogue.signature(step.task, step.task_where, f"{what}.task")
        ports = self._ports(step, signature, what)
        picked: dict[str, Picked] = {}
        params: dict[str, JSON] = {}
        for param in signature.params.values():
            node = self._given(step, param, f"{what}.{param.name}")
            self._feeds.used(node, param)
            choice = None if node.value is None and param.type.optional else param.type.choice
            try:
                if choice:
                    picked[param.name] = pick(self.catalogue, self._feeds, choice, node, f"{what}.{param.name}")
                else:
                    params[param.name] = checked_value(param.type, node, f"{what}.{param.name}")
            except SpecError as e:
                raise _with_step(e, step.where) from None
        ports = check_losses(self.catalogue, step.where, what, signature, ports, picked, self.notices)
        make = self._compose if signature.composite else self._task
        return make(step, signature, ports, params, picked)

    def name(self, handle: Handle, address: str, first: bool = False) -> None:
        """Give a node one more address, as its first one if it is a composite's own result."""
        self._addresses[address] = handle.index
        node = self._nodes[handle.index]
        if address not in node.addresses:
            addresses = (address, *node.addresses) if first else (*node.addresses, address)
            self._nodes[handle.index] = replace(node, addresses=addresses, id=addresses[0])

    def carry(self, address: str, kind: str, digest: str, where: Where) -> Handle:
        """Add a value of an earlier run: a node of the task `carried`, which nothing executes."""
        node = Node(address, (), "carried", "", kind, {"digest": digest}, {}, {}, frozenset(), False, None, where)
        return self._append(node)

    def finish(
        self, *, about: str = "", file: str = "", parameters: Mapping[str, Parameter] | None = None, rounds: int = 0,
        sinks: Iterable[str] = (), notices: Iterable[str] = (),
    ) -> Graph:  # fmt: skip
        """The graph of all reports, of the steps named in `sinks`, and of everything that feeds them."""
        nodes, names = self._nodes, set(sinks)
        kept = {i for i, n in enumerate(nodes) if n.kind == "Report"}
        kept |= {i for a, i in self._addresses.items() if a.split("@")[0] in names}
        kept = {*closure(kept, lambda i: (int(i) for ids in nodes[i].inputs.values() for i in ids))}
        final = {}
        for node in (n for i, n in enumerate(nodes) if i in kept):
            inputs = {port: tuple(nodes[int(i)].id for i in indices) for port, indices in node.inputs.items()}
            final[node.id] = replace(node, inputs=inputs)
        addresses = {a: nodes[i].id for a, i in self._addresses.items() if i in kept}
        headline = tuple(dict.fromkeys(node for a, node in addresses.items() if a.split("@")[0] == "report"))
        return Graph(
            self._pipeline, about, file, final, addresses, parameters or {}, rounds, headline,
            (*notices, *self.notices), tuple(self.catalogue.codebase.packages.values()),
        )  # fmt: skip

    def _ports(self, step: StepSpec, signature: Signature, what: str) -> dict[str, list[Handle]]:
        feeding = {}
        for port in signature.ports.values():
            fed = step.ports.get(port.name)
            handles = [h for h in (fed if isinstance(fed, Sequence) else [fed]) if h is not None]
            if not port.is_list and isinstance(fed, Sequence):
                fail(step.where, f"{what}.{port.name} takes one {port}, not a list")
            if not handles and not port.optional:
                nothing = " (what feeds it is empty in this round)" if port.name in step.ports else ""
                fail(step.where, f"{what} ({signature.name}) needs its port '{port.name}' ({port}){nothing}")
            for handle in handles:
                if not any(handle.is_a(kind) for kind in port.kinds):
                    source = self._nodes[handle.index].id
                    fail(step.where, f"{what}.{port.name} takes {port}, and {source} is {handle.kind}")
            if handles:
                feeding[port.name] = handles
        return feeding

    def _given(self, step: StepSpec, param: Param, what: str) -> Yaml:
        """The step's own value, or a built-in parameter, or the default."""
        node = step.params.get(param.name)
        open_here = param.name in BUILT_IN and not step.inner  # composites give their steps values of their own
        if node is None and (open_here or param.name == "engine" or param.type.execution):
            node = self._feeds.feed(param.name)
        if node is None and param.required:
            fail(step.where, f"{what} has no default: give it a value ({param.type})")
        listed = (param.name,) if open_here and param.name != "engine" else ()
        return yaml_from_json(param.default, step.where, listed) if node is None else node

    def _task(
        self, step: StepSpec, signature: Signature, ports: Mapping[str, list[Handle]], params: Mapping[str, JSON],
        picked: Mapping[str, Picked],
    ) -> Handle:  # fmt: skip
        execution = {k: v for k, v in params.items() if signature.params[k].type.execution}
        keyed: dict[str, Value] = {
            name: picked[name].value if name in picked else params[name]
            for name in signature.params if name not in execution
        }  # fmt: skip
        inputs = {name: tuple(str(h.index) for h in handles) for name, handles in ports.items()}
        plain = {n: replace(v, execution={}) if isinstance(v, ChoiceValue) else v for n, v in keyed.items()}
        equal = repr((signature.name, plain, inputs))
        if equal in self._equal:
            handle = self._handle(self._equal[equal])
        else:
            what = f"{self._pipeline}.{step.name}"
            node = Node(
                step.address, (), signature.name, signature.module, self._kind(step, signature, ports, picked, what),
                keyed, execution, inputs, frozenset(p.name for p in signature.ports.values() if p.is_list),
                signature.work, step.round, step.where, self._opens(signature, ports),
                frozenset(h.kind for handles in ports.values() for h in handles), signature.groups,
            )  # fmt: skip
            check_node(self.catalogue, self._nodes, self._above, signature, node, self._view(node), what)
            handle = self._append(node)
            self._equal[equal] = handle.index
        self.name(handle, step.address)
        return handle

    def _opens(self, signature: Signature, ports: Mapping[str, list[Handle]]) -> frozenset[str]:
        """Kinds of the models and composed scorers that feed ports for oracles."""
        judging = [n for n in ports if any(self.catalogue.is_a(k, "Oracle") for k in signature.ports[n].kinds)]
        handles = [h for n in judging for h in ports[n]]
        return frozenset(h.kind for h in handles if h.is_a("Model") or h.is_a("ComposedScorer"))

    def _view(self, node: Node) -> View:
        inputs = {port: [self._views[int(i)] for i in indices] for port, indices in node.inputs.items()}
        return View(self.catalogue.declared, node.task, node.kind, node.params, lambda: inputs, origin=len(self._views))

    def _append(self, node: Node) -> Handle:
        self._views.append(self._view(node))
        self._nodes.append(node)
        excluded = self.catalogue.declared.of_task(node.task, "excludes") or ()
        self._above.append(upstream_of(node, self._above, excluded))
        handle = self._handle(len(self._nodes) - 1)
        self.name(handle, node.id)
        return handle

    def _handle(self, index: int) -> Handle:
        kind = self._nodes[index].kind
        return Handle(index, self.catalogue.kinds.get(kind, (kind,)))

    def _kind(
        self, step: StepSpec, signature: Signature, ports: Mapping[str, list[Handle]], picked: Mapping[str, Picked],
        what: str,
    ) -> str:  # fmt: skip
        """The result's kind: that of the type variable, or what the chosen function returns by its annotation."""
        named = [p.name for p in signature.ports.values() if p.variable == signature.returns]
        kinds = list(dict.fromkeys(h.kind for name in named for h in ports.get(name, [])))
        if len(kinds) > 1:
            fail(step.where, f"{what} ({signature.name}) takes inputs of one kind, not {' and '.join(kinds)}")
        chosen = [p.signature.returns for p in picked.values()]
        return [*kinds, *(k for k in chosen if self.catalogue.is_a(k, signature.returns)), signature.returns][0]

    def _compose(
        self, step: StepSpec, signature: Signature, ports: Mapping[str, list[Handle]], params: Mapping[str, JSON],
        picked: Mapping[str, Picked],
    ) -> Handle:  # fmt: skip
        def add(task: str, name: str | None = None, **inputs: Any) -> Handle:
            inner = f"{step.name}/{name or task}"
            if address_of(inner, step.round) in self._addresses:
                fail(step.where, f"{self._pipeline}.{step.name}: {signature.name} adds two steps '{name or task}'")
            return self.add(inner, task, inputs, round=step.round, where=step.where, inner=True)

        fed = {name: ports.get(name, []) for name in signature.ports}
        handles = {n: fed[n] if port.is_list else next(iter(fed[n]), None) for n, port in signature.ports.items()}
        values: dict[str, Any] = {n: stand_in(signature.params[n], v) for n, v in params.items()}
        values |= {name: p.spec for name, p in picked.items()}
        try:
            module = fresh_module(self.catalogue.codebase, signature.module)
            result = getattr(module, signature.name)(add, **handles, **_grouped(module, signature, values))
        except SpecError as e:
            raise _with_step(e, step.where) from None
        except Exception as e:
            at = extract_tb(e.__traceback__)[-1]
            fail(step.where, f"{signature.name} failed at {at.filename}:{at.lineno}: {type(e).__name__}: {e}")
        if not isinstance(result, Handle):
            fail(step.where, f"{signature.name} returned {result!r}; a composite must return a step")
        inside = self._nodes[result.index].id.startswith(f"{step.name}/")
        self.name(result, step.address, first=inside)
        return result


def _with_step(error: SpecError, where: Where) -> SpecError:
    """The error, with the step's place behind the value's."""
    return error if str(where) in str(error) else SpecError(f"{error} · step at {where}")


def _grouped(module: ModuleType, signature: Signature, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a composite: the fields of a group become an object of the dataclass in its file."""
    for name, group in signature.groups.items():
        own = {f: values.pop(f) for f in group.fields}
        own = {f: tuple(v) if isinstance(v, list) else v for f, v in own.items()}
        values[name] = getattr(module, group.name)(**own)
    return values


def _json(value: Any) -> JSON:
    """A value that a composite gives a step, as a wiring would write it."""
    if isinstance(value, ChoiceSpec):
        return {value.name: dict(value.params)}
    if is_dataclass(value):
        return {f.name: _json(getattr(value, f.name)) for f in fields(value)}
    return restore_values(value)
