"""The public functions and classes of a Python file, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any


@dataclass(frozen=True)
class Argument:
    """An argument as written. A default that is not a literal is left as `code`."""

    name: str
    annotation: str
    required: bool
    default: Any = None
    code: str = ""
    line: int = 0
    column: int = 0
    doc: str = ""
    """Of a field of a dataclass: the text below it."""


@dataclass(frozen=True)
class ColumnUse:
    """A column of a data frame that a function reads by its literal name."""

    name: str
    line: int
    column: int


@dataclass(frozen=True)
class Function:
    """A public top-level function as written."""

    name: str
    line: int
    positional: tuple[Argument, ...]
    keywords: tuple[Argument, ...]
    returns: str
    doc: str
    columns: tuple[ColumnUse, ...] = ()
    """Those of its first argument, where that is a data frame, but for those that it makes itself."""


@dataclass(frozen=True)
class PublicNames:
    """A file's public functions, its classes with their bases, its type variables with their bounds, and the fields of
    its dataclasses."""

    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fields: dict[str, tuple[Argument, ...]] = field(default_factory=dict)


def public_names(module: ast.Module) -> PublicNames:
    """The names of a parsed file."""
    names = PublicNames()
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) if not name.startswith("_"):
                names.functions[name] = _function(node)
            case ast.ClassDef(name=name):
                names.classes[name] = tuple(ast.unparse(base) for base in node.bases)
                if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                    names.fields[name] = tuple(_fields(node))
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="TypeVar")) as call):
                bound = [ast.unparse(k.value).strip("'") for k in call.keywords if k.arg == "bound"]
                names.variables[name] = tuple(bound or (ast.unparse(a) for a in call.args[1:]))
    return names


def _fields(node: ast.ClassDef) -> Iterator[Argument]:
    """The annotated fields of a class, each with the text below it."""
    for statement, below in zip_longest(node.body, node.body[1:]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = ast.copy_location(ast.arg(statement.target.id, statement.annotation), statement)
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            yield replace(_argument(name, statement.value), doc=" ".join(str(text).split()))


def _function(node: ast.FunctionDef) -> Function:
    arguments = [*node.args.posonlyargs, *node.args.args]
    without = len(arguments) - len(node.args.defaults)
    defaults = [None] * without + list(node.args.defaults)
    return Function(
        node.name,
        node.lineno,
        tuple(_argument(a, d) for a, d in zip(arguments, defaults, strict=True)),
        tuple(_argument(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)),
        _unparse(node.returns),
        ast.get_docstring(node) or "",
        _columns(node, arguments[0].arg) if arguments else (),
    )


def _columns(function: ast.FunctionDef, frame: str) -> tuple[ColumnUse, ...]:
    """The columns in `pl.col("x")` and `frame["x"]`, less those that `.alias("x")` and `with_columns(x=…)` make."""
    read: list[ColumnUse] = []
    made: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Attribute(attr="col"), args=[ast.Constant(value=str(name)), *_]):
                read.append(ColumnUse(name, node.args[0].lineno, node.args[0].col_offset + 1))
            case ast.Subscript(value=ast.Name(id=of), slice=ast.Constant(value=str(name))) if of == frame:
                read.append(ColumnUse(name, node.slice.lineno, node.slice.col_offset + 1))
            case ast.Call(func=ast.Attribute(attr="alias"), args=[ast.Constant(value=str(name))]):
                made.add(name)
            case ast.Call(func=ast.Attribute(attr="with_columns"), keywords=keywords):
                made.update(k.arg for k in keywords if k.arg)
    return tuple(c for c in read if c.name not in made)


def _argument(argument: ast.arg, default: ast.expr | None) -> Argument:
    value, code = None, ""
    try:
        value = ast.literal_eval(default) if default else None
    except ValueError:
        code = ast.unparse(default) if default else ""
    return Argument(
        argument.arg, _unparse(argument.annotation), default is None,
        list(value) if isinstance(value, tuple) else value, code, argument.lineno, argument.col_offset + 1,
    )  # fmt: skip


def _unparse(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "" if node is None else ast.unparse(node)
