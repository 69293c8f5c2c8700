"""The Python files whose functions steps run, each parsed once: for its signatures and for its units of code.

Parses are cached in one file, by the digest of each file's content; after an edit of the readers, or with another
Python, everything is parsed again.
"""

from __future__ import annotations

import ast
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from flows.python.functions import PublicNames, public_names
from flows.python.packages import PYTHON
from flows.python.units import UnitFile, parse_units
from flows.system.json_files import read_cache, write_cache
from tasks.contract import SpecError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_READERS = ("canonical", "codebase", "functions", "imports", "units")
"""Modules after whose edit all files are parsed again."""
_MOST = 1000
"""Parsed files that the cache keeps."""
CACHE = Path(".cache/python.json")
"""The cache of parses in a store."""


@dataclass(frozen=True)
class Package:
    """A folder of Python files, and the name by which they are imported."""

    name: str
    folder: Path
    shown: str
    """Its name in messages."""


def tasks_in(folder: Path) -> Package:
    """The tasks in a folder: code imports them from `tasks`, whatever the folder's name."""
    return Package("tasks", folder, "tasks")


TASKS = tasks_in(Path(__file__).resolve().parents[2] / "tasks")


@dataclass(frozen=True)
class ParsedFile:
    """A parsed file."""

    names: PublicNames = field(default_factory=PublicNames)
    code: UnitFile = field(default_factory=UnitFile)
    fault: str = ""
    """Why no key can follow its code; empty if one can."""


class Codebase:
    """The files of `packages`, read once: make a new one to see later edits. `cache` is a file of parses."""

    def __init__(self, packages: Sequence[Package] = (TASKS,), cache: Path | None = None) -> None:
        self.packages = {p.name: p for p in packages}
        self._cache = cache
        cached = read_cache(cache) if cache else {}
        self._texts: dict[str, str] = cached["files"] if cached.get("format") == _format() else {}
        self._new = False
        self._contents: dict[str, bytes] = {}
        self._parses: dict[str, ParsedFile] = {}

    def mentions(self, module: str, text: str) -> bool:
        """Whether a module's file contains a text, which costs less than parsing it."""
        return text.encode() in self._content(module)

    def units(self, module: str) -> UnitFile:
        """The code of a module, empty if it has no file here. Raises SpecError where no key can follow it."""
        parsed = self._parsed(module)
        if parsed.fault:
            raise SpecError(parsed.fault)
        return parsed.code

    def public(self, module: str) -> PublicNames:
        """The functions and classes of a module; none if it has no file here. Raises SpecError for invalid Python."""
        return self._parsed(module).names

    def _parsed(self, module: str) -> ParsedFile:
        if module not in self._parses:
            self._parses[module] = self._read(module) if module in self.files else ParsedFile()
        return self._parses[module]

    def _content(self, module: str) -> bytes:
        if module not in self._contents:
            self._contents[module] = self.files[module].read_bytes()
        return self._contents[module]

    def _read(self, module: str) -> ParsedFile:
        data = self._content(module)
        digest = blake3(data).hexdigest(16)
        if digest in self._texts:
            return _restored(self._texts[digest])
        parsed = _parse(data, self.shown(module))
        if self._cache and not parsed.fault:
            self._texts[digest] = _adapter().dump_json(parsed).decode()
            self._new = True
        return parsed

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The file of every module."""
        return {m: file for p in self.packages.values() for m, file in sorted(_modules(p))}

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(".".join(m.split(".")[:i]) for m in self.files for i in range(1, m.count(".") + 1))

    def is_ours(self, module: str) -> bool:
        """Whether a module belongs to one of the packages."""
        return module.split(".", 1)[0] in self.packages

    def is_module(self, module: str) -> bool:
        """Whether there is such a module or folder of modules."""
        return module in self.files or module in self._folders

    def name(self, module: str) -> str:
        """A module's file as records name it, wherever the package lies: `tasks/oracles/toy_gold.py`."""
        return self._named(module, self.packages[module.split(".")[0]].name)

    def shown(self, module: str) -> str:
        """A module's file as messages name it."""
        return self._named(module, self.packages[module.split(".")[0]].shown)

    def _named(self, module: str, package: str) -> str:
        file, folder = self.files.get(module), self.packages[module.split(".")[0]].folder
        return f"{package}/{file.relative_to(folder).as_posix()}" if file else module

    def save(self) -> None:
        """Write the parses for the next command; where that fails, the next one parses again."""
        if self._cache is None or not self._new:
            return
        texts = dict(list(self._texts.items())[-_MOST:])
        write_cache(self._cache, {"format": _format(), "files": {**texts}})
        self._new = False


def _modules(package: Package) -> Iterator[tuple[str, Path]]:
    """Every module below a package's folder, with its file."""
    for base, folders, files in os.walk(package.folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__"))]
        above = [package.name, *Path(base).relative_to(package.folder).parts]
        for name in (f.removesuffix(".py") for f in files if f.endswith(".py")):
            yield ".".join(above if name == "__init__" else [*above, name]), Path(base, f"{name}.py")


@lru_cache(maxsize=_MOST)
def _parse(data: bytes, name: str) -> ParsedFile:
    collecting = gc.isenabled()
    gc.disable()  # a tree is all live objects: collecting in between doubles the time
    try:
        tree = ast.parse(data, name)
        return ParsedFile(public_names(tree), parse_units(tree, name))
    except SyntaxError as e:
        raise SpecError(f"{name}:{e.lineno or 1}:{e.offset or 1}: invalid Python: {e.msg}") from None
    except SpecError as e:
        return ParsedFile(public_names(tree), fault=str(e))
    finally:
        if collecting:
            gc.enable()


@lru_cache(maxsize=_MOST)
def _restored(text: str) -> ParsedFile:
    return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[ParsedFile]:
    from pydantic import TypeAdapter

    return TypeAdapter(ParsedFile)


@cache
def _format() -> str:
    readers = (Path(__file__).with_name(f"{name}.py") for name in _READERS)
    return f"{PYTHON} {blake3(b''.join(f.read_bytes() for f in readers)).hexdigest(16)}"
