"""The compiled graph, on which every other room of `flows` works. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.python.codebase import TASKS, Package
from flows.wiring.grammar import LOCAL, TRACKING
from tasks.contract import JSON
from tasks.declarations import Sharding

if TYPE_CHECKING:
    from flows.wiring.where import Where
from flows.wiring.types import Type


@dataclass(frozen=True)
class ChoiceValue:
    """A resolved choice: `<package>/<folder>/<name>.py::<name>` with all its parameters, defaults included."""

    folder: str
    name: str
    params: Mapping[str, JSON]
    execution: Mapping[str, JSON] = field(default_factory=dict)
    """Its `Execution` parameters: recorded, not keyed."""
    package: str = "tasks"
    """Not keyed, so that a choice may move to another package."""

    @property
    def module(self) -> str:
        """The module that holds the function."""
        return ".".join([self.package, *self.folder.split("/"), self.name])


Value = JSON | ChoiceValue


@dataclass(frozen=True)
class Group:
    """A frozen dataclass that a task or composite takes as one argument; its fields are parameters like any other."""

    module: str
    name: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One step of the graph. Steps with equal task, parameters and inputs are one node."""

    id: str
    """Its first address: `base_check`, `policy@2` (round 2), `report/sample@2` (inside the composite step `report`)."""
    addresses: tuple[str, ...]
    """Every address that names this node, `id` first."""
    task: str
    module: str
    """Module that holds the task, e.g. `tasks.sample`."""
    kind: str
    """Kind of the result, the most specific that is known at compile time."""
    params: Mapping[str, Value]
    """Validated and complete (defaults filled in); keyed."""
    execution: Mapping[str, JSON]
    """`Execution` parameters: recorded, not keyed."""
    inputs: Mapping[str, tuple[str, ...]]
    """Port → ids of the nodes that feed it, in list order; an empty optional port is left out."""
    lists: frozenset[str]
    """Ports that take a list (the others get one handle)."""
    work: bool
    """Whether the task takes `work: Workspace`."""
    round: int | None
    where: Where
    opens: frozenset[str] = frozenset()
    """Kinds of the models and composed scorers that serve it as oracles: the code by which they judge counts as the
    step's own."""
    kinds: frozenset[str] = frozenset()
    """Kinds of its inputs, as far as they are known at compile time: the code of their handles counts."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """Arguments of the task that are made of several parameters."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the nodes that feed it, each once."""
        return tuple(dict.fromkeys(id for ids in self.inputs.values() for id in ids))

    @property
    def title(self) -> str:
        """`round 2 · report/sample`, as people read it."""
        name = self.id.split("@")[0]
        return f"round {self.round} · {name}" if self.round else name


@dataclass(frozen=True, eq=False)
class Handle:
    """The result of a step while the graph is built (`tasks.contract.Step`)."""

    index: int
    kinds: tuple[str, ...]
    """The kind of the result, then all other kinds that it may stand for."""

    @property
    def kind(self) -> str:
        return self.kinds[0]

    def is_a(self, kind: str) -> bool:
        return kind in self.kinds


Fed = Handle | None | Sequence["Handle | None"]
"""What feeds a port; None is nothing."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a pipeline: type, bounds and text come from the task parameter that it feeds."""

    name: str
    value: JSON
    type: Type | None = None
    """That of the task parameter that it feeds; a list of it where there is a value for each round."""
    help: str = ""
    required: bool = False


@dataclass(frozen=True)
class Profile:
    """On which devices a run computes, and where it is tracked. No key depends on it."""

    name: str = LOCAL
    gpus: int | None = None
    """GPUs that it may use at a time; None: all that are visible."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Name of a step or task → processes that share its work."""
    sharding: Sharding = "auto"
    timeout_minutes: float = 30.0
    """How long ranks may give no sign of life."""
    tracking: tuple[str, ...] = TRACKING[:1]
    """The servers to which the run is published."""


@dataclass(frozen=True)
class Graph:
    """A pipeline, compiled for given parameters: nodes in an order in which inputs come first."""

    pipeline: str
    about: str
    file: str
    nodes: Mapping[str, Node]
    addresses: Mapping[str, str]
    """Address → node id, for every address of every node."""
    parameters: Mapping[str, Parameter]
    rounds: int
    headline: tuple[str, ...]
    """Ids of the `report` nodes, by round."""
    notices: tuple[str, ...] = ()
    packages: tuple[Package, ...] = (TASKS,)
    """The code that its steps run."""
    profile: Profile = Profile()
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Node id → processes that share the work of the step; one where it is missing."""

    def ranks_of(self, node: Node) -> int:
        return self.ranks.get(node.id, 1)
