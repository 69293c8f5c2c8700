"""The catalogue of tasks, composites and choices, read from source: checking a wiring imports none of them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NoReturn

from flows.python.codebase import Codebase
from flows.python.declared import Declarations
from flows.python.functions import Argument, Function
from flows.python.loading import fresh_module
from flows.wiring.groups import Fields, find_fields, members
from flows.wiring.model import Group
from flows.wiring.tree import fail, name_of, quoted
from flows.wiring.types import Type, parse_type
from flows.wiring.where import Where
from tasks.contract import COMPANIONS, JSON, SpecError, WorldSpec

_KINDS = "tasks.kinds"
_NO_TASKS = ("tasks.contract", _KINDS)


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
    """What a task, a composite or a choice takes and gives."""

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
    """What the docstring's `Paper:` says, else empty."""
    where: Where = field(default_factory=lambda: Where(""))
    places: Mapping[str, Where] = field(default_factory=dict)
    """Of the positional arguments."""
    columns: tuple[tuple[str, Where], ...] = ()
    """Columns of a data frame that it reads by name, with their places."""
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Functions beside a choice that tasks may call, with the arguments that each must be given."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """Arguments that are dataclasses; `params` has their fields in their place."""


class Catalogue:
    """Everything that a wiring may name: the tasks, composites and choices of a code base."""

    def __init__(self, codebase: Codebase | None = None) -> None:
        self.codebase = codebase or Codebase()
        self._choices: dict[tuple[str, str], Signature] = {}
        self._modules: dict[str, Mapping[str, str]] = {}

    @cached_property
    def declared(self) -> Declarations:
        """What tasks and choices declare about themselves."""
        return Declarations(self.codebase)

    @cached_property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Every kind and everything that it may stand for, itself first."""
        bases = self.codebase.public(_KINDS).classes

        def above(name: str) -> tuple[str, ...]:
            return (name, *(a for base in bases.get(name, ()) for a in above(base)))

        return {name: tuple(dict.fromkeys(above(name))) for name in bases if "Artifact" in above(name)}

    def is_a(self, kind: str, wanted: str) -> bool:
        """Whether `kind` serves where `wanted` is asked for."""
        return wanted in self.kinds.get(kind, ())

    @cached_property
    def composites(self) -> Mapping[str, Signature]:
        """Composites by name."""
        return self._named(f"{package}.composites" for package in self.codebase.packages)

    @cached_property
    def tasks(self) -> Mapping[str, Signature]:
        """Tasks by name."""
        modules = [m for m in self.codebase.files if m.count(".") == 1 and m not in _NO_TASKS]
        found = self._named(m for m in modules if not m.endswith(".composites"))
        for name in found.keys() & self.composites.keys():
            self._refuse_second(name, "task or composite", found[name].module, self.composites[name].module)
        return found

    def _named(self, modules: Iterable[str]) -> dict[str, Signature]:
        """The tasks or composites of several modules."""
        found: dict[str, Signature] = {}
        for module in modules:
            for signature in self._of_module(module):
                if signature.name in found:
                    self._refuse_second(signature.name, "task or composite", found[signature.name].module, module)
                found[signature.name] = signature
        return found

    def _refuse_second(self, name: str, what: str, *modules: str) -> NoReturn:
        files = " and ".join(self.codebase.shown(m) for m in modules)
        raise SpecError(f"{files} both define the {what} '{name}'; rename one")

    def signature(self, name: str, where: Where, what: str) -> Signature:
        """The task or composite of that name. Raises SpecError at `where`."""
        known = {**self.tasks, **self.composites}
        if name not in known:
            fail(where, f"{what} = {quoted(name)}; there is no such task", name, known)
        return known[name]

    def _of_module(self, module: str) -> Iterator[Signature]:
        public = self.codebase.public(module)
        variables = {**self.codebase.public(_KINDS).variables, **public.variables}
        for function in public.functions.values():
            if function.returns in self.kinds or function.returns in variables:
                fields = partial(find_fields, self.codebase, module)
                yield _Reading(self.file(module), function, self.kinds, variables, fields).task(module)

    def file(self, module: str) -> str:
        """A module's file as people click on it."""
        return name_of(self.codebase.files[module])

    def choices(self, folder: str) -> Mapping[str, str]:
        """Name → module of every choice in the folder and its sub-folders."""
        if folder not in self._modules:
            self._modules[folder] = self._find(folder.replace("/", "."))
        return self._modules[folder]

    def _find(self, folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for module, file in self.codebase.files.items():
            name = module.rpartition(".")[2]
            if not module.partition(".")[2].startswith(f"{folder}.") or file.name.startswith("_"):
                continue
            if name in found:
                self._refuse_second(name, "choice", found[name], module)
            found[name] = module
        return found

    def choice(self, folder: str, name: str, where: Where, what: str) -> Signature:
        """The choice of that name. Raises SpecError at `where`."""
        if (folder, name) not in self._choices:
            known = self.choices(folder)
            if name not in known:
                fail(where, f"{what} = {quoted(name)}; there is no such choice", name, known)
            module = known[name]
            functions = self.codebase.public(module).functions
            if name not in functions:
                fail(Where(self.file(module)), f"has no function '{name}'; a choice bears its file's name")
            signature = _Reading(self.file(module), functions[name], self.kinds, {}).choice(module)
            beside = {n: _required(functions[n]) for n in COMPANIONS if n in functions}
            self._choices[folder, name] = replace(signature, companions=beside)
        return self._choices[folder, name]

    @cached_property
    def worlds(self) -> Mapping[str, WorldSpec]:
        """What each world among the sources says of itself. Raises SpecError where it says nothing."""
        choices = [self.choice("sources", name, Where("sources"), "source") for name in self.choices("sources")]
        return {s.name: self._world(s) for s in choices if s.returns == "World"}

    def _world(self, source: Signature) -> WorldSpec:
        try:
            world = vars(fresh_module(self.codebase, source.module)).get("world")
        except Exception as e:
            fail(source.where, f"cannot be loaded to see what the world says of itself: {type(e).__name__}: {e}")
        if not isinstance(world, WorldSpec):
            fail(source.where, f"{source.name} returns a World, so its file must define `world`, a WorldSpec")
        return world

    @cached_property
    def execution(self) -> frozenset[str]:
        """Names of all `Execution` parameters, of tasks, composites and choices."""
        signatures = [*self.tasks.values(), *self.composites.values()]
        folders = {p.type.choice.folder for s in signatures for p in s.params.values() if p.type.choice}
        for folder in folders:
            signatures += [self.choice(folder, name, Where(folder), folder) for name in self.choices(folder)]
        return frozenset(p.name for s in signatures for p in s.params.values() if p.type.execution)


class _Reading:
    """One function's signature, as the wiring needs it."""

    def __init__(
        self, file: str, function: Function, kinds: Mapping[str, object], variables: Mapping[str, tuple[str, ...]],
        fields: Callable[[str], Fields | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._where = Where(file, function.line, 1)
        self._function = function
        self._kinds = kinds
        self._variables = variables
        self._fields = fields

    def task(self, module: str) -> Signature:
        f, composite = self._function, module.endswith(".composites")
        arguments = f.positional[1:] if composite else f.positional
        ports = {a.name: self._port(a) for a in arguments if a.annotation != "Workspace"}
        work = any(a.annotation == "Workspace" for a in (*arguments, *f.keywords))
        return self._signature(module, ports, f.returns, work, composite)

    def choice(self, module: str) -> Signature:
        returns = (re.findall(r"\w+", self._function.returns) or [""])[-1]
        return self._signature(module, {}, returns, folder="/".join(module.split(".")[1:-1]))

    def _signature(
        self, module: str, ports: Mapping[str, Port], returns: str, work: bool = False, composite: bool = False,
        folder: str = "",
    ) -> Signature:  # fmt: skip
        f = self._function
        helps = _helps(f.doc)
        params: dict[str, Param] = {}
        groups: dict[str, Group] = {}
        for argument in (a for a in f.keywords if a.annotation != "Workspace"):
            found = self._fields(argument.annotation)
            if found is not None:
                groups[argument.name] = found.group
            for a in [argument] if found is None else self._members(argument, found):
                if a.name in params or a.name in groups:
                    self._wrong(argument, f"'{a.name}' is the name of another parameter")
                params[a.name] = self._param(a, a.doc or helps.get(a.name, ""))
        paper = re.search(r"^\s*Paper: *(.+(?:\n(?! *\w+:| *$).+)*)", f.doc, re.M)
        return Signature(
            f.name, module, ports, tuple(a.name for a in f.positional), params, returns, work, composite, folder,
            f.doc.split("\n\n")[0].replace("\n", " "), " ".join(paper.group(1).split()) if paper else "",
            self._where,
            {a.name: Where(self._where.file, a.line, a.column) for a in f.positional},
            tuple((c.name, Where(self._where.file, c.line, c.column)) for c in f.columns), groups=groups,
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
        names = _alternatives(ast.parse(argument.annotation or "None", mode="eval").body)
        inner = [n for n in names if n != "None"]
        is_list = len(inner) == 1 and inner[0].startswith("list[")
        if is_list:
            inner = _alternatives(ast.parse(inner[0][5:-1], mode="eval").body)
        variable = inner[0] if len(inner) == 1 and inner[0] in self._variables else None
        kinds = self._variables[variable] if variable else tuple(inner)
        unknown = [k for k in kinds if k not in self._kinds]
        if unknown or not kinds:
            self._wrong(argument, f"'{argument.annotation}' is no kind; parameters are keyword-only arguments")
        return Port(argument.name, kinds, variable, is_list, "None" in names or not argument.required)

    def _wrong(self, argument: Argument, text: str) -> NoReturn:
        fail(self._where, f"{self._function.name}({argument.name}): {text}")


def _required(function: Function) -> tuple[str, ...]:
    return tuple(a.name for a in (*function.positional, *function.keywords) if a.required)


def _alternatives(node: ast.expr) -> list[str]:
    """The names of `A | B | None`."""
    if isinstance(node, ast.BinOp):
        return _alternatives(node.left) + _alternatives(node.right)
    return [ast.unparse(node)]


def _helps(doc: str) -> dict[str, str]:
    """Argument → text of the docstring's `Args:`."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n(?=[ \t]))+)", inspect.cleandoc(doc), re.M)
    if not found:
        return {}
    lines = inspect.cleandoc(found.group(1))
    entries = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", lines, re.M)
    return {name: " ".join(text.split()) for name, text in entries}
