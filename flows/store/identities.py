"""What steps read outside of the store: choices name it by `identity()`; paths that no identity covers are refused."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.python.code_index import CodeIndex
from flows.python.loading import fresh_module
from flows.store.content import Contents
from flows.wiring.model import ChoiceValue, Value
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from flows.wiring.catalogue import Catalogue
    from flows.wiring.model import Node
    from flows.wiring.signatures import Param, Signature

READS_OUTSIDE = "READS_OUTSIDE"
"""Defined in the `__init__.py` of a folder whose choices must each declare what they read."""
Identity = Callable[..., Mapping[str, "str | Path"]]
_PATH_NAME = re.compile(r"(.*_)?(path|file|filename|dir|directory|folder|checkpoint)s?")
_LIKE_A_PATH = re.compile(r"~.*|.*/.*|[^\s/]+\.\w{1,10}", re.S)
_BY_CHOICE = "a task reads files by a choice, whose identity() names them"
_HOW = (
    "define identity(*, online, base, ...), which names what it reads (paths count by their content), or write "
    "`identity = None` where it reads nothing outside"
)


class Identities:
    """Calls the `identity()` of choices, once each. `base` is the folder that relative paths are relative to.

    `online`: they may use the network.
    """

    def __init__(self, code: CodeIndex, contents: Contents, base: Path, *, online: bool) -> None:
        self._code, self._contents = code, contents
        self.base, self._online = base, online
        self._values: dict[str, Mapping[str, str | Path]] = {}
        self._digests: dict[str, dict[str, str]] = {}

    def of(self, choice: ChoiceValue) -> dict[str, str]:
        """What the choice's `identity()` returns, with content digests for paths; empty if it reads nothing."""
        name = _name(choice)
        if name not in self._digests:
            self._digests[name] = {k: self._content(v) for k, v in sorted(self._identity(choice).items())}
        return self._digests[name]

    def paths(self, choice: ChoiceValue, digests: Mapping[str, str] | None = None) -> dict[Path, str]:
        """The files and folders that the choice reads, with the digests that keys hold: `digests`, or those of `of`."""
        held = self.of(choice) if digests is None else digests
        values = self._identity(choice).items()
        return {self.base / v: held.get(k, "") for k, v in values if isinstance(v, Path)}

    def _content(self, value: str | Path) -> str:
        return self._contents.digest(self.base / value) if isinstance(value, Path) else value

    def _identity(self, choice: ChoiceValue) -> Mapping[str, str | Path]:
        name = _name(choice)
        if name not in self._values:
            require_identity(self._code, choice.module, choice.name)
            has_one = self._code.is_function(choice.module, "identity")
            self._values[name] = self._call(choice) if has_one else {}
        return self._values[name]

    def _call(self, choice: ChoiceValue) -> Mapping[str, str | Path]:
        given = {"online": self._online, "base": self.base, **choice.params}
        file = self._code.codebase.shown(choice.module)
        try:
            function: Identity = fresh_module(self._code.codebase, choice.module).identity
            if missing := [n for n in given if not _takes(function, n)]:
                raise SpecError(f"{file}: identity() must take {missing}, as '{choice.name}' does")
            return function(**given)
        except (SpecError, DataError):
            raise
        except Exception as e:
            raise SpecError(f"{file}: identity() of '{choice.name}' failed: {type(e).__name__}: {e}") from e

    def refuse_unseen(self, node: Node) -> None:
        """Refuse a parameter whose value is a path that exists and that no identity covers."""
        for name, value in node.params.items():
            if self._exists(value):
                raise self._unseen(node, name, value, _BY_CHOICE)
        for name, choice in choices_of(node.params):
            for key, value in choice.params.items():
                if self._exists(value) and not covers(self._code, choice.module, key):
                    file = self._code.codebase.shown(choice.module)
                    raise self._unseen(node, f"{name}.{choice.name}.{key}", value, f"{file}: {_HOW}")

    def _unseen(self, node: Node, name: str, value: object, advice: str) -> SpecError:
        return SpecError(f"{node.where}: {node.id}.{name} = {value!r} is a path whose content is in no key; {advice}")

    def _exists(self, value: object) -> bool:
        """Whether a value, or one of a list, is written like a path and names something that is there."""
        if isinstance(value, list | tuple):
            return any(self._exists(v) for v in value)
        if not isinstance(value, str) or len(value) > 1000 or not _LIKE_A_PATH.fullmatch(value):
            return False
        try:
            return (self.base / Path(value).expanduser()).exists()
        except (OSError, RuntimeError, ValueError):
            return False


def _takes(function: Identity, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def require_identity(code: CodeIndex, module: str, name: str) -> None:
    """Refuse a choice that does not declare what it reads, in a folder whose choices must."""
    folder = module.split(".")[1]
    must = any(code.defines(f"{package}.{folder}", READS_OUTSIDE) for package in code.codebase.packages)
    if must and not code.defines(module, "identity"):
        raise SpecError(f"{code.place(module, name)}: '{name}' does not declare what it reads outside: {_HOW}")


def covers(code: CodeIndex, module: str, param: str) -> bool:
    """Whether the `identity` of a choice's file takes a parameter and uses it."""
    return code.is_function(module, "identity") and code.uses_argument(module, "identity", param)


def check_outside(code: CodeIndex, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """(file, error) for each task or choice that may read files which are in no key."""
    from flows.wiring.where import Where

    tasks = [*catalogue.tasks.values(), *catalogue.composites.values()]
    for signature in tasks:
        for param in filter(_names_a_path, signature.params.values()):
            yield _uncovered(code, signature, param, _BY_CHOICE)
    for folder in sorted({p.type.choice.folder for s in tasks for p in s.params.values() if p.type.choice}):
        for name in catalogue.choices(folder):
            yield from _of_choice(code, catalogue.choice(folder, name, Where(folder), folder))


def _of_choice(code: CodeIndex, signature: Signature) -> Iterator[tuple[str, str]]:
    try:
        require_identity(code, signature.module, signature.name)
    except SpecError as e:
        yield code.codebase.shown(signature.module), str(e)
        return
    for param in filter(_names_a_path, signature.params.values()):
        if not covers(code, signature.module, param.name):
            yield _uncovered(code, signature, param, _HOW)


def _uncovered(code: CodeIndex, signature: Signature, param: Param, advice: str) -> tuple[str, str]:
    place = code.place(signature.module, signature.name)
    text = f"{place}: {signature.name}({param.name}) names a path whose content is in no key: {advice}"
    return code.codebase.shown(signature.module), text


def _names_a_path(param: Param) -> bool:
    kind = param.type.item or param.type
    return kind.base == "str" and not param.type.execution and bool(_PATH_NAME.fullmatch(param.name))


def choices_of(params: Mapping[str, Value | Sequence[Value]]) -> Iterator[tuple[str, ChoiceValue]]:
    """The choices among parameters, by name; those of a list with their number."""
    for name, value in sorted(params.items()):
        several = value if isinstance(value, list | tuple) else [value]
        for i, one in enumerate(several):
            if isinstance(one, ChoiceValue):
                yield (name if one is value else f"{name}.{i}"), one


def _name(choice: ChoiceValue) -> str:
    return json.dumps([choice.folder, choice.name, choice.params], sort_keys=True)
