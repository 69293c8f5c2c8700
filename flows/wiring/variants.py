"""`extends`: a pipeline that is another one and a difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flows.wiring.tree import Yaml, entries, mapping, refuse

_VALUES: Mapping[str, Any] = {"*": None}
_STEPS: Mapping[str, Any] = {"*": _VALUES}
_SHAPE: Mapping[str, Any] = {
    "params": _VALUES,
    "steps": _STEPS,
    "repeat": {"times": None, "start": _VALUES, "each": _VALUES, "steps": _STEPS},
    "after": _STEPS,
}
"""Where merging goes deeper; None: replaced whole."""
_NOT_INHERITED = ("about", "deployments", "extends")


def resolved(pipelines: Mapping[str, Yaml], name: str, above: tuple[str, ...] = ()) -> Yaml:
    """The pipeline with everything that it inherits. Raises SpecError on a circle or an unknown name."""
    own = pipelines[name]
    extends = mapping(own, f"pipeline '{name}'").get("extends")
    if extends is None:
        return own
    base = str(extends.value)
    if base not in pipelines:
        refuse(extends.where, f"{name}.extends = '{base}'; there is no such pipeline", base, pipelines)
    if base in (*above, name):
        refuse(extends.where, f"a circle of extends: {' → '.join([*above, name, base])}")
    parent = mapping(resolved(pipelines, base, (*above, name)), base)
    inherited = {k: v for k, v in parent.items() if k not in _NOT_INHERITED}
    return _merged(replace(own, value=inherited), own, _SHAPE, name)


def ancestors(pipelines: Mapping[str, Yaml], name: str) -> dict[str, Yaml]:
    """The pipeline and those that it extends, nearest first, each as written: what `resolved` has found to be whole."""
    found = {name: pipelines[name]}
    while (extends := entries(pipelines[name]).get("extends")) is not None:
        name = str(extends.value)
        found[name] = pipelines[name]
    return found


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
    """Whether a step says its own task, and so replaces the inherited one."""
    parts = path.split(".")
    section, depth = (parts[2:3], 4) if parts[1:2] == ["repeat"] else (parts[1:2], 3)
    return section in (["steps"], ["after"]) and len(parts) == depth and "task" in mapping(own, path)


def _added(value: Yaml, shape: Mapping[str, Any] | None, path: str) -> Yaml:
    """A section that is new in the variant: nothing is there that a null in it could remove."""
    return _merged(replace(value, value={}), value, shape, path) if shape and isinstance(value.value, dict) else value


def _remove(result: dict[str, Yaml], key: str, value: Yaml, path: str) -> None:
    """Null removes what was inherited; in `params`, where there is nothing to remove, it means required."""
    if key in result:
        del result[key]
    elif path.count(".") == 1 and path.endswith(".params"):
        result[key] = value
    else:
        refuse(value.place, f"{path}.{key} = null removes nothing: no such thing is inherited")


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
