"""`profiles:` and `--profile`: on which devices the steps of a run compute, as how many ranks, where it is tracked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from flows.wiring.catalogue import Catalogue
from flows.wiring.grammar import LOCAL, NAME_RULE, PIPELINE_NAME, PROFILE, TRACKING, written_steps
from flows.wiring.machine import usable_gpus
from flows.wiring.model import Graph, Node, Profile
from flows.wiring.text import PipelineFile
from flows.wiring.tree import Yaml, entries, fail, mapping, name_of, quoted, quoted_value
from flows.wiring.views import View, views_of
from flows.wiring.where import Where
from tasks.contract import SpecError
from tasks.declarations import Resources, Sharding

VARIABLE = "ALIGNFLOW_PROFILE"
"""The profile of this process; `--profile` sets it."""


@dataclass(frozen=True)
class ProfileText:
    """A profile as written, with the places of its parts."""

    profile: Profile
    node: Yaml

    def part(self, *keys: str) -> Yaml:
        node = self.node
        for key in keys:
            node = entries(node)[key]
        return node


def selected_profile(source: PipelineFile) -> ProfileText | None:
    """The profile that `--profile` or ALIGNFLOW_PROFILE names; None for the built-in one. Raises SpecError."""
    name = os.environ.get(VARIABLE) or LOCAL
    if name == LOCAL:
        return None
    if name not in source.profiles:
        fail(Where(name_of(source.path)), f"there is no profile {quoted(name)}", name, [*source.profiles, LOCAL])
    return read_profile(source, name)


def read_profile(source: PipelineFile, name: str) -> ProfileText:
    """A profile of a file. Raises SpecError, at its place, for what no profile can be."""
    node, what = source.profiles[name], f"profiles.{name}"
    if name == LOCAL:
        fail(node.place, f"{what}: '{LOCAL}' is built in: one process for every step; choose another name")
    if not re.fullmatch(PIPELINE_NAME, name):
        fail(node.place, f"{quoted(name)} is an invalid name for a profile ({NAME_RULE})")
    parts = mapping(node, what, PROFILE)
    profile = Profile(name)
    if "gpus" in parts:
        profile = replace(profile, gpus=_count(parts["gpus"], f"{what}.gpus"))
    if "ranks" in parts:
        given = mapping(parts["ranks"], f"{what}.ranks")
        profile = replace(profile, ranks={n: _count(v, f"{what}.ranks.{n}") for n, v in given.items()})
    if "sharding" in parts:
        profile = replace(profile, sharding=_sharding(parts["sharding"], f"{what}.sharding"))
    if "timeout_minutes" in parts:
        profile = replace(profile, timeout_minutes=_minutes(parts["timeout_minutes"], f"{what}.timeout_minutes"))
    if "tracking" in parts:
        profile = replace(profile, tracking=_tracking(parts["tracking"], f"{what}.tracking"))
    return ProfileText(profile, node)


def check_profile(source: PipelineFile, catalogue: Catalogue, text: ProfileText) -> None:
    """Raise SpecError where a profile gives ranks to what the file does not have, or to a task that has no ranks."""
    known = _names(source, catalogue)
    for name in text.profile.ranks:
        place, what = text.part("ranks", name), f"profiles.{text.profile.name}.ranks.{name}"
        if name.split("/")[0] not in known:
            fail(place.place, f"{what}: there is no step or task of this name", name, known)
        declared = catalogue.declared.of_task(name, "resources")
        if name in catalogue.tasks and not callable(declared) and not _has_ranks(declared):
            fail(place.place, f"{what}: the task '{name}' cannot run as several ranks", name, _with_ranks(catalogue))


def with_profile(graph: Graph, source: PipelineFile, catalogue: Catalogue, text: ProfileText) -> Graph:
    """The graph as a run of this profile places it. Raises SpecError for what this machine cannot do."""
    check_profile(source, catalogue, text)
    profile = text.profile
    there = len(usable_gpus())
    if profile.gpus is not None and profile.gpus > there:
        what = f"profiles.{profile.name}.gpus = {profile.gpus}"
        fail(text.part("gpus").where, f"{what}; steps can use {there} GPUs of this machine")
    ranks: dict[str, int] = {}
    views = views_of(graph, catalogue.declared) if profile.ranks else {}
    for name, step in _ranked_steps(graph, source, catalogue, text, views):
        _check_devices(text, name, step, profile.gpus or there)
        ranks[step.origin.id] = profile.ranks[name]
    return replace(graph, profile=profile, ranks={id: n for id, n in ranks.items() if n > 1})


def _ranked_steps(
    graph: Graph, source: PipelineFile, catalogue: Catalogue, text: ProfileText, views: Mapping[str, View]
) -> Iterator[tuple[str, View]]:
    """Each name in `ranks` with the steps that it means: composites, tasks, steps, steps inside of composite ones, so
    that the later name is the more precise one.

    The name of a composite, or of a step made by one, means those steps inside that can have ranks.
    """
    written = written_steps(source.pipeline(graph.pipeline).lineage[0].whole)
    tasks = {name: str(task.value) for name, step in written.items() if (task := entries(step).get("task"))}

    def precision(name: str) -> int:
        return 2 + name.count("/") if name.split("/")[0] in written else int(name not in catalogue.composites)

    for name in sorted(text.profile.ranks, key=precision):
        steps = [step for step in views.values() if _means(name, step.origin, tasks)]
        able = [step for step in steps if step.resources.ranks]
        if steps and not able:
            place, what = text.part("ranks", name), f"profiles.{text.profile.name}.ranks.{name}"
            used = ", ".join(sorted({f"'{step.task}'" for step in steps}))
            fail(place.place, f"{what}: in {graph.pipeline} this is {used}, which cannot run as several ranks")
        yield from ((name, step) for step in able)


def _means(name: str, node: Node, tasks: Mapping[str, str]) -> bool:
    """Whether a name is that of a node's task, of its step, or of a composite around it."""
    steps = [address.split("@")[0] for address in node.addresses]
    return node.task == name or any(
        step == name or step.startswith(f"{name}/") or tasks.get(step.split("/")[0]) == name for step in steps
    )


def _check_devices(text: ProfileText, name: str, step: View, gpus: int) -> None:
    """Raise SpecError for more ranks than devices."""
    ranks, each = text.profile.ranks[name], step.resources.gpus
    place, what = text.part("ranks", name), f"profiles.{text.profile.name}.ranks.{name} = {ranks}"
    cores = len(os.sched_getaffinity(0))
    if gpus and each:
        if ranks * each > gpus:
            of_each = f" of {each} GPUs each" if each > 1 else ""
            fail(place.where, f"{what}; ranks{of_each} need a GPU of their own, and this run may use {gpus}")
    elif ranks > cores:
        fail(place.where, f"{what}; without GPUs there are at most as many ranks as cores, and these are {cores}")


def _names(source: PipelineFile, catalogue: Catalogue) -> set[str]:
    """What `ranks` may name: tasks, composites, and steps of the file's pipelines."""
    names = {*catalogue.tasks, *catalogue.composites}
    for pipeline in source.names:
        try:
            names |= set(written_steps(source.pipeline(pipeline).lineage[0].whole))
        except SpecError:  # raised again where the pipeline itself is read
            continue
    return names


def _with_ranks(catalogue: Catalogue) -> list[str]:
    return [task for task, declared in catalogue.declared.all_of("resources") if _has_ranks(declared)]


def _has_ranks(declared: object) -> bool:
    return isinstance(declared, Resources) and declared.ranks


def _count(node: Yaml, what: str) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 1:
        fail(node.where, f"{what} = {quoted_value(node)}; it must be a whole number, at least 1")
    return node.value


def _sharding(node: Yaml, what: str) -> Sharding:
    allowed: tuple[Sharding, ...] = get_args(Sharding)
    if node.value not in allowed:
        fail(node.where, f"{what} = {quoted_value(node)}", str(node.value), allowed)
    return next(one for one in allowed if one == node.value)


def _tracking(node: Yaml, what: str) -> tuple[str, ...]:
    if not isinstance(node.value, list) or not node.value:
        fail(node.where, f"{what} = {quoted_value(node)}; it must be a list of {', '.join(TRACKING)}")
    for entry in node.value:
        if entry.value not in TRACKING:
            fail(entry.where, f"{what} names {quoted_value(entry)}", str(entry.value), TRACKING)
    return tuple(dict.fromkeys(str(entry.value) for entry in node.value))


def _minutes(node: Yaml, what: str) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        fail(node.where, f"{what} = {quoted_value(node)}; it must be a number above 0")
    return float(value)
