"""Edits that move code: a function to another file, a file to another name; every import of what moved is mended."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from itertools import dropwhile

from tests.flows.store.proof.edits import bound_by, module_of, read_at_load, says_nothing

Place = tuple[str, str]
"""A module and a name in it."""


class Move:
    """A function and what it needs of its own file, moved to a new one.

    Raises ValueError where that cannot be done by a mend of imports alone.
    """

    def __init__(self, files: dict[str, str], file: str, function: str, to: str) -> None:
        self._tree = ast.parse(files[file])
        self._module, self._new = module_of(file), module_of(to)
        self._tops = {name: s for s in self._tree.body for name in bound_by(s)}
        self.moved = self._needed(function)
        others = {name: text for name, text in files.items() if name != file and self._module.split(".")[-1] in text}
        for name, text in others.items():
            self._refuse_attributes(name, ast.parse(text))
        self.files = {to: self._fresh(), file: self._rest(), **reimported(others, self._target)}

    def _target(self, module: str, name: str) -> Place:
        return (self._new if module == self._module and name in self.moved else module), name

    def _needed(self, function: str) -> list[str]:
        needed: list[str] = []
        todo = [function]
        while todo:
            name = todo.pop()
            if name in needed or name not in self._tops:
                continue
            if not isinstance(self._tops[name], ast.FunctionDef | ast.Assign):
                raise ValueError(f"{name} is neither a function nor a constant")
            needed.append(name)
            todo += _names([self._tops[name]])
        rest = [s for n, s in self._tops.items() if n not in needed]
        state = {n for n in needed if isinstance(self._tops[n], ast.Assign)}
        if any(n.id in state for s in rest for n in read_at_load(s)):
            raise ValueError("what stays reads what moves while it is loaded")
        return needed

    def _refuse_attributes(self, name: str, tree: ast.Module) -> None:
        """Refuse a file that names what moves as an attribute of its module."""
        parent, _, last = self._module.rpartition(".")
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == parent]
        bound = {alias.asname or last for n in imports for alias in n.names if alias.name == last}
        for n in ast.walk(tree):
            if isinstance(n, ast.Attribute) and n.attr in self.moved and bound & _names([n.value]):
                raise ValueError(f"{name} names what moves through its module")

    def _fresh(self) -> str:
        moved = [s for s in self._tree.body if {*bound_by(s)} & {*self.moved, "UNKEYED"}]
        used = _names(moved)
        imports = [i for s in self._tree.body for i in _pruned(s, used.__contains__) if i is not s]
        return _text([*ast.parse("from __future__ import annotations").body, *imports, *moved])

    def _rest(self) -> str:
        rest = [s for s in self._tree.body if not {*bound_by(s)} & {*self.moved}]
        used, were_used = _names(rest), _names(self._tree.body)
        kept = [k for s in rest for k in _pruned(s, lambda name: name in used or name not in were_used)]
        back = [ast.alias(name) for name in self.moved if name in used]
        code = [*dropwhile(lambda s: says_nothing(s) or getattr(s, "module", "") == "__future__", kept)]
        imported = [ast.ImportFrom(self._new, back, 0)] if back else []
        return _text([*kept[: len(kept) - len(code)], *imported, *code])


def renamed(files: dict[str, str], file: str) -> dict[str, str]:
    """A file under another name."""
    old = module_of(file)
    parent, _, last = old.rpartition(".")

    def target(module: str, name: str) -> Place:
        if module == old:
            return f"{old}_anew", name
        return module, f"{last}_anew" if (module, name) == (parent, last) else name

    changed = reimported({name: text for name, text in files.items() if last in text}, target)
    return {**changed, file.replace(".py", "_anew.py"): changed.pop(file, files[file])}


def reimported(files: dict[str, str], target: Callable[[str, str], Place]) -> dict[str, str]:
    """Those of the files in which `target` gives an import another place, with that place."""
    texts = {}
    for name, text in files.items():
        mend = _Mend(target)
        tree = mend.visit(ast.parse(text))
        if mend.changed:
            texts[name] = ast.unparse(ast.fix_missing_locations(tree))
    return texts


class _Mend(ast.NodeTransformer):
    def __init__(self, target: Callable[[str, str], Place]) -> None:
        self._target, self.changed = target, False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        by_module: dict[str, list[ast.alias]] = {}
        for alias in node.names:
            module, name = self._target(str(node.module), alias.name)
            self.changed |= (module, name) != (node.module, alias.name)
            bound = alias.asname or alias.name
            by_module.setdefault(module, []).append(ast.alias(name, None if bound == name else bound))
        return [ast.ImportFrom(module, names, 0) for module, names in by_module.items()]


def _pruned(statement: ast.stmt, keep: Callable[[str], bool]) -> list[ast.stmt]:
    """An import without the names that are not kept; another statement as it is."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return [statement]
    names = [a for a in statement.names if keep((a.asname or a.name).split(".")[0])]
    if not names:
        return []
    return [ast.Import(names) if isinstance(statement, ast.Import) else ast.ImportFrom(statement.module, names, 0)]


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def _text(body: list[ast.stmt]) -> str:
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))
