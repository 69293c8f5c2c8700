"""From `{dpo: {beta: 0.1}}` to a choice with all its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.wiring.catalogue import Catalogue
from flows.wiring.contracts import check_contract
from flows.wiring.machine import best_engine
from flows.wiring.model import ChoiceValue
from flows.wiring.signatures import Param, Signature
from flows.wiring.tree import Missing, Yaml, entries, fail, quoted_value, yaml_from_json
from flows.wiring.types import checked_value
from flows.wiring.where import Where
from tasks.contract import JSON, Choice, ChoiceSpec, WorldSpec

PYTHON = Where("python")


class Feeds:
    """The values of parameters that a step leaves open: for a graph built in Python, 0 for `seed`, else defaults."""

    def feed(self, name: str) -> Yaml | None:
        """The value for a parameter; None for its default."""
        return yaml_from_json(0, PYTHON) if name == "seed" else None

    def used(self, node: Yaml, param: Param) -> None:
        """Note that the value feeds this task parameter."""


@dataclass(frozen=True)
class Picked:
    """A choice with its values."""

    signature: Signature
    params: Mapping[str, JSON]
    execution: Mapping[str, JSON]
    missing: bool = False
    """Whether it is in place of a choice that has not been made yet."""
    world: WorldSpec | None = None

    @property
    def value(self) -> ChoiceValue:
        s = self.signature
        return ChoiceValue(s.folder, s.name, self.params, self.execution, s.module.split(".")[0])

    @property
    def spec(self) -> ChoiceSpec:
        s = self.signature
        name = Missing(s.name) if self.missing else s.name
        return ChoiceSpec(s.folder, name, {**self.params, **self.execution}, s.arguments, s.returns, self.world)


def pick(catalogue: Catalogue, feeds: Feeds, choice: Choice, node: Yaml, what: str) -> Picked:
    """The choice that a value names, with its parameters checked and completed. Raises SpecError."""
    name, given = _name_and_parameters(catalogue, choice, node, what)
    if choice.folder == "engines" and name == "auto":
        name = best_engine()
    signature = catalogue.choice(choice.folder, name, node.where, what)
    check_contract(signature)
    if isinstance(given, Yaml):
        given = {_one_text(signature, given, what): given}
    for key, value in given.items():
        if key not in signature.params:
            fail(value.place, f"{what}.{name} has no parameter '{key}'", key, signature.params)
    params: dict[str, JSON] = {}
    execution: dict[str, JSON] = {}
    for p in signature.params.values():
        own = given.get(p.name) or (feeds.feed(p.name) if p.type.execution else None)
        if own is None and p.required:
            fail(node.where, f"{what}.{name}.{p.name} has no default: give it a value ({p.type})")
        own = own or yaml_from_json(p.default, node.where)
        feeds.used(own, p)
        (execution if p.type.execution else params)[p.name] = checked_value(p.type, own, f"{what}.{name}.{p.name}")
    world = catalogue.worlds.get(name) if choice.folder == "sources" else None
    return Picked(signature, params, execution, node.missing or isinstance(name, Missing), world)


def choice_names(catalogue: Catalogue, choice: Choice) -> list[str]:
    """The names that a choice accepts: for engines also `auto`."""
    return [*catalogue.choices(choice.folder), *(["auto"] if choice.folder == "engines" else [])]


def choice_name(node: Yaml | None) -> str:
    """The name in the value of a choice, as written; empty if it has none."""
    if node is None or isinstance(node.value, str):
        return str(node.value) if node else ""
    return next(iter(entries(node)), "")


def _name_and_parameters(
    catalogue: Catalogue, choice: Choice, node: Yaml, what: str
) -> tuple[str, Yaml | Mapping[str, Yaml]]:
    """The choice's name and its parameters, or the one text for the `other` choice."""
    known = choice_names(catalogue, choice)
    if node.missing:
        return (choice.other, node) if choice.other else (Missing(known[0]), {})
    if isinstance(node.value, str) and node.value.isidentifier():
        if node.value not in known:
            hint = f", or ./{node.value[:40]} if it is a path" if choice.other else ""
            fail(node.where, f"{what} = {quoted_value(node)}; there is no such choice{hint}", node.value, known)
        return node.value, {}
    if isinstance(node.value, str) and node.value.strip() and choice.other:
        return choice.other, node
    if isinstance(node.value, dict) and len(node.value) == 1:
        [(name, inner)] = node.value.items()
        if name not in known:
            fail(inner.place, f"{what} = '{name}'; there is no such choice", name, known)
        if inner.value is None or isinstance(inner.value, dict):
            return name, entries(inner)
    form = f"a name or {{name: {{parameter: value}}}}{', or a path' if choice.other else ''}"
    return fail(node.where, f"{what} = {quoted_value(node)}; a choice is {form}", str(node.value), known)


def _one_text(signature: Signature, node: Yaml, what: str) -> str:
    names = [p.name for p in signature.params.values() if p.type.base == "str" and p.required]
    if len(names) != 1:
        fail(node.where, f"{what}: '{signature.name}' must have exactly one required text to take {quoted_value(node)}")
    return names[0]
