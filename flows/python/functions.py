"""What a Python file says of its public functions and classes, read by `ast` and kept by the file's digest."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tasks.contract import JSON
from tasks.digests import with_digest, without_digest
from tasks.files import replacing


@dataclass(frozen=True)
class Argument:
    """An argument as written. A default that is no literal is left as `code`."""

    name: str
    annotation: str
    required: bool
    default: JSON = None
    code: str = ""
    line: int = 0
    column: int = 0


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
    """A file's public functions, its classes with their bases, and its type variables with their bounds."""

    functions: Mapping[str, Function] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_source(file: Path, kept: Path | None = None) -> PublicNames:
    """Read a Python file; from the cache folder `kept` if its content was read before. Raises SyntaxError."""
    data = file.read_bytes()
    entry = kept / f"{hashlib.blake2b(data, digest_size=16, salt=_version()).hexdigest()}.json" if kept else None
    if entry is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return _load(without_digest(entry.read_bytes()))
    source = _extract(ast.parse(data, str(file)))
    if entry is not None:
        _keep(entry, source)
    return source


@cache
def _version() -> bytes:
    """An edit of this file makes everything be read anew."""
    return hashlib.blake2b(Path(__file__).read_bytes(), digest_size=16).digest()


def _keep(entry: Path, source: PublicNames) -> None:
    """A folder that cannot be written is no cache."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with replacing(entry, durable=False) as fresh:
            fresh.write_bytes(with_digest(asdict(source)))


def _load(kept: Mapping[str, Any]) -> PublicNames:
    functions = {
        name: Function(
            **{
                **f, "positional": _arguments(f["positional"]), "keywords": _arguments(f["keywords"]),
                "columns": tuple(ColumnUse(**c) for c in f["columns"]),
            }
        )
        for name, f in kept["functions"].items()
    }  # fmt: skip
    classes, variables = ({k: tuple(v) for k, v in kept[key].items()} for key in ("classes", "variables"))
    return PublicNames(functions, classes, variables)


def _arguments(kept: list[dict[str, Any]]) -> tuple[Argument, ...]:
    return tuple(Argument(**a) for a in kept)


def _extract(module: ast.Module) -> PublicNames:
    functions: dict[str, Function] = {}
    classes: dict[str, tuple[str, ...]] = {}
    variables: dict[str, tuple[str, ...]] = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            functions[node.name] = _function(node)
        elif isinstance(node, ast.ClassDef):
            classes[node.name] = tuple(ast.unparse(base) for base in node.bases)
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="TypeVar")) as call):
                variables[name] = _bounds(call)
    return PublicNames(functions, classes, variables)


def _bounds(call: ast.Call) -> tuple[str, ...]:
    bound = [ast.unparse(k.value).strip("'") for k in call.keywords if k.arg == "bound"]
    return tuple(bound or (ast.unparse(a) for a in call.args[1:]))


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
    annotation, place = _unparse(argument.annotation), (argument.lineno, argument.col_offset + 1)
    if default is None:
        return Argument(argument.arg, annotation, True, None, "", *place)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return Argument(argument.arg, annotation, False, None, ast.unparse(default), *place)
    return Argument(argument.arg, annotation, False, list(value) if isinstance(value, tuple) else value, "", *place)


def _unparse(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "" if node is None else ast.unparse(node)
