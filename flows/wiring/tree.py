"""YAML as a tree in which every key and value has its place in the file.

YAML 1.2, core schema: `5e-7` is a number, `on` is a word, a date stays text. Tags, anchors, several documents and
duplicate keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from flows.wiring.where import Where
from tasks.contract import JSON, SpecError

COMMAND_LINE = Where("command line")
_DEEPEST = 40
_LARGEST = 2**63 - 1
"""Of whole numbers: what the packages that compute with them hold."""
_LONGEST_DIGITS = 400
"""Of a number's digits; the longest floating point numbers need fewer."""
_LONGEST_KEY = 200
_QUOTED = 80
"""Letters of a value that a message quotes."""
_LONG = 20
"""Names in a list that is long."""

Scalar = None | bool | int | float | str

_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Scalar]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: float("nan")),
)


class Missing(str):
    """Stands for the value of a required parameter where any value is accepted (`check`, `graph`).

    As the name of a choice it is one of those that could be chosen.
    """


@dataclass(frozen=True, eq=False)
class Yaml:
    """A value and its place. The values of a mapping have the places of their keys as well."""

    value: Scalar | list[Yaml] | dict[str, Yaml]
    where: Where
    key: Where | None = None
    origins: tuple[str, ...] = ()
    """Parameters of the pipeline through which the value came here."""

    @property
    def missing(self) -> bool:
        """Whether this is in place of a value that has not been given yet."""
        return isinstance(self.value, Missing)

    @property
    def plain(self) -> JSON:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {k: v.plain for k, v in self.value.items()}
        return [v.plain for v in self.value] if isinstance(self.value, list) else self.value

    @property
    def place(self) -> Where:
        """The place of the key, or of the value if there is none: where an error about the whole entry points."""
        return self.key or self.where

    def walk(self) -> Iterator[Yaml]:
        """The node and every node below it."""
        yield self
        for node in entries(self).values() if not isinstance(self.value, list) else self.value:
            yield from node.walk()

    def through(self, parameter: str) -> Yaml:
        """The same value, as that of a parameter."""
        return replace(self, origins=(*self.origins, parameter))


def yaml_from_json(value: JSON, where: Where, origins: tuple[str, ...] = ()) -> Yaml:
    """A tree of which every node has the place `where`."""
    if isinstance(value, Mapping):
        return Yaml({k: yaml_from_json(v, where) for k, v in value.items()}, where, where, origins)
    if isinstance(value, list | tuple):
        return Yaml([yaml_from_json(v, where) for v in value], where, where, origins)
    return Yaml(value, where, where, origins)


def fail(where: Where, text: str, got: str | None = None, allowed: Iterable[str] = ()) -> NoReturn:
    """Raise SpecError: where, what was wrong, what was allowed, and which of that is nearest to `got`.

    The nearest stands before a long list, at whose end nobody would find it.
    """
    names = sorted(set(allowed))
    choices = f"; choose one of [{', '.join(names)}]" if names else ""
    others = [name for name in names if name != got]
    near = get_close_matches(got[:_QUOTED], others, 1, 0.6) if got else []
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise SpecError(f"{where}: {text}{hint}{choices}" if len(names) > _LONG else f"{where}: {text}{choices}{hint}")


def mapping(node: Yaml, what: str, allowed: Iterable[str] | None = None) -> dict[str, Yaml]:
    """The entries of a mapping (none for null), whose keys are all among `allowed`. Raises SpecError."""
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        fail(node.where, f"{what} must be a mapping, not {quoted_value(node)}")
    known = None if allowed is None else list(allowed)
    for key, value in node.value.items():
        if known is not None and key not in known:
            fail(value.place, f"{what} has no key '{key}'", key, known)
    return node.value


def entries(node: Yaml | None) -> Mapping[str, Yaml]:
    """The entries of a mapping; none for anything else."""
    return node.value if node is not None and isinstance(node.value, dict) else {}


def quoted_value(node: Yaml) -> str:
    """The value as an error quotes it."""
    return quoted(node.plain)


def quoted(value: object) -> str:
    """A value as Python writes it, control characters escaped, in at most 80 letters."""
    text = repr(value)
    return text if len(text) < _QUOTED else text[: _QUOTED - 3] + "…"


def parse_yaml(text: str, file: str | None) -> Yaml:
    """Parse one YAML document. `file` is what errors call it; None is the command line. Raises SpecError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    where = Where(file, 1, 1) if file else COMMAND_LINE
    if file is None:
        _check_characters(text, where)
    try:
        return _Reader(YAML(typ="safe").parse(text), file).document(where)
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = Where(file, mark.line + 1, mark.column + 1) if file and mark else where
        fail(place, f"invalid YAML: {e.problem or e.context}{'' if file else f' in {quoted(text)}'}")
    except YAMLError as e:
        fail(where, f"invalid YAML: {' '.join(str(e).split())}")


_parsed_file = lru_cache(maxsize=8)(parse_yaml)
"""One command reads a file several times."""


def read(file: Path) -> Yaml:
    """Parse a file. Raises SpecError if it cannot be read."""
    name = name_of(file)
    try:
        return _parsed_file(file.read_text(encoding="utf-8-sig"), name)
    except FileNotFoundError:
        fail(Where(name), "there is no such file")
    except (OSError, UnicodeDecodeError) as e:
        fail(Where(name), f"cannot be read: {e}")


def name_of(file: Path) -> str:
    """The path as people click on it: relative to the working directory if it is below it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


class _Reader:
    """Builds the tree from the parser's events."""

    def __init__(self, events: Iterable[Any], file: str | None) -> None:
        self._events = iter(events)
        self._file = file

    def document(self, where: Where) -> Yaml:
        documents: list[Yaml] = []
        for event in self._events:
            if type(event).__name__ in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent", "AliasEvent"):
                documents.append(self._node(event, 0))
            elif type(event).__name__ == "DocumentStartEvent" and documents:
                fail(self._where(event), "a second YAML document; one is enough")
        return documents[0] if documents else Yaml(None, where)

    def _where(self, event: Any) -> Where:
        mark = event.start_mark
        return Where(self._file, mark.line + 1, mark.column + 1) if self._file else COMMAND_LINE

    def _node(self, event: Any, depth: int) -> Yaml:
        where, name = self._where(event), type(event).__name__
        if depth > _DEEPEST:
            fail(where, f"nested more than {_DEEPEST} deep")
        if name == "AliasEvent" or event.anchor:
            fail(where, "anchors and aliases are not part of the grammar: use a parameter or `extends`")
        if event.tag is not None:
            fail(where, f"tags are not part of the grammar: {event.tag}")
        if name == "ScalarEvent":
            return Yaml(_scalar(event, where), where)
        if name == "SequenceStartEvent":
            return Yaml([self._node(item, depth + 1) for item in self._until("SequenceEndEvent")], where)
        return Yaml(self._entries(depth), where)

    def _entries(self, depth: int) -> dict[str, Yaml]:
        entries: dict[str, Yaml] = {}
        for event in self._until("MappingEndEvent"):
            where = self._where(event)
            if type(event).__name__ != "ScalarEvent":
                fail(where, "a key must be a word")
            key = self._node(event, depth + 1)
            name = str(event.value)
            if len(name) > _LONGEST_KEY or not name.isprintable():
                fail(key.where, f"{quoted(name)} is an invalid key: at most {_LONGEST_KEY} printable letters")
            if name in entries:
                fail(key.where, f"the key {quoted(name)} is used twice: first at {entries[name].key}")
            entries[name] = replace(self._node(next(self._events), depth + 1), key=key.where)
        return entries

    def _until(self, end: str) -> Iterator[Any]:
        for event in self._events:
            if type(event).__name__ == end:
                return
            yield event


def _scalar(event: Any, where: Where) -> Scalar:
    text = str(event.value)
    _check_characters(text, where)
    if event.implicit[0]:
        for pattern, convert in _CORE:
            if pattern.fullmatch(text):
                return _number(text, convert, where)
    return text


def _check_characters(text: str, where: Where) -> None:
    """Refuse characters that neither a text file nor the name of a file can have."""
    bad = re.search("[\0\ud800-\udfff]", text)
    if bad:
        near = quoted(text[max(0, bad.start() - 20) : bad.end() + 20])
        fail(where, f"{near} holds a NUL or half of a surrogate pair, which no text can have")


def _number(text: str, convert: Callable[[str], Scalar], where: Where) -> Scalar:
    if len(text) > _LONGEST_DIGITS:
        fail(where, f"{quoted(text)} is a number of {len(text)} digits; at most {_LONGEST_DIGITS} are read")
    value = convert(text)
    if isinstance(value, int) and abs(value) > _LARGEST:
        fail(where, f"{text} is too large for a whole number: at most 2^63 − 1 (1.0e20 is a number)")
    return value
