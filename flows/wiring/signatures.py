"""The catalogue of tasks, composites and choices, read from source: checking a wiring imports none of them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from flows.python.functions import Argument, Function, PublicNames, read_source
from flows.wiring.model import Where
from flows.wiring.tree import fail, name_of, quoted
from flows.wiring.types import Type, parse_type
from tasks.contract import JSON, SpecError

TASKS = Path(__file__).resolve().parents[2] / "tasks"
_NO_TASKS = ("__init__.py", "contract.py", "kinds.py", "composites.py")


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
    rows: frozenset[str] = frozenset()
    """Rows of a Report that the docstring names: `eval/win_rate`, …"""
    where: Where = field(default_factory=lambda: Where(""))
    places: Mapping[str, Where] = field(default_factory=dict)
    """Of the positional arguments."""
    columns: tuple[tuple[str, Where], ...] = ()
    """Columns of a data frame that it reads by name, with their places."""


class Catalogue:
    """Everything that a wiring may name. `kept` is a folder in which readings are kept by the files' digests."""

    def __init__(self, root: Path | None = None, kept: Path | None = None) -> None:
        self.root = root or TASKS
        self._kept = kept
        self._choices: dict[tuple[str, str], Signature] = {}
        self._files: dict[str, Mapping[str, Path]] = {}

    def _source(self, file: Path) -> PublicNames:
        try:
            return read_source(file, self._kept)
        except SyntaxError as e:
            fail(Where(str(file), e.lineno or 1, e.offset or 1), f"this is no Python: {e.msg}")

    @cached_property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Every kind and everything that it may stand for, itself first."""
        bases = self._source(self.root / "kinds.py").classes

        def above(name: str) -> tuple[str, ...]:
            return (name, *(a for base in bases.get(name, ()) for a in above(base)))

        return {name: tuple(dict.fromkeys(above(name))) for name in bases if "Artifact" in above(name)}

    def is_a(self, kind: str, wanted: str) -> bool:
        """Whether `kind` serves where `wanted` is asked for."""
        return wanted in self.kinds.get(kind, ())

    @cached_property
    def composites(self) -> Mapping[str, Signature]:
        """Composites by name."""
        file = self.root / "composites.py"
        return self._of_file(file, composite=True) if file.exists() else {}

    @cached_property
    def tasks(self) -> Mapping[str, Signature]:
        """Tasks by name."""
        found: dict[str, Signature] = {}
        for file in sorted(self.root.glob("*.py")):
            if file.name in _NO_TASKS:
                continue
            for name, signature in self._of_file(file, composite=False).items():
                if name in {**found, **self.composites}:
                    raise SpecError(f"{file}: the task '{name}' has a name that another task or composite has")
                found[name] = signature
        return found

    def signature(self, name: str, where: Where, what: str) -> Signature:
        """The task or composite of that name. Raises SpecError at `where`."""
        known = {**self.tasks, **self.composites}
        if name not in known:
            fail(where, f"{what} = {quoted(name)}; there is no such task", name, known)
        return known[name]

    def _of_file(self, file: Path, composite: bool) -> dict[str, Signature]:
        source = self._source(file)
        variables = {**self._source(self.root / "kinds.py").variables, **source.variables}
        found = {}
        for name, function in source.functions.items():
            if function.returns in self.kinds or function.returns in variables:
                module = f"tasks.{file.stem}"
                found[name] = _Reading(file, function, self.kinds, variables).task(module, composite)
        return found

    def choices(self, folder: str) -> Mapping[str, Path]:
        """Name → file of every choice in the folder and its sub-folders."""
        if folder not in self._files:
            self._files[folder] = self._find(folder)
        return self._files[folder]

    def _find(self, folder: str) -> dict[str, Path]:
        files = sorted((self.root / folder).rglob("*.py"))
        found: dict[str, Path] = {}
        for file in (f for f in files if not f.name.startswith("_")):
            if file.stem in found:
                raise SpecError(f"{file} and {found[file.stem]}: two choices of one name")
            found[file.stem] = file
        return found

    def choice(self, folder: str, name: str, where: Where, what: str) -> Signature:
        """The choice of that name. Raises SpecError at `where`."""
        if (folder, name) not in self._choices:
            known = self.choices(folder)
            if name not in known:
                fail(where, f"{what} = {quoted(name)}; there is no such choice", name, known)
            function = self._source(known[name]).functions.get(name)
            if function is None:
                fail(Where(str(known[name])), f"has no function '{name}'; a choice bears its file's name")
            below = known[name].parent.relative_to(self.root).as_posix()
            self._choices[folder, name] = _Reading(known[name], function, self.kinds, {}).choice(below)
        return self._choices[folder, name]

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
        self, file: Path, function: Function, kinds: Mapping[str, object], variables: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._where = Where(name_of(file), function.line, 1)
        self._function = function
        self._kinds = kinds
        self._variables = variables

    def task(self, module: str, composite: bool) -> Signature:
        f = self._function
        arguments = f.positional[1:] if composite else f.positional
        ports = {a.name: self._port(a) for a in arguments if a.annotation != "Workspace"}
        work = any(a.annotation == "Workspace" for a in (*arguments, *f.keywords))
        return self._signature(module, ports, f.returns, work, composite)

    def choice(self, folder: str) -> Signature:
        returns = (re.findall(r"\w+", self._function.returns) or [""])[-1]
        return self._signature(".".join(["tasks", *folder.split("/"), self._function.name]), {}, returns, folder=folder)

    def _signature(
        self, module: str, ports: Mapping[str, Port], returns: str, work: bool = False, composite: bool = False,
        folder: str = "",
    ) -> Signature:  # fmt: skip
        f = self._function
        helps = _helps(f.doc)
        params = {a.name: self._param(a, helps.get(a.name, "")) for a in f.keywords if a.annotation != "Workspace"}
        paper = re.search(r"^\s*Paper: *(.+(?:\n(?! *\w+:| *$).+)*)", f.doc, re.M)
        return Signature(
            f.name, module, ports, tuple(a.name for a in f.positional), params, returns, work, composite, folder,
            f.doc.split("\n\n")[0].replace("\n", " "), " ".join(paper.group(1).split()) if paper else "",
            frozenset(re.findall(r"\beval/\w+", f.doc)), self._where,
            {a.name: Where(self._where.file, a.line, a.column) for a in f.positional},
            tuple((c.name, Where(self._where.file, c.line, c.column)) for c in f.columns),
        )  # fmt: skip

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
