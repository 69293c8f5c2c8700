"""The catalogue of tasks, composites and choices, read from source: checking a wiring imports none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NoReturn

from flows.python.codebase import Codebase
from flows.python.declared import Declarations
from flows.python.loading import fresh_module
from flows.wiring.groups import find_fields
from flows.wiring.signatures import Signature, SignatureReader
from flows.wiring.tree import fail, name_of, quoted
from flows.wiring.where import Where
from tasks.contract import COMPANIONS, Choice, SpecError, WorldSpec

_KINDS, _BASES = "tasks.kinds", "tasks.artifact"
_NO_TASKS = ("tasks.contract", _KINDS, _BASES)


class Catalogue:
    """Everything that a wiring may name: the tasks, composites and choices of a code base."""

    def __init__(self, codebase: Codebase | None = None) -> None:
        self.codebase = codebase or Codebase()
        self._choices: dict[tuple[str, str], Signature] = {}
        self._modules: dict[str, dict[str, str]] = {}

    @cached_property
    def declared(self) -> Declarations:
        """The declarations of tasks and choices about themselves."""
        return Declarations(self.codebase)

    @cached_property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Every kind and everything that it may stand for, itself first."""
        bases = {**self.codebase.public(_BASES).classes, **self.codebase.public(_KINDS).classes}

        def above(name: str) -> tuple[str, ...]:
            return (name, *(a for base in bases.get(name, ()) for a in above(base)))

        return {name: tuple(dict.fromkeys(above(name))) for name in bases if "Artifact" in above(name)}

    def is_a(self, kind: str, wanted: str) -> bool:
        """Whether `kind` serves where `wanted` is expected."""
        return wanted in self.kinds.get(kind, ())

    @cached_property
    def composites(self) -> Mapping[str, Signature]:
        """Composites by name."""
        return {name: s for name, s in self._signatures.items() if s.composite}

    @cached_property
    def tasks(self) -> Mapping[str, Signature]:
        """Tasks by name."""
        return {name: s for name, s in self._signatures.items() if not s.composite}

    @cached_property
    def _signatures(self) -> Mapping[str, Signature]:
        modules = [m for m in self.codebase.files if m.count(".") == 1 and m not in _NO_TASKS]
        found: dict[str, Signature] = {}
        for signature in (s for module in modules for s in self._of_module(module)):
            other = found.setdefault(signature.name, signature)
            if other is not signature:
                self._refuse_second(signature.name, "task or composite", other.module, signature.module)
        return found

    def _refuse_second(self, name: str, what: str, *modules: str) -> NoReturn:
        files = " and ".join(self.codebase.shown(m) for m in modules)
        raise SpecError(f"{files} both define the {what} '{name}'; rename one")

    def signature(self, name: str, where: Where, what: str) -> Signature:
        """The task or composite of that name. Raises SpecError at `where`."""
        if name not in self._signatures:
            fail(where, f"{what} = {quoted(name)}; there is no such task", name, self._signatures)
        return self._signatures[name]

    @cached_property
    def takers(self) -> Mapping[Choice, Sequence[Signature]]:
        """The tasks and composites that take a choice, for every choice that one takes."""
        found: dict[Choice, list[Signature]] = {}
        for signature in self._signatures.values():
            for choice in (p.type.choice for p in signature.params.values() if p.type.choice):
                found.setdefault(choice, []).append(signature)
        return found

    def _of_module(self, module: str) -> Iterator[Signature]:
        public = self.codebase.public(module)
        variables = {**self.codebase.public(_KINDS).variables, **public.variables}
        for function in public.functions.values():
            if function.returns in self.kinds or function.returns in variables:
                fields = partial(find_fields, self.codebase, module)
                yield SignatureReader(module, self.file(module), function, self.kinds, variables, fields).task()

    def file(self, module: str) -> str:
        """A module's file, relative to the working directory if it is below it."""
        return name_of(self.codebase.files[module])

    def choices(self, folder: str) -> Mapping[str, str]:
        """Name → module of every choice in the folder and its sub-folders."""
        if folder not in self._modules:
            found: dict[str, str] = {}
            for module, file in self.codebase.files.items():
                inside = module.partition(".")[2].startswith(f"{folder.replace('/', '.')}.")
                if inside and not file.name.startswith("_"):
                    other = found.setdefault(module.rpartition(".")[2], module)
                    if other != module:
                        self._refuse_second(module.rpartition(".")[2], "choice", other, module)
            self._modules[folder] = found
        return self._modules[folder]

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
            signature = SignatureReader(module, self.file(module), functions[name], self.kinds).choice()
            beside = {n: functions[n] for n in COMPANIONS if n in functions}
            required = {n: tuple(a.name for a in (*f.positional, *f.keywords) if a.required) for n, f in beside.items()}
            self._choices[folder, name] = replace(signature, companions=required)
        return self._choices[folder, name]

    def all_choices(self, folder: str) -> list[Signature]:
        """The choices of a folder and its sub-folders."""
        return [self.choice(folder, name, Where(folder), folder) for name in self.choices(folder)]

    @cached_property
    def worlds(self) -> Mapping[str, WorldSpec]:
        """The WorldSpec of each world among the sources. Raises SpecError where it has none."""
        return {s.name: self._world(s) for s in self.all_choices("sources") if s.returns == "World"}

    def _world(self, source: Signature) -> WorldSpec:
        try:
            world = vars(fresh_module(self.codebase, source.module)).get("world")
        except Exception as e:
            fail(source.where, f"cannot be loaded for its `world`: {type(e).__name__}: {e}")
        if not isinstance(world, WorldSpec):
            fail(source.where, f"{source.name} returns a World, so its file must define `world`, a WorldSpec")
        return world

    @cached_property
    def execution(self) -> frozenset[str]:
        """Names of all `Execution` parameters, of tasks, composites and choices."""
        chosen = [s for choice in self.takers for s in self.all_choices(choice.folder)]
        signatures = [*self._signatures.values(), *chosen]
        return frozenset(p.name for s in signatures for p in s.params.values() if p.type.execution)
