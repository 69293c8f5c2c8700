"""Automatic edits of a small tree of tasks: where the result changes, the key changes or the code is refused."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.contract import SpecError
from tests.flows.codebases import code_index
from tests.flows.python.test_edits import FILES

NUMBERS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult}
ORDERS = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.Eq: ast.NotEq, ast.In: ast.NotIn}

Edit = Callable[[], None]


def edits(node: ast.AST) -> Iterator[tuple[str, Edit]]:
    """What can be done to one node, and how."""
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            yield f"{value} + 1", lambda: setattr(node, "value", value + 1)
        case ast.Constant(value=str() as value):
            yield f"{value!r}, another", lambda: setattr(node, "value", f"{value}x")
        case ast.BinOp(op=op) if type(op) in NUMBERS:
            yield "another operator", lambda: setattr(node, "op", NUMBERS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in ORDERS:
            yield "another comparison", lambda: setattr(node, "ops", [ORDERS[type(op)]()])
        case ast.Call(args=[_, _, *_]):
            yield "arguments in another order", lambda: node.args.reverse()
        case ast.Return(value=value) if value is not None:
            yield "nothing returned", lambda: setattr(node, "value", ast.Constant(0))
        case ast.ImportFrom(names=[first, second, *_]):
            yield (
                "imports in another order",
                lambda: (
                    setattr(first, "asname", second.asname or second.name),
                    setattr(second, "asname", first.asname or first.name),
                )[0],
            )
    if getattr(node, "decorator_list", None):
        yield "no decorator", lambda: node.decorator_list.clear()  # type: ignore[attr-defined]
    for name in ("body", "orelse"):
        statements = getattr(node, name, None)
        for i in range(len(statements) if isinstance(statements, list) else 0):
            yield f"without statement {i}", lambda i=i, s=statements: s.__setitem__(i, ast.Pass())  # type: ignore[misc]


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """(what was done, the edited text) for every edit of every node."""
    tree = ast.parse(textwrap.dedent(text))
    for number, node in enumerate(ast.walk(tree)):
        for i, (what, _) in enumerate(edits(node)):
            copied = copy.deepcopy(tree)
            [*edits([*ast.walk(copied)][number])][i][1]()
            yield f"{what}, line {getattr(node, 'lineno', 0)}", ast.unparse(ast.fix_missing_locations(copied))


RUNS = """
import json, os, sys
import numpy, dataclasses, functools, typing, pathlib
sys.dont_write_bytecode = True
results = []
for root in json.loads(sys.stdin.read()):
    r, w = os.pipe()
    if os.fork() == 0:
        sys.path.insert(0, root)
        try:
            from tasks.a import task
            said = repr(task(3))
        except BaseException as e:
            said = type(e).__name__
        os.write(w, said.encode())
        os._exit(0)
    os.close(w)
    with open(r) as pipe:
        results.append(pipe.read())
    os.wait()
print(json.dumps(results))
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / "tasks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def key(root: Path, parsed: dict[str, dict[str, object]]) -> str:
    index = code_index(root)
    index._parsed = parsed  # what an earlier one has parsed
    try:
        return index.reach("tasks.a", "task").digest
    except SpecError:
        return "refused"


def test_no_automatic_edit_that_changes_the_result_leaves_the_key(tmp_path: Path) -> None:
    files = {f"{name}.py": textwrap.dedent(text) for name, text in FILES.items()} | {
        "data/words.txt": "one two",
        "__init__.py": "",
    }
    made = [("as it is", files), ("words", files | {"data/words.txt": "one two three"})]
    made += [
        (f"{n}: {what}", files | {n: text}) for n in files if n.endswith(".py") for what, text in mutants(files[n])
    ]
    roots = [write(tmp_path / str(i), changed) for i, (_, changed) in enumerate(made)]
    command = [sys.executable, "-c", RUNS]
    done = subprocess.run(
        command, input=json.dumps([str(r) for r in roots]), capture_output=True, text=True, check=True
    )
    parsed: dict[str, dict[str, object]] = {}
    results, keys = json.loads(done.stdout), [key(root, parsed) for root in roots]
    assert "Error" not in results[0]
    assert keys[0] != "refused"
    others = list(zip(made, results, keys, strict=True))[1:]
    stale = [what for (what, _), result, k in others if result != results[0] and k == keys[0]]
    assert stale == []
    assert sum(result != results[0] for _, result, _ in others) > 100
