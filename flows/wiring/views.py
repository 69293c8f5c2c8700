"""Steps as their declarations see them: those of a graph, and those of records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from flows.python.declared import Declarations
from flows.wiring.model import ChoiceValue, Graph, Node
from flows.wiring.tree import Missing
from tasks.contract import Chosen
from tasks.declarations import ACCELERATED, Evaluation, Machine, Memory, Resources, Size, Training

T = TypeVar("T")
COMPOSED = frozenset({"ImplicitReward", "PolicyJudge", "Ensemble"})
"""Kinds of oracles that are made of other artifacts."""
JUDGES = COMPOSED | {"RewardModel", "PreferenceModel"}
"""Kinds of models that judge, and of what is made of such."""
ORACLES = JUDGES | {"Oracle", "Scorer"}
"""Kinds that judge answers."""
MODELS = frozenset({"RewardModel", "PreferenceModel", "Policy"})
"""Kinds of results that are model directories."""
WITHOUT_ROWS = ORACLES | MODELS
"""Kinds of results that are not tables."""
Inputs = Mapping[str, Sequence["View"]]


class View:
    """A `tasks.declarations.StepView`, which computes its properties on demand."""

    def __init__(
        self, declared: Declarations, task: str, kind: str, params: Mapping[str, Any], inputs: Callable[[], Inputs], *,
        origin: Any, rows: float | None = None, base: Path = Path(), folder: Path | None = None,
    ) -> None:  # fmt: skip
        """origin: the node or record that it shows; rows, folder: of its result, None where they are not known."""
        self._declared, self._inputs, self._rows, self._folder = declared, inputs, rows, folder
        self.task, self.kind, self.base, self.origin = task, kind, base, origin
        self.params = {n: v for n, v in params.items() if not isinstance(v, ChoiceValue | Missing)}
        values = {n: v for n, v in params.items() if isinstance(v, ChoiceValue)}
        self.choices = {n: Chosen(v.folder, v.name, v.params, execution=v.execution) for n, v in values.items()}

    @cached_property
    def inputs(self) -> Inputs:
        return self._inputs()

    def declares(self, param: str, what: str) -> Any:
        choice = self.choices.get(param)
        return self._declared.of_choice(choice.folder, choice.name, what) if choice else None

    def first(self, port: str) -> View | None:
        return next(iter(self.inputs.get(port, ())), None)

    def rows_of(self, port: str) -> float:
        fed = self.first(port)
        return fed.rows if fed else float("nan")

    @property
    def rows(self) -> float:
        return self.size.rows if self._rows is None else self._rows

    @property
    def k(self) -> float:
        return self.size.k

    @cached_property
    def size(self) -> Size:
        """As the task declares it; else that of the first input with rows that are known. Models have none."""
        if self.kind in WITHOUT_ROWS:
            return Size()
        if self._declared.of_task(self.task, "size") is None:
            return self.main
        return self._declared_value("size", Size) or Size()

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """That of the result, as the task declares it, or that of the first model that feeds it."""
        if self.kind not in MODELS:
            return None
        if self._folder is not None:
            return _config(self._folder)
        declared = self._declared.of_task(self.task, "architecture")
        if declared is not None:
            found: Mapping[str, Any] | None = self._declared.value(declared, Mapping | None, self)
            return found
        models = (one for several in self.inputs.values() for one in several if one.kind in MODELS)
        return next((one.config for one in models), None)

    def memory(self, machine: Machine) -> Memory | None:
        """What it needs of a machine's memory; None where that is not known."""
        declared, kind = self._declared.of_task(self.task, "memory"), Memory | None
        found: Memory | None = self._declared.value(declared, kind, self, machine)
        return found

    @property
    def resources(self) -> Resources:
        """Those that the task declares, of its choices, and of what its oracles need: a model, or their choices.

        A task that takes a policy and declares nothing needs what computing with a model needs.
        """
        fed = [one for several in self.inputs.values() for one in several]
        own = self._declared_value("resources", Resources)
        own = own or (ACCELERATED if any(one.kind == "Policy" for one in fed) else Resources())
        judges = [member for one in fed if one.kind in ORACLES for member in _with_members(one)]
        choices = [*self.choices.values(), *(c for judge in judges for c in judge.choices.values())]
        models = [ACCELERATED for judge in judges if judge.kind in MODELS]
        needs = [own, *models, *(given for c in choices if (given := self._resources_of(c)))]
        return Resources(any(r.exclusive for r in needs), max(r.gpus for r in needs), own.ranks)

    def _resources_of(self, choice: Chosen) -> Resources | None:
        """What a choice declares as a constant, or as a function of its parameters, execution parameters included."""
        declared = self._declared.of_choice(choice.folder, choice.name, "resources")
        found: Resources | None = self._declared.value(declared, Resources, **choice.params, **choice.execution)
        return found

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """How its Report measures; None where the task does not declare it."""
        return self._declared_value("evaluation", Evaluation)

    @cached_property
    def training(self) -> Training | None:
        """How it trains a model; None where it trains none."""
        return self._declared_value("training", Training)

    def _declared_value(self, what: str, kind: type[T]) -> T | None:
        value: T | None = self._declared.value(self._declared.of_task(self.task, what), kind, self)
        return value

    @property
    def main(self) -> Size:
        """Size of its first input with a known number of rows."""
        several = [Size(one.rows, one.k) for fed in self.inputs.values() for one in fed]
        known = [s for s in several if s.rows == s.rows] or [s for s in several if s.k == s.k]
        return known[0] if known else Size()


def _with_members(oracle: View) -> list[View]:
    """An oracle, and the models and oracles that it is made of."""
    fed = [one for several in oracle.inputs.values() for one in several] if oracle.kind in COMPOSED else []
    return [oracle, *(m for one in fed if one.kind in ORACLES | MODELS for m in _with_members(one))]


def views_of(graph: Graph, declared: Declarations) -> dict[str, View]:
    """A view of every node, by id."""
    views: dict[str, View] = {}
    base = Path(graph.file).absolute().parent
    for node in graph.nodes.values():
        view = views[node.id] = view_of_node(node, views, declared, base)
        _ = view.size  # inputs first, or thousands of rounds would be one recursion
    return views


def view_of_node(
    node: Node, views: Mapping[str, View], declared: Declarations, base: Path, rows: float | None = None,
    folder: Path | None = None,
) -> View:  # fmt: skip
    """The view of a node whose inputs are among `views`."""
    fed = {port: [views[i] for i in ids] for port, ids in node.inputs.items()}
    params = {**node.params, **node.execution}
    return View(
        declared, node.task, node.kind, params, lambda: fed, origin=node, rows=rows, base=base, folder=folder
    )  # fmt: skip


def _config(folder: Path) -> Mapping[str, Any] | None:
    """config.json of a model directory; None where it cannot be read."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
