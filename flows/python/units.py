"""One source file as units of code, with the names that each uses.

A unit is a top-level function, a whole class or an assignment; every other top-level statement belongs to the unit
`<module>`, which counts wherever the file is loaded, as do imports that nothing in the file names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields

from blake3 import blake3

from flows.python.canonical import Findings, Scan, dotted_name, has_no_effect, is_undecorated
from flows.python.imports import Binding, bind, is_named, loaded_by, used_as
from tasks.contract import SpecError

MODULE = "<module>"
UNKEYED = "UNKEYED"
"""A file may define it: name → why its use there changes no result. For such a name nothing is refused there."""
_SILENT = frozenset({"__future__", "typing"})
"""Modules whose import has no effect on a result."""
_HOOKS = frozenset({"__init_subclass__", "__set_name__"})


@dataclass(kw_only=True)
class CodeUnit(Findings):
    """Code of one unit: its digest, the names that it uses, and what a key can follow only under conditions."""

    digest: str
    line: int
    function: bool
    effect: bool
    """Whether loading its file does more than give its name a value: a registration, for instance."""
    hooks: bool
    """Whether it is a class that runs code when a class is derived from it."""
    bases: list[str]
    called: list[str]
    """Dotted names of what is called when its file is loaded."""


@dataclass
class UnitFile:
    """A parsed file: units by name, module-level imports, and the uses that it declares to change no result."""

    units: dict[str, CodeUnit] = field(default_factory=dict)
    imports: dict[str, Binding] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unkeyed: dict[str, str] = field(default_factory=dict)
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Top-level name → first and last line of each statement that binds it, imports included."""


def parse_units(tree: ast.Module, name: str) -> UnitFile:
    """The units of a file. `name` is its path in errors. Raises SpecError for star and relative imports."""
    sorting = _Sorting(name)
    for statement in tree.body:
        sorting.add(statement)
    return sorting.source()


class _Sorting:
    """Sorts top-level statements into units."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._source = UnitFile()
        self._statements: dict[str, list[ast.stmt]] = {}
        self._imports: list[ast.Import | ast.ImportFrom] = []

    def add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement, statement)
            return
        test = statement.test if isinstance(statement, ast.If) else None
        if test and dotted_name(test).split(".")[-1] == "TYPE_CHECKING":
            for other in statement.orelse:  # type: ignore[attr-defined]
                self.add(other)
            return
        if has_no_effect(statement) or (isinstance(test, ast.Compare) and dotted_name(test.left) == "__name__"):
            return
        names = list(_bound(statement))
        if UNKEYED in names:
            self._source.unkeyed = _unkeyed(statement, self._file)
            return
        if not isinstance(statement, _SIMPLE):
            names.extend(self._inside(statement))
            self._statements.setdefault(MODULE, []).append(statement)
        for name in names or [MODULE]:
            self._statements.setdefault(name, []).append(statement)
            self._span(name, statement)

    def _inside(self, statement: ast.stmt) -> Iterator[str]:
        """Names bound by the module-level statements inside a compound one."""
        for node in _module_level(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node, statement)
            yield from _bound(node)

    def _import(self, node: ast.Import | ast.ImportFrom, statement: ast.stmt) -> None:
        """Note an import, which is a top-level statement or lies in one."""
        bind(self._source.imports, node, self._file)
        self._source.loads.extend(loaded_by(node))
        self._imports.append(node)
        for name in used_as(node):
            self._span(name.split(".")[0], statement)

    def _span(self, name: str, statement: ast.stmt) -> None:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
        self._source.spans.setdefault(name, []).append((first, statement.end_lineno or first))

    def source(self) -> UnitFile:
        mentioned: set[str] = set()
        for name, nodes in self._foreign_to_module().items():
            self._source.units[name] = _unit(nodes, self._file, mentioned)
        self._name_silent_imports(mentioned)
        return self._source

    def _foreign_to_module(self) -> dict[str, list[ast.stmt]]:
        """`TABLE["x"] = 1` on an imported TABLE changes another file's state: it belongs to what loading does."""
        for name in [n for n in self._statements if n in self._source.imports]:
            moved = [s for s in self._statements.pop(name) if isinstance(s, _SIMPLE)]
            if moved:
                self._statements.setdefault(MODULE, []).extend(moved)
        return self._statements

    def _name_silent_imports(self, mentioned: set[str]) -> None:
        """An import that nothing names is there for its effect, so the unit `<module>` uses it whole."""
        named = mentioned.union(*(unit.names for unit in self._source.units.values()))
        silent = {u: -n.lineno for n in self._imports for u in used_as(n) if not is_named(u, named)}
        silent = {u: line for u, line in silent.items() if self._source.imports[u.split(".")[0]][0] not in _SILENT}
        if silent:
            unit = self._source.units.setdefault(MODULE, _unit([ast.Pass(lineno=1)], self._file, set()))
            unit.names.update(silent)


_SIMPLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)


def _module_level(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Statements inside a compound one that still run at module level."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from (s for inner in child.body for s in (inner, *_module_level(inner)))
        elif isinstance(child, ast.stmt):
            yield child
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _module_level(child)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement defines or changes: `f`, `X` for `X = 1`, `X += 1`, `X["a"] = 1`, `X.a = 1`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For):
        targets = [statement.target]
    elif isinstance(statement, ast.With):
        targets = [i.optional_vars for i in statement.items if i.optional_vars]
    for target in targets:
        yield from _roots(target)


def _roots(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        yield from _roots(target.value)
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _roots(element)


def _unkeyed(statement: ast.stmt, file: str) -> dict[str, str]:
    """The literal that a file gives `UNKEYED`. Raises SpecError for anything else."""
    value, reasons = getattr(statement, "value", None), None
    with suppress(ValueError):
        reasons = ast.literal_eval(value) if value is not None else None
    texts = [text for entry in reasons.items() for text in entry] if isinstance(reasons, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        form = f"{UNKEYED} must be written out as {{name: why it changes no result}}"
        raise SpecError(f"{file}:{statement.lineno}: {form}")
    return dict(reasons or {})


def _unit(nodes: list[ast.stmt], file: str, mentioned: set[str]) -> CodeUnit:
    scan = Scan(file)
    for node in nodes:
        if not isinstance(node, ast.Pass):
            scan.visit(node)
    mentioned |= scan.mentioned
    used = {*scan.names, *scan.mentioned}
    scan.names |= {u: -line for u, line in scan.imported.items() if not is_named(u, used)}
    scan.touched = scan.touched - scan.locals | scan.globals
    return CodeUnit(
        **{f.name: getattr(scan, f.name) for f in fields(Findings)},
        digest=blake3("\n".join(scan.out).encode()).hexdigest(16), line=nodes[0].lineno,
        function=any(isinstance(n, ast.FunctionDef) for n in nodes),
        effect=not all(is_undecorated(n) for n in nodes),
        hooks=any(_has_hooks(n) for n in nodes),
        bases=[name for n in nodes if isinstance(n, ast.ClassDef) for b in n.bases if (name := dotted_name(b))],
        called=sorted({c for n in nodes for c in _called_at_load(n)}),
    )  # fmt: skip


def _has_hooks(node: ast.stmt) -> bool:
    """Whether a class has a hook or a metaclass that runs when a class is derived from it."""
    if not isinstance(node, ast.ClassDef):
        return False
    defined = {s.name for s in node.body if isinstance(s, ast.FunctionDef)}
    metaclasses = {dotted_name(k.value).rpartition(".")[2] for k in node.keywords if k.arg == "metaclass"}
    return bool(defined & _HOOKS or metaclasses - {"ABCMeta"} or any(dotted_name(b) == "type" for b in node.bases))


def _called_at_load(node: ast.stmt) -> Iterator[str]:
    """Dotted names of what is called when an assignment or a class body runs."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _called_at_load(inner)
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and (name := dotted_name(part.func)):
            yield name
