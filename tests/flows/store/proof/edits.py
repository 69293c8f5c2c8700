"""Automatic edits of source: those that may change what code does, and those that cannot."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NUMBERS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
}  # fmt: skip
_ORDERS = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.GtE: ast.Gt, ast.LtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
           ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}  # fmt: skip
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Edit:
    """One edit of one file, and where it is."""

    kind: str
    file: str
    number: int
    """Of its node among those of the file."""
    spot: Spot


@dataclass(frozen=True)
class Spot:
    """A node of the code, and the statement that it is in."""

    node: ast.AST
    unit: str
    """Name of the top-level statement that it is in; empty where that binds none."""
    lines: tuple[int, int]
    """First and last line of the statement that it is in, of a compound one those before its body."""
    inside: bool
    """Whether that statement runs when a function is called, not when the file is loaded."""
    header: bool
    """Whether it is in the decorators or defaults of a function."""
    last: int
    """Last line of the statement, its body included."""


def edits(file: str, text: str) -> Iterator[Edit]:
    """Everything that can be done to a file."""
    tree = ast.parse(text)
    for number, spot in enumerate(_spots(tree)):
        for kind, _ in _changes(spot.node, spot, tree):
            yield Edit(kind, file, number, spot)


def edited(edit: Edit, text: str) -> str:
    """The text of the file with an edit."""
    tree = ast.parse(text)
    spot = list(_spots(tree))[edit.number]
    dict(_changes(spot.node, spot, tree))[edit.kind]()
    return ast.unparse(ast.fix_missing_locations(tree))


def _spots(tree: ast.Module) -> Iterator[Spot]:
    """Every node of the code that counts: no imports, docstrings or annotations."""
    for top in tree.body:
        if isinstance(top, ast.Import | ast.ImportFrom | ast.If) or says_nothing(top) or _defines(top, "UNKEYED"):
            continue
        unit = top.name if isinstance(top, _DEFINITIONS) else next(iter(bound_by(top)), "")
        yield from _within(top, unit, False)


def _within(statement: ast.stmt, unit: str, inside: bool) -> Iterator[Spot]:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else statement.end_lineno or statement.lineno
    decorators = [d.lineno for d in getattr(statement, "decorator_list", ())]
    lines = (min([statement.lineno, *decorators]), max(last, statement.lineno))
    is_function = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
    end = statement.end_lineno or statement.lineno
    yield Spot(statement, unit, lines, inside, is_function, end)
    for name, value in ast.iter_fields(statement):
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.stmt):
                if not says_nothing(node) and not isinstance(node, ast.Import | ast.ImportFrom):
                    yield from _within(node, unit, inside or is_function)
            elif isinstance(node, ast.ExceptHandler | ast.match_case):
                for inner in node.body:
                    yield from _within(inner, unit, inside)
            elif isinstance(node, ast.AST) and name not in ("annotation", "returns"):
                yield from (Spot(n, unit, lines, inside, is_function, end) for n in _expressions(node))


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _expressions(child)


def _changes(node: ast.AST, spot: Spot, tree: ast.Module) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be done to one node, by kind."""

    def put(**values: object) -> Callable[[], None]:
        return lambda: node.__dict__.update(values)

    where = "default or decorator" if spot.header else "module or class state" if not spot.inside else ""
    match node:
        case ast.Constant(value=bool() as value):
            yield where or "constant", put(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield where or "constant", put(value=value + 1)
        case ast.Constant(value=str() as value):
            yield where or "text", put(value=f"{value}x")
        case ast.BinOp(op=op) if type(op) in _NUMBERS:
            yield where or "operator", put(op=_NUMBERS[type(op)]())
        case ast.BoolOp(op=op):
            yield where or "operator", put(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield where or "operator", put(op=ast.UAdd())
        case ast.Compare(ops=[op]) if type(op) in _ORDERS:
            yield where or "comparison", put(ops=[_ORDERS[type(op)]()])
        case ast.Call(args=[_, _, *_]) if [*map(ast.dump, node.args)] != [*map(ast.dump, node.args[::-1])]:
            yield where or "order of arguments", put(args=node.args[::-1])
        case ast.Call(keywords=[_, *_]):
            yield where or "argument left out", put(keywords=node.keywords[1:])
        case ast.Name(id=name, ctx=ast.Load()) if name in (ours := _functions(tree)) and len(ours) > 1:
            yield "helper swapped", put(id=ours[ours.index(name) - 1])
        case ast.Return(value=ast.AST()):
            yield "value returned", put(value=ast.Constant(None))
        case ast.If() | ast.While():
            yield "branch negated", put(test=ast.UnaryOp(ast.Not(), node.test))
        case ast.IfExp():
            yield "branch negated", put(body=node.orelse, orelse=node.body)
        case ast.Assign() | ast.AugAssign() | ast.Expr() if spot.inside:
            yield "statement left out", _passed(node)
        case ast.FunctionDef() | ast.ClassDef() if node.decorator_list:
            yield "decorator left out", put(decorator_list=node.decorator_list[1:])
        case ast.FunctionDef() if not node.decorator_list and not spot.inside:
            yield "decorator added", put(decorator_list=[ast.parse("(lambda f: f)").body[0].value])  # type: ignore[attr-defined]


def _passed(node: ast.AST) -> Callable[[], None]:
    def change() -> None:
        node.__class__ = ast.Expr  # type: ignore[assignment]
        node.__dict__.update(value=ast.Constant(None))

    return change


def _functions(tree: ast.Module) -> list[str]:
    return [s.name for s in tree.body if isinstance(s, ast.FunctionDef)]


def bound_by(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(statement, _DEFINITIONS):
        return [statement.name]
    return sorted({n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)})


def _defines(statement: ast.stmt, name: str) -> bool:
    return name in bound_by(statement)


def says_nothing(node: ast.AST) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


# Edits that change no result


def without_docstrings(text: str) -> str:
    """Other docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (*_DEFINITIONS, ast.Module)) and node.body and says_nothing(node.body[0]):
            node.body[0] = ast.Expr(ast.Constant("Another text."))
    return ast.unparse(tree)


def reformatted(text: str) -> str:
    """Neither comments nor line breaks as before."""
    return "# Another remark.\n\n\n" + ast.unparse(ast.parse(text)) + "\n# The end.\n"


def reannotated(text: str) -> str:
    """Other annotations of the arguments and results of functions; of variables in them."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                argument.annotation = argument.annotation and _optional(argument.annotation)
            node.returns = node.returns and _optional(node.returns)
    return ast.unparse(ast.fix_missing_locations(tree))


def _optional(annotation: ast.expr) -> ast.expr:
    """Names what it named: an import that nothing names any more is there for what loading does."""
    return ast.BinOp(annotation, ast.BitOr(), ast.Constant(None))


def reordered(text: str, rng: random.Random) -> str:
    """The functions of a file in another order (those that nothing at the top of the file needs while it is loaded)."""
    tree = ast.parse(text)
    named = {n.id for s in tree.body for n in read_at_load(s)}
    places = [
        i
        for i, s in enumerate(tree.body)
        if isinstance(s, ast.FunctionDef) and not s.decorator_list and s.name not in named
    ]
    shuffled = rng.sample(places, len(places))
    tree.body = [tree.body[dict(zip(places, shuffled, strict=True)).get(i, i)] for i in range(len(tree.body))]
    return ast.unparse(tree)


def read_at_load(statement: ast.stmt) -> Iterator[ast.Name]:
    """Names that are read while a file is loaded."""
    if isinstance(statement, ast.FunctionDef):
        parts: list[ast.AST] = [
            *statement.decorator_list, *statement.args.defaults, *filter(None, statement.args.kw_defaults),
        ]  # fmt: skip
    else:
        parts = [statement]
    yield from (n for p in parts for n in ast.walk(p) if isinstance(n, ast.Name))


def module_of(file: str) -> str:
    """`tasks.losses` for `tasks/losses/__init__.py`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def functions(text: str) -> list[str]:
    """Top-level functions without decorators."""
    return [s.name for s in ast.parse(text).body if isinstance(s, ast.FunctionDef) and not s.decorator_list]


def with_data(text: str, rng: random.Random, ran: frozenset[int]) -> tuple[str, frozenset[int]] | None:
    """A function that ran made to read `tasks/data/proof.txt`, and the lines of its body; None where none ran."""
    tree = ast.parse(text)
    bodies = [(s, _lines(s)) for s in tree.body if isinstance(s, ast.FunctionDef) and ran & _lines(s)]
    if not bodies:
        return None
    function, lines = rng.choice(bodies)
    reading = "from tasks.contract import data_file\ndata_file('proof.txt').read_text()"
    function.body[1 if says_nothing(function.body[0]) else 0 : 0] = ast.parse(reading).body
    return ast.unparse(tree), lines


def _lines(function: ast.FunctionDef) -> frozenset[int]:
    """Of its body."""
    return frozenset(range(function.body[0].lineno, (function.end_lineno or 0) + 1))
