"""One source file as units: what each unit's code is, and which names it uses.

A unit is a top-level function, a whole class or an assignment; every other top-level statement belongs to the unit
`<module>`, which counts wherever the file counts. A unit's digest is that of its syntax tree without positions,
docstrings, annotations and decorators.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from tasks.contract import SpecError

MODULE = "<module>"
_SKIPPED = frozenset(
    ("ctx", "kind", "type_comment", "annotation", "returns", "decorator_list", "type_params", "simple")
)
_FIELDS: dict[type, tuple[str, tuple[str, ...]]] = {}

Binding = tuple[str, str | None]
"""What an import binds a name to: (module, name in it), or (module, None) for the module itself."""


@dataclass
class Unit:
    """Code of one unit: what it is, the dotted names it uses, the imports inside it."""

    digest: str
    names: list[str]
    imports: dict[str, Binding]
    getattrs: list[str]
    """Dotted names whose attributes are looked up by `getattr`: refused where they are modules."""
    locals: list[str]
    """Names that it assigns or takes as arguments, which may hide what the module calls so."""
    line: int


@dataclass
class Source:
    """A parsed file: units by name, module-level imports, names that compound statements bind."""

    units: dict[str, Unit] = field(default_factory=dict)
    imports: dict[str, Binding] = field(default_factory=dict)


def parse(text: str, name: str) -> Source:
    """The units of a file. `name` is the path said in errors. Raises SpecError for star and relative imports."""
    try:
        tree = ast.parse(text, name)
    except SyntaxError as e:
        raise SpecError(f"{name}:{e.lineno}:{e.offset}: {e.msg}") from None
    source = Source()
    statements: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        _sort(statement, source, statements, name)
    for unit, nodes in statements.items():
        source.units[unit] = _unit(nodes, name)
    return source


def _sort(statement: ast.stmt, source: Source, statements: dict[str, list[ast.stmt]], file: str) -> None:
    """Put a top-level statement into the units that it makes."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        _bind(source.imports, statement, file)
        return
    if isinstance(statement, ast.If) and _is_test(statement.test, "TYPE_CHECKING"):
        for other in statement.orelse:
            _sort(other, source, statements, file)
        return
    if _says_nothing(statement) or (isinstance(statement, ast.If) and _is_main(statement.test)):
        return
    names = list(_bound(statement))
    if not isinstance(statement, _SIMPLE):
        for node in _module_level(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                _bind(source.imports, node, file)
            names.extend(_bound(node))
        statements.setdefault(MODULE, []).append(statement)
    for name in names or [MODULE]:
        statements.setdefault(name, []).append(statement)


_SIMPLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)


def _module_level(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Statements inside a compound one that still run at module level."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.ExceptHandler):
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


def _bind(imports: dict[str, Binding], node: ast.Import | ast.ImportFrom, file: str) -> None:
    """Add what an import binds. Raises SpecError where one name would mean two things: the key follows only one."""
    for name, target in _bindings(node, file):
        if imports.setdefault(name, target) != target:
            raise SpecError(
                f"{file}:{node.lineno}: '{name}' is imported from two places; give each a name of its own, "
                "so that the key can follow both"
            )


def _bindings(node: ast.Import | ast.ImportFrom, file: str) -> Iterator[tuple[str, Binding]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, (alias.name, None)) if alias.asname else (
                alias.name.split(".")[0], (alias.name.split(".")[0], None))  # fmt: skip
        return
    if node.level:
        raise SpecError(
            f"{file}:{node.lineno}: relative imports are refused in tasks/; write the whole name, "
            "so that the key can follow it"
        )
    for alias in node.names:
        if alias.name == "*":
            raise SpecError(
                f"{file}:{node.lineno}: 'from {node.module} import *' is refused in tasks/; "
                "name what is imported, so that the key can follow it"
            )
        yield alias.asname or alias.name, (str(node.module), alias.name)


def _unit(nodes: list[ast.stmt], file: str) -> Unit:
    scan = _Scan(file)
    for node in nodes:
        scan.visit(node)
    digest = blake3("\n".join(scan.out).encode()).hexdigest(16)
    return Unit(digest, sorted(scan.names), scan.imports, sorted(scan.getattrs), sorted(scan.locals), nodes[0].lineno)


class _Scan:
    """One walk that writes the canonical form of a tree and collects the names in it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.out: list[str] = []
        self.names: set[str] = set()
        self.imports: dict[str, Binding] = {}
        self.getattrs: set[str] = set()
        self.locals: set[str] = set()

    def visit(self, node: ast.AST, in_class: bool = False) -> None:
        cls = type(node)
        if cls is ast.AnnAssign and node.value is not None and not in_class:  # type: ignore[attr-defined]
            node, cls = ast.Assign([node.target], node.value), ast.Assign  # type: ignore[attr-defined]
        elif (cls is ast.Name or cls is ast.Attribute) and (dotted := _dotted_name(node)):
            self._dotted(node, dotted)
            return
        elif cls is ast.arg:
            self.locals.add(node.arg)  # type: ignore[attr-defined]
        elif cls is ast.Import or cls is ast.ImportFrom:
            _bind(self.imports, node, self.file)  # type: ignore[arg-type]
        elif cls is ast.Call:
            self._getattr(node)  # type: ignore[arg-type]
        for decorator in getattr(node, "decorator_list", ()):
            self._names_only(decorator)
        name, fields = _FIELDS.get(cls) or _fields(cls)
        self.out.append(name)
        values = node.__dict__
        for f in fields:
            self._field(values.get(f), cls is ast.ClassDef and f == "body")

    def _field(self, value: object, in_class: bool) -> None:
        if value.__class__ is list:
            self.out.append("[")
            for item in value:
                if not isinstance(item, ast.AST):
                    self.out.append(repr(item))
                elif not _says_nothing(item, in_class):
                    self.visit(item, in_class)
            self.out.append("]")
        elif isinstance(value, ast.AST):
            self.visit(value)
        else:
            self.out.append(repr(value))

    def _dotted(self, node: ast.AST, dotted: str) -> None:
        """A chain is one name: what lies before its last dot is not used by itself."""
        self.out.append(f".{dotted}")
        if type(node) is ast.Name and type(node.ctx) is ast.Store:
            self.locals.add(dotted)
        else:
            self.names.add(dotted)

    def _getattr(self, call: ast.Call) -> None:
        if isinstance(call.func, ast.Name) and call.func.id == "getattr" and call.args:
            dotted = _dotted_name(call.args[0])
            if dotted:
                self.getattrs.add(dotted)

    def _names_only(self, node: ast.AST) -> None:
        out, self.out = self.out, []
        self.visit(node)
        self.out = out


def _dotted_name(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes that begins with a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _says_nothing(node: ast.AST, in_class: bool = False) -> bool:
    """Docstrings, `...`, `pass`, and bare annotations outside classes (inside one they make a field)."""
    cls = type(node)
    return (
        cls is ast.Pass
        or (cls is ast.Expr and type(node.value) is ast.Constant)  # type: ignore[attr-defined]
        or (cls is ast.AnnAssign and node.value is None and not in_class)  # type: ignore[attr-defined]
    )


def _fields(cls: type) -> tuple[str, tuple[str, ...]]:
    fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    _FIELDS[cls] = (cls.__name__, tuple(f for f in fields if f not in _SKIPPED))
    return _FIELDS[cls]


def _is_test(node: ast.expr, name: str) -> bool:
    return _dotted_name(node).split(".")[-1] == name


def _is_main(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and _dotted_name(node.left) == "__name__"
