"""The signature of a task, a composite or a choice, read from source."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from flows.python.functions import Argument, Function
from flows.wiring.groups import Fields, members
from flows.wiring.model import Group
from flows.wiring.tree import fail
from flows.wiring.types import Type, parse_type
from flows.wiring.where import Where
from tasks.contract import JSON


@dataclass(frozen=True)
class Port:
    """An argument that another step's result feeds."""

    name: str
    kinds: tuple[str, ...]
    """Any of these; a type variable's bounds."""
    variable: str | None
    """The type variable, where the annotation is one."""
    is_list: bool
    optional: bool

    def __str__(self) -> str:
        kinds = " | ".join(self.kinds)
        return f"list[{kinds}]" if self.is_list else kinds


@dataclass(frozen=True)
class Param:
    """A keyword-only argument."""

    name: str
    type: Type
    annotation: str
    required: bool
    default: JSON
    help: str


@dataclass(frozen=True)
class Signature:
    """Arguments and result of a task, a composite or a choice."""

    name: str
    module: str
    ports: Mapping[str, Port]
    """Of tasks and composites."""
    arguments: tuple[str, ...]
    """Names of the positional arguments."""
    params: Mapping[str, Param]
    returns: str
    """A kind or a type variable; of a choice: the last name in its return annotation."""
    work: bool
    composite: bool
    folder: str
    """Of a choice: the folder below `tasks/`."""
    about: str
    """First sentence of the docstring."""
    paper: str
    """The `Paper:` of the docstring, else empty."""
    where: Where = field(default_factory=lambda: Where(""))
    places: Mapping[str, Where] = field(default_factory=dict)
    """Of the positional arguments."""
    columns: tuple[tuple[str, Where], ...] = ()
    """Columns of a data frame that it reads by name, with their places."""
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Functions beside a choice that tasks may call, with the arguments that each must be given."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """Arguments that are dataclasses; `params` has their fields in their place."""


@dataclass(frozen=True)
class SignatureReader:
    """Reads the signature of one function."""

    module: str
    file: str
    function: Function
    kinds: Mapping[str, object]
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: Callable[[str], Fields | None] = lambda _: None

    @property
    def where(self) -> Where:
        return Where(self.file, self.function.line, 1)

    def task(self) -> Signature:
        """The signature of a task or composite. Raises SpecError.

        A composite is a function of a file `composites.py`, or one whose first argument is an `Add`.
        """
        f = self.function
        composite = self.module.endswith(".composites") or [a.annotation for a in f.positional[:1]] == ["Add"]
        arguments = f.positional[1:] if composite else f.positional
        ports = {a.name: self._port(a) for a in arguments if a.annotation != "Workspace"}
        work = any(a.annotation == "Workspace" for a in (*arguments, *f.keywords))
        return self._signature(ports, f.returns, work, composite)

    def choice(self) -> Signature:
        """The signature of a choice. Raises SpecError."""
        returns = (re.findall(r"\w+", self.function.returns) or [""])[-1]
        return self._signature({}, returns, folder="/".join(self.module.split(".")[1:-1]))

    def _signature(
        self, ports: Mapping[str, Port], returns: str, work: bool = False, composite: bool = False, folder: str = ""
    ) -> Signature:
        f = self.function
        helps = _helps(f.doc)
        params: dict[str, Param] = {}
        groups: dict[str, Group] = {}
        for argument in (a for a in f.keywords if a.annotation != "Workspace"):
            fields = self.fields(argument.annotation)
            if fields is not None:
                groups[argument.name] = fields.group
            for a in [argument] if fields is None else self._members(argument, fields):
                if a.name in params or a.name in groups:
                    self._wrong(argument, f"'{a.name}' is the name of another parameter")
                params[a.name] = self._param(a, a.doc or helps.get(a.name, ""))
        paper = re.search(r"^\s*Paper: *(.+(?:\n(?! *\w+:| *$).+)*)", f.doc, re.M)
        return Signature(
            f.name, self.module, ports, tuple(a.name for a in f.positional), params, returns, work, composite, folder,
            f.doc.split("\n\n")[0].replace("\n", " "), " ".join(paper.group(1).split()) if paper else "",
            self.where,
            {a.name: Where(self.file, a.line, a.column) for a in f.positional},
            tuple((c.name, Where(self.file, c.line, c.column)) for c in f.columns), groups=groups,
        )  # fmt: skip

    def _members(self, argument: Argument, fields: Fields) -> Iterable[Argument]:
        try:
            return members(argument, fields)
        except ValueError as e:
            self._wrong(argument, str(e))

    def _param(self, argument: Argument, text: str) -> Param:
        if argument.code:
            self._wrong(argument, f"its default must be a literal, not {argument.code}")
        try:
            kind = parse_type(argument.annotation)
        except ValueError as e:
            self._wrong(argument, str(e))
        return Param(argument.name, kind, argument.annotation, argument.required, argument.default, text)

    def _port(self, argument: Argument) -> Port:
        text = re.sub(r"\s*\|\s*None\b|\bNone\s*\|\s*", "", argument.annotation)
        listed = re.fullmatch(r"list\[(.+)\]", text)
        names = tuple(re.split(r"\s*\|\s*", listed[1] if listed else text))
        variable = names[0] if len(names) == 1 and names[0] in self.variables else None
        kinds = self.variables[variable] if variable else names
        if not set(kinds) <= self.kinds.keys():
            self._wrong(argument, f"'{argument.annotation}' is not a kind; parameters are keyword-only arguments")
        return Port(argument.name, kinds, variable, bool(listed), text != argument.annotation or not argument.required)

    def _wrong(self, argument: Argument, text: str) -> NoReturn:
        fail(self.where, f"{self.function.name}({argument.name}): {text}")


def _helps(doc: str) -> dict[str, str]:
    """Argument → text of the docstring's `Args:`."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n(?=[ \t]))+)", inspect.cleandoc(doc), re.M)
    if not found:
        return {}
    lines = inspect.cleandoc(found.group(1))
    entries = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", lines, re.M)
    return {name: " ".join(text.split()) for name, text in entries}
