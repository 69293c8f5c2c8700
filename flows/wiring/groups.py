"""Groups of parameters: a frozen dataclass as one keyword-only argument, which a wiring writes flat or as a mapping.

The dataclass alone gives type, bounds, default and text of its fields. A task may set other defaults for some of them:
`optim: OptimConfig = OptimConfig(batch=64)`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from flows.python.codebase import Codebase
from flows.python.functions import Argument
from flows.wiring.model import Group
from flows.wiring.tree import Yaml, fail, mapping
from flows.wiring.types import WORDS
from tasks.contract import JSON


@dataclass(frozen=True)
class Fields:
    """A dataclass as written; the fields of its bases come first."""

    module: str
    name: str
    fields: tuple[Argument, ...]

    @property
    def group(self) -> Group:
        return Group(self.module, self.name, tuple(f.name for f in self.fields))


def find_fields(codebase: Codebase, module: str, name: str) -> Fields | None:
    """The dataclass that a module defines or imports under a name; None if that is something else."""
    public = codebase.public(module)
    if name in public.fields:
        bases = [find_fields(codebase, module, base) for base in public.classes[name]]
        several = [*(base.fields for base in bases if base), public.fields[name]]
        return Fields(module, name, tuple({f.name: f for own in several for f in own}.values()))
    imports = codebase.units(module).imports if name.isidentifier() and name not in WORDS else {}
    source, imported = imports.get(name, ("", None))
    return find_fields(codebase, source, imported) if imported and source in codebase.files else None


def members(argument: Argument, fields: Fields) -> list[Argument]:
    """The fields as parameters of a function, with the defaults that its signature sets. Raises ValueError."""
    own = {} if argument.required else _defaults(argument)
    if unknown := sorted(own.keys() - {f.name for f in fields.fields}):
        raise ValueError(f"{fields.name} has no field '{unknown[0]}'")
    return [replace(f, required=False, default=own[f.name], code="") if f.name in own else f for f in fields.fields]


def _defaults(argument: Argument) -> dict[str, JSON]:
    with suppress(SyntaxError, ValueError):
        call = ast.parse(argument.code, mode="eval").body
        if isinstance(call, ast.Call) and ast.unparse(call.func) == argument.annotation and not call.args:
            values = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}
            return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    form = f"{argument.annotation}(field=literal, …)"
    raise ValueError(f"its default must be {form}, not {argument.code or argument.default}")


def flattened(groups: Mapping[str, Group], keys: Mapping[str, Yaml], what: str) -> dict[str, Yaml]:
    """The parameters of a step, with those in the mappings of its groups beside the others. Raises SpecError."""
    flat = {name: node for name, node in keys.items() if name not in groups}
    for name in (name for name in groups if name in keys):
        for key, node in mapping(keys[name], f"{what}.{name}").items():
            if key not in groups[name].fields:
                fail(node.place, f"{what}.{name} has no parameter '{key}'", key, groups[name].fields)
            if key in flat:
                fail(node.place, f"{what}.{name}.{key}: '{key}' is given a second time, first at {flat[key].place}")
            flat[key] = node
    return flat
