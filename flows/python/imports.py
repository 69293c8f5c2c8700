"""The names that imports bind and the modules that they load. Star and relative imports are refused."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tasks.contract import SpecError

Binding = tuple[str, str | None]
"""What an import binds a name to: (module, name in it), or (module, None) for the module itself."""


def bind(imports: dict[str, Binding], node: ast.Import | ast.ImportFrom, file: str) -> None:
    """Add the names that an import binds. Raises SpecError where one name would mean two things."""
    for name, target in _bindings(node, file):
        if imports.setdefault(name, target) != target:
            raise SpecError(
                f"{file}:{node.lineno}: '{name}' is imported from two places; give each a name of its own, "
                "so that the key can follow both"
            )


def _bindings(node: ast.Import | ast.ImportFrom, file: str) -> Iterator[tuple[str, Binding]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.split(".")[0]
            yield (alias.asname, (alias.name, None)) if alias.asname else (top, (top, None))
        return
    if node.level:
        raise SpecError(
            f"{file}:{node.lineno}: relative imports are refused; write the whole name, so that the key can follow it"
        )
    for alias in node.names:
        if alias.name == "*":
            raise SpecError(
                f"{file}:{node.lineno}: 'from {node.module} import *' is refused; "
                "name what is imported, so that the key can follow it"
            )
        yield alias.asname or alias.name, (str(node.module), alias.name)


def used_as(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The dotted names by which code uses an import: `a.b` for `import a.b`."""
    return (alias.asname or alias.name for alias in node.names)


def loaded_by(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Modules that an import loads; `from a import b` may load `a.b` too."""
    if isinstance(node, ast.ImportFrom):
        return [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
    return [a.name for a in node.names]


def is_named(used: str, names: Iterable[str]) -> bool:
    """Whether one of these dotted names uses what is imported as `used`."""
    return any(name == used or name.startswith(f"{used}.") for name in names)
