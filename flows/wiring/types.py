"""The closed vocabulary of parameters: the annotations that are allowed, and the values that fit them."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

from flows.wiring.machine import best_dtype
from flows.wiring.tree import Yaml, fail, quoted_value
from tasks.contract import JSON, SEED, Bounds, Choice

VOCABULARY = (
    "int, float, bool, str, Seed, Literal[...], list[T], tuple[T, ...], tuple[T, T], dict[str, T], T | None, "
    "Annotated[T, Bounds(...)], Annotated[Chosen, Choice(...)], Execution[T], or a frozen dataclass of such fields"
)
DTYPES = {"float32", "bfloat16"}
"""Literals of these and `auto` are number types, whose `auto` becomes one of these."""
Mark = TypeVar("Mark", Bounds, Choice)
WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Names of the scalar types in errors."""


@dataclass(frozen=True)
class Type:
    """The values that a parameter accepts."""

    base: str
    """`int`, `float`, `bool`, `str`, `literal`, `list`, `mapping` (from texts) or `choice`."""
    optional: bool = False
    bounds: Bounds | None = None
    options: tuple[JSON, ...] = ()
    """Of a literal, and of a choice whose names are known."""
    item: Type | None = None
    size: int | None = None
    """Of a list: how long it must be."""
    choice: Choice | None = None
    execution: bool = False

    def __str__(self) -> str:
        if self.base == "literal":
            text = f"one of [{', '.join(map(str, self.options))}]"
        elif self.base == "list":
            text = f"a list{f' of {self.size}' if self.size else ''}, each {self.item}"
        elif self.base == "mapping":
            text = f"a mapping from names, each value {self.item}"
        elif self.base == "choice" and self.choice:
            text = f"one of tasks/{self.choice.folder}/"
        else:
            text = WORDS[self.base] + (f", {bounds_text(self.bounds)}" if self.bounds else "")
        return text + (" or null" if self.optional else "")


def bounds_text(bounds: Bounds) -> str:
    """`at least 1 and below 2`."""
    words = {"at least": bounds.min, "at most": bounds.max, "above": bounds.above, "below": bounds.below}
    limits = {word: limit for word, limit in words.items() if limit is not None}
    return " and ".join(f"{word} {b if isinstance(b, int) else f'{b:g}'}" for word, b in limits.items())


def parse_type(annotation: str) -> Type:
    """The type that an annotation means. Raises ValueError outside the vocabulary."""
    try:
        return _type(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError):
        raise ValueError(f"'{annotation}' is outside the vocabulary of parameters: {VOCABULARY}") from None


def _type(node: ast.expr) -> Type:
    match node:
        case ast.Name(id="int" | "float" | "bool" | "str" as base):
            return Type(base)
        case ast.Name(id="Seed"):
            return Type("int", bounds=SEED)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return replace(_type(left), optional=True)
        case ast.BinOp(left=ast.Constant(value=None), op=ast.BitOr(), right=right):
            return replace(_type(right), optional=True)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = ast.literal_eval(inner)
            return Type("literal", options=options if isinstance(options, tuple) else (options,))
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return Type("list", item=_type(inner))
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), inner])):
            return Type("mapping", item=_type(inner))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[*several, ast.Constant(value=end)])):
            [inner] = several if end is ... else []
            return Type("list", item=_type(inner))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=several)):
            [item] = {_type(inner) for inner in several}  # ValueError where they differ, or there is none
            return Type("list", item=item, size=len(several))
        case ast.Subscript(value=ast.Name(id="Execution"), slice=inner):
            return replace(_type(inner), execution=True)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *marks])):
            return _marked(inner, marks)
    raise ValueError


def _marked(inner: ast.expr, marks: list[ast.expr]) -> Type:
    kind = Type("choice") if isinstance(inner, ast.Name) and inner.id not in WORDS else _type(inner)
    for mark in marks:
        match mark:
            case ast.Call(func=ast.Name(id="Bounds")):
                kind = _bounded(kind, _called(Bounds, mark))
            case ast.Call(func=ast.Name(id="Choice")):
                kind = replace(kind, base="choice", choice=_called(Choice, mark))
            case _:
                raise ValueError
    if (kind.base == "choice") != (kind.choice is not None):
        raise ValueError
    return kind


def _bounded(kind: Type, bounds: Bounds) -> Type:
    """Bounds of a list or mapping are those of its items."""
    return replace(kind, item=_bounded(kind.item, bounds)) if kind.item else replace(kind, bounds=bounds)


def _called(mark: type[Mark], call: ast.Call) -> Mark:
    arguments = (ast.literal_eval(argument) for argument in call.args)
    return mark(*arguments, **{k.arg or "": ast.literal_eval(k.value) for k in call.keywords})


def checked_value(kind: Type, node: Yaml, what: str) -> JSON:
    """The value, converted where nothing is lost (`1` for a float). Raises SpecError, at its place, if it does not fit.

    kind: any but a choice.
    """

    def refuse(expected: object = kind) -> NoReturn:
        fail(node.where, f"{what} = {quoted_value(node)}; it must be {expected}")

    if node.missing:
        return node.plain
    value = node.value
    if value is None and kind.optional:
        return None
    if kind.base == "literal":
        for option in kind.options:
            if option == value and type(option) is type(value):
                return best_dtype() if option == "auto" and set(kind.options) >= DTYPES else option
        fail(node.where, f"{what} = {quoted_value(node)}", str(value), map(str, kind.options))
    if kind.base == "list" and kind.item is not None:
        if not isinstance(value, list) or (kind.size or len(value)) != len(value):
            refuse()
        return [checked_value(kind.item, item, f"{what}[{i}]") for i, item in enumerate(value)]
    if kind.base == "mapping" and kind.item is not None:
        if not isinstance(value, dict):
            refuse()
        return {name: checked_value(kind.item, item, f"{what}.{name}") for name, item in value.items()}
    if kind.base == "float" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        value = float(value)
    if type(value).__name__ != kind.base or (isinstance(value, float) and not math.isfinite(value)):
        refuse()
    if kind.bounds and isinstance(value, int | float) and not _in_bounds(kind.bounds, value):
        refuse(bounds_text(kind.bounds))
    return node.plain if isinstance(value, dict | list) else value


def _in_bounds(bounds: Bounds, value: float) -> bool:
    return (
        (bounds.min is None or value >= bounds.min)
        and (bounds.max is None or value <= bounds.max)
        and (bounds.above is None or value > bounds.above)
        and (bounds.below is None or value < bounds.below)
    )
