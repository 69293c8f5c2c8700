"""Edits of what a step is given and where it runs: parameters, contents of inputs, files outside, packages."""

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.python import packages, reached
from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase
from flows.store.content import Contents
from flows.store.keys import Choices
from flows.wiring.model import ChoiceValue
from tests.flows.store.proof.scenario import ROOT, Scenario
from tests.flows.store.proof.table import Table


def of_parameters(scenario: Scenario, table: Table, rng: random.Random) -> None:
    """Every parameter of every task, and of every choice: another value. Those of execution are in no key."""
    seen: set[tuple[str, str]] = set()
    choices = _choices(scenario)
    for id, node in scenario.nodes.items():
        for name, value in {**node.params, **node.execution}.items():
            for what, other in _others(name, value, ROOT):
                keyed = name in node.params
                if (node.task, what) not in seen:
                    seen.add((node.task, what))
                    which = "params" if keyed else "execution"
                    given = replace(node, **{which: {**getattr(node, which), name: other}})
                    key = scenario.key(given, choices, scenario.inputs(node, choices))
                    kind = "parameter" if keyed else "no-op: execution parameter"
                    table.counts[kind].mutants += 1
                    table.add(kind, f"{node.task}({what})", changed=key != scenario.keys[id], could=keyed)


def _choices(scenario: Scenario) -> Choices:
    return Choices(CodeIndex(Codebase()), scenario.contents, scenario.folder)


def _others(name: str, value: Any, root: Path) -> Iterator[tuple[str, Any]]:
    """(what is another, the value) for a parameter: a choice has its name and its own parameters."""
    match value:
        case ChoiceValue():
            folder = root / "tasks" / value.folder
            siblings = sorted(f.stem for f in folder.glob("*.py") if f.stem not in ("__init__", value.name))
            for sibling in siblings[:1]:
                yield f"{name}={value.name}", replace(value, name=sibling, params={})
            for inner, of in value.params.items():
                if inner != "path":  # what it names must be there
                    yield f"{name}.{value.name}.{inner}", replace(value, params={**value.params, inner: _other(of)})
        case _:
            yield name, _other(value)


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case None:
            return 1
        case _:
            return [*value, 1]


def of_inputs(scenario: Scenario, table: Table) -> None:
    """Every port of every task: content that differs in one byte or file, in its order, or is not there."""
    seen: set[tuple[str, str]] = set()
    choices = _choices(scenario)
    for id, node in scenario.nodes.items():
        inputs = scenario.inputs(node, choices)
        for port, contents in inputs.items():
            if (node.task, port) in seen:
                continue
            seen.add((node.task, port))
            for what, other in _other_contents(scenario, node.inputs[port][0], contents):
                kind = "no-op: copy of an input" if what == "copied" else "content of an input"
                key = scenario.key(node, choices, {**inputs, port: other})
                table.counts[kind].mutants += 1
                table.add(kind, f"{node.task}({port}) {what}", changed=key != scenario.keys[id], could=what != "copied")


def _other_contents(scenario: Scenario, id: str, contents: list[str]) -> Iterator[tuple[str, list[str]]]:
    copy = scenario.folder / "copied"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(scenario.made[id].path, copy)
    os.utime(next(f for f in copy.rglob("*") if f.is_file()), (1, 1))
    (copy / ".note").write_text("no content")
    yield "copied", [Contents().digest(copy), *contents[1:]]
    file = max((f for f in copy.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    yield "one bit", [Contents().digest(copy), *contents[1:]]
    (copy / "more.txt").touch()
    yield "one file more", [Contents().digest(copy), *contents[1:]]
    yield "absent", contents[1:]
    yield "twice", [*contents, contents[0]]
    if contents[1:] and contents[::-1] != contents:
        yield "in another order", contents[::-1]


def of_environment(scenario: Scenario, table: Table) -> None:
    """Versions of packages and of Python; files outside that identities name; what is in no key."""
    names = sorted({p for t in scenario.made.values() for p in t.packages} & packages.NUMBERS)
    for name in names:
        with _versions({name: "99.1"}):
            _environment(scenario, table, "version of a package", name, name)
    for name in names:
        with _versions({name: f"{packages.version(name)}+another.build"}):
            _environment(scenario, table, "no-op: build of a package", name, None)
    python, reached.PYTHON = reached.PYTHON, "3.99"
    try:
        _environment(scenario, table, "version of Python", "python", "")
    finally:
        reached.PYTHON = python
    _of_files_outside(scenario, table)


def _environment(scenario: Scenario, table: Table, kind: str, what: str, package: str | None) -> None:
    """`package`: whose users could give another result; empty: all steps; None: none."""
    table.counts[kind].mutants += 1
    before = scenario.keys
    for id, key in scenario.keys_of(scenario.nodes, ROOT).items():
        uses = package == "" or package in scenario.made[id].packages
        could = False if package is None else True if uses else None
        table.add(kind, f"{what} in {id}", changed=key != before[id], could=could)


@contextmanager
def _versions(other: Mapping[str, str]) -> Iterator[None]:
    installed = packages._installed
    packages._installed = lambda package: other.get(package) or installed(package)  # type: ignore[assignment]
    try:
        yield
    finally:
        packages._installed = installed


def _of_files_outside(scenario: Scenario, table: Table) -> None:
    """What `people`, `helpful` and `outside` read, written over with the same and with other bytes."""
    read = (("people", "pairs.jsonl"), ("helpful", "scored.jsonl"), ("outside", "policy/config.json"))
    for id, name in read:
        if id in scenario.nodes:
            path = scenario.folder / name
            text = path.read_text()
            for kind, other, could in (("no-op: file outside", text, False), ("file outside", text + "\n", True)):
                path.write_text(other)
                key = scenario.keys_of([id], ROOT)[id]
                table.counts[kind].mutants += 1
                table.add(kind, f"{path.name} in {id}", changed=key != scenario.keys[id], could=could)
            path.write_text(text)
