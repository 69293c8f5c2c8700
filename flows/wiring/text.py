"""A pipelines file as written: names and shapes are checked here, nothing is compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from flows.python.codebase import Package
from flows.wiring.extensions import Extension, given_extensions, united
from flows.wiring.grammar import (
    ALPHA,
    CONTINUE,
    DEPLOYMENT,
    NAME_RULE,
    PARAMETER_NAME,
    PIPELINE,
    PIPELINE_NAME,
    REPEAT,
    RESERVED,
    SCHEDULE,
    STEP_NAME,
    Ancestor,
    DeploymentText,
    PipelineText,
    StepText,
)  # fmt: skip
from flows.wiring.tree import Yaml, fail, mapping, quoted, quoted_value
from flows.wiring.variants import Files, line_of_places, variant_line
from flows.wiring.where import Where
from tasks.contract import SpecError


class PipelineFile:
    """A pipelines file. Each pipeline is read on demand, so that a broken one does not hide the others."""

    def __init__(self, path: Path) -> None:
        """Read a file. Raises SpecError."""
        self.path = path
        self._files = Files()
        self._raw = self._files.pipelines(path)

    @property
    def names(self) -> list[str]:
        """Pipelines that can run: those whose names do not begin with `_`."""
        return [name for name in self._raw if not name.startswith("_")]

    @cached_property
    def abouts(self) -> Mapping[str, str]:
        """The `about` of each pipeline that can run."""
        return {n: _text(mapping(self._raw[n], n).get("about")) for n in self.names}

    @property
    def profiles(self) -> Mapping[str, Yaml]:
        """The file's profiles as written, by name."""
        return self._files.profiles(self.path)

    @cached_property
    def packages(self) -> tuple[Package, ...]:
        """The code that the file's pipelines may name: its own, and that of files from which one of them inherits."""
        return united([*self._files.extensions(self.path), *given_extensions(), *self._inherited()])

    def _inherited(self) -> Iterator[Extension]:
        for name in self._raw:
            with suppress(SpecError):  # raised again where the pipeline itself is read
                for place in line_of_places(self._files, self.path, name):
                    yield from self._files.extensions(place.file)

    def pipeline(self, name: str) -> PipelineText:
        """The pipeline with what it inherits. Raises SpecError."""
        if name not in self.names:
            why = "is only for `extends`" if name in self._raw else "is not a pipeline of this file"
            fail(Where(str(self.path)), f"{quoted(name)} {why}", name, self.names)
        return _pipeline(name, variant_line(self._files, self.path, name))


def _text(node: Yaml | None) -> str:
    return "" if node is None or node.value is None else " ".join(str(node.plain).split())


def _pipeline(name: str, ancestors: tuple[Ancestor, ...]) -> PipelineText:
    own = ancestors[0].written
    parts = mapping(ancestors[0].whole, f"pipeline '{name}'", PIPELINE)
    mine = mapping(own, name)
    repeat = _section(parts, "repeat", name, REPEAT)
    mine_repeat = _section(mine, "repeat", name)
    steps: dict[str, StepText] = {}
    for section, key, every, here in (
        ("steps", "steps", parts, mine), ("repeat", "steps", repeat, mine_repeat), ("after", "after", parts, mine)
    ):  # fmt: skip
        _add_steps(steps, section, _section(every, key, name), _section(here, key, name), name)
    params, each = _section(parts, "params", name), _section(repeat, "each", name)
    _check_parameters(params, each, name)
    if "repeat" in parts and not _section(repeat, "steps", name):
        fail(parts["repeat"].place, f"{name}.repeat has no steps")
    if "repeat" in parts and "times" not in repeat and not each:
        fail(parts["repeat"].place, f"{name}.repeat needs `times`, or `each` whose length is the number of rounds")
    if not steps:
        fail(own.place, f"{name} has no steps")
    start = _section(repeat, "start", name)
    written_names = [
        *(f"params.{p}" for p in _section(mine, "params", name)),
        *(f"{k}.{p}" for k in ("start", "each") for p in _section(mine_repeat, k, name)),
    ]
    text = PipelineText(
        name, _text(mine.get("about")), own, params, each, repeat.get("times"), start, steps,
        {n: _deployment(n, d, steps, "repeat" in parts, name) for n, d in _section(parts, "deployments", name).items()},
        frozenset(written_names), ancestors,
    )  # fmt: skip
    for step, value in start.items():
        if step not in steps or steps[step].section != "repeat":
            loop = [s.name for s in text.section("repeat")]
            fail(value.place, f"{name}.repeat.start.{step}: the loop has no step '{step}'", step, loop)
    return text


def _section(
    parts: Mapping[str, Yaml], key: str, name: str, allowed: Mapping[str, str] | None = None
) -> dict[str, Yaml]:
    return mapping(parts[key], f"{name}.{key}", allowed) if key in parts else {}


def _add_steps(
    steps: dict[str, StepText], section: str, written: Mapping[str, Yaml], own: Mapping[str, Yaml], pipeline: str
) -> None:
    for name, node in written.items():
        if name in RESERVED:
            fail(node.place, f"{pipeline}.{name}: the name '{name}' is reserved")
        if not re.fullmatch(STEP_NAME, name):
            fail(node.place, f"{pipeline}: {quoted(name)} is an invalid name for a step ({NAME_RULE})")
        if name in steps:
            fail(node.place, f"{pipeline}.{name}: the name is taken by the step at {steps[name].node.place}")
        if not isinstance(node.value, dict | str):
            form = "a step is a mapping with a task, or a step's name"
            fail(node.where, f"{pipeline}.{name} = {quoted_value(node)}; {form}")
        steps[name] = StepText(name, section, node, name in own)


def _check_parameters(params: Mapping[str, Yaml], each: Mapping[str, Yaml], pipeline: str) -> None:
    for name, node in [*params.items(), *each.items()]:
        if not re.fullmatch(PARAMETER_NAME, name):
            fail(node.place, f"{pipeline}: {quoted(name)} is an invalid name for a parameter ({NAME_RULE}, without -)")
        if name == "round":
            fail(node.place, f"{pipeline}.{name}: $round is the number of the round")
    for name, node in each.items():
        if name in params:
            fail(node.place, f"{pipeline}.{name}: the name is taken by the parameter at {params[name].place}")


def _deployment(name: str, node: Yaml, steps: Mapping[str, StepText], repeats: bool, pipeline: str) -> DeploymentText:
    what = f"{pipeline}.deployments.{name}"
    if not re.fullmatch(PIPELINE_NAME, name):
        fail(node.place, f"{quoted(name)} is an invalid name for a deployment ({NAME_RULE})")
    parts = mapping(node, what, DEPLOYMENT)
    known, written = dict(steps), _section(parts, "steps", what)
    _add_steps(known, "tick", written, written, what)
    tick = {n: known[n] for n in written}
    continues, gate, alpha = _continuing(parts.get("continue"), what)
    if continues and not repeats:
        fail(parts["continue"].place, f"{what} continues, and the pipeline has no `repeat`")
    if tick and not continues:
        fail(parts["steps"].place, f"{what}.steps belong to a tick: write `continue: always` or {{gate: STEP}}")
    if gate is not None and not (isinstance(gate.value, str) and gate.value in known):
        fail(gate.where, f"{what}.continue.gate = {quoted_value(gate)}; there is no such step", str(gate.value), known)
    cron, timezone = _schedule(parts.get("schedule"), what)
    return DeploymentText(name, node, str(cron.value) if cron else None, timezone, continues, gate, alpha, tick, cron)


def _continuing(node: Yaml | None, what: str) -> tuple[bool, Yaml | None, float]:
    if node is None or node.value in ("never", "always"):
        return node is not None and node.value == "always", None, ALPHA
    if not isinstance(node.value, dict):
        allowed = ["never", "always", "{gate: STEP, alpha: 0.05}"]
        fail(node.where, f"{what}.continue = {quoted_value(node)}", str(node.value), allowed)
    parts = mapping(node, f"{what}.continue", CONTINUE)
    if "gate" not in parts:
        fail(node.where, f"{what}.continue needs the gate's step: {{gate: STEP}}")
    alpha = parts.get("alpha", Yaml(ALPHA, node.where))
    if not isinstance(alpha.value, float) or not 0 < alpha.value < 1:
        fail(alpha.where, f"{what}.continue.alpha = {quoted_value(alpha)}; it must be a number above 0 and below 1")
    return True, parts["gate"], alpha.value


def _schedule(node: Yaml | None, what: str) -> tuple[Yaml | None, str]:
    if node is None:
        return None, "UTC"
    parts = mapping(node, f"{what}.schedule", SCHEDULE)
    cron, timezone = parts.get("cron"), parts.get("timezone")
    if cron is None or len(str(cron.value).split()) != 5:
        fail((cron or node).where, f'{what}.schedule needs cron: five fields, e.g. "0 2 * * *"')
    if timezone is not None and not _is_timezone(str(timezone.value)):
        fail(timezone.where, f"{what}.schedule.timezone = {quoted_value(timezone)}; an IANA name, e.g. Europe/Berlin")
    return cron, str(timezone.value) if timezone else "UTC"


def _is_timezone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
