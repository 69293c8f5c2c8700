"""The canonical form of a piece of code, and the names in it.

The form leaves out what cannot change a result: positions, docstrings, annotations that nothing reads, and the files
from which names of ours are imported. Decorators and their arguments count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from flows.python.imports import Binding, bind, loaded_by, used_as


class WatchedCall(NamedTuple):
    """A call that a key can follow only under conditions."""

    function: str
    argument: str
    """Its first argument: a dotted name, a text in quotes, `*` for anything else, or nothing."""
    line: int


WATCHED = frozenset({"getattr", "setattr", "delattr", "hasattr", "vars", "Chosen", "data_file", "open", "Path"})
"""Last names of functions whose calls are kept as `WatchedCall`."""
HIDDEN = frozenset({
    "__annotations__", "__builtins__", "__code__", "__doc__", "__file__", "__globals__", "__loader__", "__path__",
    "__spec__", "__subclasses__",
})  # fmt: skip
"""Attributes through which code reads what is not in the key."""
QUIET = frozenset({
    "ABC", "ABCMeta", "Enum", "Exception", "Generic", "IntEnum", "Module", "NamedTuple", "Protocol", "StrEnum",
    "ValueError", "abstractmethod", "asynccontextmanager", "cache", "cached_property", "classmethod", "contextmanager",
    "dataclass", "final", "inference_mode", "lru_cache", "no_grad", "object", "overload", "override", "property",
    "runtime_checkable", "setter", "staticmethod", "total_ordering", "wraps",
})  # fmt: skip
"""Decorators and base classes, by their last names, that read no annotations and register nothing."""
_MARKS = frozenset({"ClassVar", "InitVar", "KW_ONLY"})
"""Annotations that change what `dataclass` makes of a field."""
_SKIPPED = frozenset(("ctx", "kind", "type_comment", "annotation", "returns", "type_params", "simple"))
_PATH = re.compile(r"[\w./ ~-]{1,200}")


@dataclass
class Findings:
    """What `flows.python.linking` needs of a piece of code."""

    names: dict[str, int] = field(default_factory=dict)
    """Dotted names that are read, with the line of the first use; a negative one: imported, not used."""
    imports: dict[str, Binding] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    """Modules that its imports load, and names in them that may be modules."""
    locals: set[str] = field(default_factory=set)
    """Names that it assigns or takes as arguments, which may hide names of the module."""
    calls: list[WatchedCall] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    """Short texts that could be paths."""
    stores: dict[str, int] = field(default_factory=dict)
    """Dotted names that are assigned to: `a.b` for `a.b = 1`."""
    touched: set[str] = field(default_factory=set)
    """First names of what is changed in place or has a method called: `a` for `a[0] = 1` and `a.append(1)`."""


class Scan(Findings):
    """One walk that writes the canonical form of a tree and collects the findings."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.out: list[str] = []
        self.imported: dict[str, int] = {}
        """The dotted names by which its imports are used, with their lines."""
        self.mentioned: set[str] = set()
        """Names in annotations that do not count."""
        self.globals: set[str] = set()
        self._annotations = False

    def visit(self, node: ast.AST, body: bool | None = None) -> None:
        """`body`: whether annotations count in the class body that holds the node; None outside of one."""
        match node:
            case ast.AnnAssign():
                self._annotated(node, body)
                return
            case ast.Import() | ast.ImportFrom():
                self._import(node)
                return
            case ast.Name() | ast.Attribute() if dotted := dotted_name(node):
                self._dotted(node, dotted)
                return
            case ast.Attribute() | ast.Subscript():
                self._chain(node)
            case ast.Constant():
                self._text(node)
            case ast.Call():
                self._call(node)
            case ast.Global(names=names):
                self.globals.update(names)
            case ast.ExceptHandler(name=str(name)):
                self.locals.add(name)
        self._fields(node)

    def _fields(self, node: ast.AST) -> None:
        cls: type = type(node)
        self.out.append(cls.__name__)
        reads = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not is_quiet(node)
        before = self._annotations
        for f in _fields_of(cls):
            self._annotations = before if isinstance(node, ast.arguments) else reads and f == "args"
            self._field(node.__dict__.get(f), reads if isinstance(node, ast.ClassDef) and f == "body" else None)
        if isinstance(node, ast.arg):
            self.locals.add(node.arg)
            self._annotation(node.annotation, before)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._annotation(node.returns, reads)
        self._annotations = before

    def _field(self, value: object, body: bool | None) -> None:
        if value.__class__ is list:
            self.out.append("[")
            for item in value:
                if not isinstance(item, ast.AST):
                    self.out.append(repr(item))
                elif has_no_effect(item, body is not None):
                    self._mention(getattr(item, "annotation", None))
                else:
                    self.visit(item, body)
            self.out.append("]")
        elif isinstance(value, ast.AST):
            self.visit(value)
        else:
            self.out.append(repr(value))

    def _annotated(self, node: ast.AnnAssign, body: bool | None) -> None:
        """`x: int = 1` is `x = 1`, but in a class body it makes a field."""
        if body is None and node.value is not None:
            self._mention(node.annotation)
            self.visit(ast.Assign([node.target], node.value))
            return
        self.out.append("AnnAssign")
        self.visit(node.target)
        self._annotation(node.annotation, bool(body))
        marks = sorted(w for w in _words(node.annotation) if w.rpartition(".")[2] in _MARKS)
        self.out.extend(marks)
        self.names.update(dict.fromkeys(marks, node.lineno))
        self._field(node.value, None)

    def _annotation(self, node: ast.expr | None, counts: bool) -> None:
        if node is not None and counts:
            self.visit(node)
        else:
            self._mention(node)

    def _mention(self, node: ast.expr | None) -> None:
        self.mentioned.update(_words(node))

    def _dotted(self, node: ast.Name | ast.Attribute, dotted: str) -> None:
        """A chain is one name: its parts before the last dot are not used by themselves."""
        self.out.append(f".{dotted}")
        line, parts = node.lineno, dotted.split(".")
        for part in HIDDEN.intersection(parts):
            self.hidden.setdefault(part, line)
        if isinstance(node.ctx, ast.Load):
            self.names.setdefault(dotted, line)
        elif len(parts) == 1:
            self.locals.add(dotted)
        else:
            self.names.setdefault(dotted.rpartition(".")[0], line)
            self.stores.setdefault(dotted, line)
            self.touched.add(parts[0])

    def _chain(self, node: ast.Attribute | ast.Subscript) -> None:
        """An attribute or an item of something other than a plain name, or an item of a name."""
        if isinstance(node, ast.Attribute) and node.attr in HIDDEN:
            self.hidden.setdefault(node.attr, node.lineno)
        if not isinstance(node.ctx, ast.Load) and (root := _root(node)):
            self.touched.add(root)

    def _text(self, node: ast.Constant) -> None:
        text = node.value
        if isinstance(text, str) and ("." in text or "/" in text) and _PATH.fullmatch(text):
            self.texts.setdefault(text, node.lineno)

    def _call(self, call: ast.Call) -> None:
        name = dotted_name(call.func)
        head, _, last = name.rpartition(".")
        if head:
            self.touched.add(name.split(".")[0])
        if last in WATCHED:
            self.calls.append(WatchedCall(name, _first_argument(call), call.lineno))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An import is not part of the form, because the digest has what its names mean."""
        bind(self.imports, node, self.file)
        self.loads.extend(loaded_by(node))
        self.imported.update(dict.fromkeys(used_as(node), node.lineno))


def is_quiet(node: ast.AST) -> bool:
    """Whether no decorator, base or keyword of a definition can read its annotations."""
    bases = [*node.bases, *(k.value for k in node.keywords)] if isinstance(node, ast.ClassDef) else []
    return is_undecorated(node) and all(_last_name(n) in QUIET for n in bases)


def is_undecorated(node: ast.AST) -> bool:
    """Whether a definition has no decorator that could register it."""
    return all(_last_name(n) in QUIET for n in getattr(node, "decorator_list", ()))


def _last_name(node: ast.expr) -> str:
    """`cache` for `functools.cache`, `lru_cache(maxsize=3)` and `Generic[T]` alike."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return dotted_name(node).rpartition(".")[2]


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes that begins with a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def has_no_effect(node: ast.AST, in_class: bool = False) -> bool:
    """Whether it is a docstring, `...`, `pass`, or a bare annotation outside a class (inside one it makes a field)."""
    match node:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(value=None):
            return not in_class
    return False


def _words(node: ast.expr | None) -> Iterator[str]:
    """Every name in an annotation, also in quotes; `a.b` gives `a`, `a.b` and `b`."""
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield from re.findall(r"[\w.]+", part.value)
        elif dotted := dotted_name(part):
            yield from (dotted, dotted.rpartition(".")[2])


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _first_argument(call: ast.Call) -> str:
    if not call.args:
        return "*" if call.keywords else ""
    first = call.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return repr(first.value)
    return dotted_name(first) or "*"


@cache
def _fields_of(cls: type) -> tuple[str, ...]:
    return tuple(f for f in cls._fields if f not in _SKIPPED)  # type: ignore[attr-defined]
