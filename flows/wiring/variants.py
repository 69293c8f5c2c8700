"""`extends`: a pipeline that is another one, of the same file or of another, and a difference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flows.wiring.extensions import Extension, extensions
from flows.wiring.grammar import FILE, NAME_RULE, PIPELINE_NAME, Ancestor
from flows.wiring.tree import Yaml, entries, fail, mapping, name_of, quoted, quoted_value, read

_VALUES: Mapping[str, Any] = {"*": None}
_STEPS: Mapping[str, Any] = {"*": _VALUES}
_SHAPE: Mapping[str, Any] = {
    "params": _VALUES,
    "steps": _STEPS,
    "repeat": {"times": None, "start": _VALUES, "each": _VALUES, "steps": _STEPS},
    "after": _STEPS,
}
"""The mappings that are merged key by key; None: replaced whole."""
SHIPPED = Path(__file__).resolve().parents[1] / "pipelines.yaml"
"""The wirings that come with this package."""
_NOT_INHERITED = ("about", "deployments", "extends")


class PipelinePlace(NamedTuple):
    """A pipeline in a file."""

    file: Path
    name: str


class Files:
    """The pipelines of files as written. Each file is read once, on demand."""

    def __init__(self) -> None:
        self._files: dict[Path, Mapping[str, Yaml]] = {}
        self._extensions: dict[Path, tuple[Extension, ...]] = {}
        self._profiles: dict[Path, Mapping[str, Yaml]] = {}
        self._places: dict[Path, Path] = {}

    def place(self, file: Path) -> Path:
        """The file behind all links."""
        if file not in self._places:
            self._places[file] = file.resolve()
        return self._places[file]

    def extensions(self, file: Path) -> tuple[Extension, ...]:
        """The packages that extend a file. Raises SpecError."""
        self.pipelines(file)
        return self._extensions[self.place(file)]

    def profiles(self, file: Path) -> Mapping[str, Yaml]:
        """The profiles of a file as written. Raises SpecError."""
        self.pipelines(file)
        return self._profiles[self.place(file)]

    def pipelines(self, file: Path) -> Mapping[str, Yaml]:
        """The pipelines of a file. Raises SpecError where it cannot be read or holds something else."""
        place = self.place(file)
        if place not in self._files:
            top = mapping(read(place), "the file", FILE)
            self._extensions[place] = tuple(extensions(top.get("extend"), place.parent))
            self._profiles[place] = mapping(top["profiles"], "profiles") if "profiles" in top else {}
            pipelines = mapping(top["pipelines"], "pipelines") if "pipelines" in top else {}
            for name, node in pipelines.items():
                if not re.fullmatch(PIPELINE_NAME, name):
                    fail(node.place, f"{quoted(name)} is an invalid name for a pipeline ({NAME_RULE})")
            self._files[place] = pipelines
        return self._files[place]


def line_of_places(files: Files, file: Path, name: str) -> list[PipelinePlace]:
    """Where a pipeline and those that it extends stand, nearest first. Raises SpecError on a circle or unknown name."""
    places = [PipelinePlace(files.place(file), name)]
    while (extends := _extends(files, places[-1])) is not None:
        base = _base(files, places[-1], extends)
        places.append(base)
        if base in places[:-1]:
            names = [p.name if p.file == places[0].file else f"{name_of(p.file)}#{p.name}" for p in places]
            fail(extends.where, f"a circle of extends: {' → '.join(names)}")
    return places


def variant_line(files: Files, file: Path, name: str) -> tuple[Ancestor, ...]:
    """The pipeline and those that it extends, nearest first. Raises SpecError."""
    line: list[Ancestor] = []
    for place in reversed(line_of_places(files, file, name)):
        own = files.pipelines(place.file)[place.name]
        whole = _inheriting(line[0].whole, own, place.name) if line else own
        line.insert(0, Ancestor(own, whole))
    return tuple(line)


def _extends(files: Files, place: PipelinePlace) -> Yaml | None:
    return mapping(files.pipelines(place.file)[place.name], f"pipeline '{place.name}'").get("extends")


def _base(files: Files, place: PipelinePlace, extends: Yaml) -> PipelinePlace:
    """The pipeline that NAME, FILE#NAME with a path from the file of `place`, or alignflow#NAME means."""
    what = f"{place.name}.extends = {quoted_value(extends)}"
    path, other, name = str(extends.value).rpartition("#")
    file = (SHIPPED if path == "alignflow" else place.file.parent / path).resolve() if other else place.file
    if not file.is_file():
        forms = "NAME, FILE#NAME with a path from here, or alignflow#NAME"
        fail(extends.where, f"{what}; there is no file {name_of(file)} ({forms})")
    known = files.pipelines(file)
    if name not in known:
        others = [n for n in known if PipelinePlace(file, n) != place]
        there = f" in {name_of(file)}" if other else ""
        fail(extends.where, f"{what}; there is no such pipeline{there}", name, others)
    return PipelinePlace(file, name)


def _inheriting(base: Yaml, own: Yaml, name: str) -> Yaml:
    inherited = {k: v for k, v in mapping(base, name).items() if k not in _NOT_INHERITED}
    return _merged(replace(base, value=inherited), own, _SHAPE, name)


def _merged(base: Yaml, own: Yaml, shape: Mapping[str, Any] | None, path: str) -> Yaml:
    if shape is None or not isinstance(base.value, dict) or not isinstance(own.value, dict) or _replaces(own, path):
        return own
    result = dict(base.value)
    for key, value in own.value.items():
        inner = shape.get(key, shape.get("*"))
        if value.value is None and not path.endswith(".repeat.start"):
            _remove(result, key, value, path)
        elif key in result:
            result[key] = _merged(result[key], value, inner, f"{path}.{key}")
        else:
            result[key] = _added(value, inner, f"{path}.{key}")
    if path.endswith(".repeat") and path.count(".") == 1:
        _drop_starts(result, own)
    return replace(own, value=result)


def _replaces(own: Yaml, path: str) -> bool:
    """Whether a step has a task of its own, and so replaces the inherited one."""
    parts = path.split(".")
    section, depth = (parts[2:3], 4) if parts[1:2] == ["repeat"] else (parts[1:2], 3)
    return section in (["steps"], ["after"]) and len(parts) == depth and "task" in mapping(own, path)


def _added(value: Yaml, shape: Mapping[str, Any] | None, path: str) -> Yaml:
    """A section that is new in the variant, where a null has nothing to remove."""
    return _merged(replace(value, value={}), value, shape, path) if shape and isinstance(value.value, dict) else value


def _remove(result: dict[str, Yaml], key: str, value: Yaml, path: str) -> None:
    """Null removes what was inherited; in `params`, where there is nothing to remove, it means required."""
    if key in result:
        del result[key]
    elif path.count(".") == 1 and path.endswith(".params"):
        result[key] = value
    else:
        fail(value.place, f"{path}.{key} = null removes nothing: no such thing is inherited")


def _drop_starts(repeat: dict[str, Yaml], own: Yaml) -> None:
    """A step that is removed takes its `start` with it."""
    start = repeat.get("start")
    if start is None or not isinstance(start.value, dict):
        return
    removed = {k for k, v in entries(entries(own).get("steps")).items() if v.value is None}
    stays = entries(entries(own).get("start"))
    kept = {k: v for k, v in start.value.items() if k not in removed or k in stays}
    if len(kept) < len(start.value):
        repeat["start"] = replace(start, value=kept)
