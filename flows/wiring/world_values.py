"""What was written for a world serves no other model and no other prompts: such values must be given anew.

A value is a world's own if the world says so of its parameter (`WorldSpec.own_values`) and the pipeline that writes it
has that world as its model, unless it is the one that the method's own paper gives. What is given on the command line
is meant. An oracle of a world judges that world's prompts only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import choice_name
from flows.wiring.grammar import PipelineText
from flows.wiring.params import Values
from flows.wiring.signatures import Signature
from flows.wiring.tree import COMMAND_LINE, Yaml, entries, fail, quoted_value
from flows.wiring.where import Where
from tasks.contract import WorldSpec


class _Given(NamedTuple):
    """A step's parameter with its value."""

    step: str
    parameter: str
    value: Yaml
    signature: Signature


class WorldValues:
    """Collects, step by step, where models and prompts come from, and the values that worlds call their own."""

    def __init__(self, text: PipelineText, catalogue: Catalogue, values: Values) -> None:
        self._text = text
        self._catalogue = catalogue
        self._overridden = values.overridden
        self._models: list[_Given] = []
        self._prompts: list[_Given] = []
        self._oracles: list[_Given] = []
        self._values: dict[str, tuple[_Given, str]] = {}

    def note(self, signature: Signature, params: Mapping[str, Yaml], step: str) -> None:
        """Note a step's values."""
        for name, param in signature.params.items():
            given = _Given(step, name, params[name], signature) if name in params else None
            if given is None or given.value.missing:
                continue
            folder = param.type.choice.folder if param.type.choice else ""
            if folder == "sources":
                self._note_source(given)
            elif folder == "oracles":
                self._oracles.append(given)
            elif any(name in world.own_values for world in self._worlds.values()):
                self._note_value(given, params)

    def _note_source(self, given: _Given) -> None:
        for kind, noted in (("Model", self._models), ("Prompts", self._prompts)):
            if self._catalogue.is_a(given.signature.returns, kind):
                noted.append(given)

    def _note_value(self, given: _Given, params: Mapping[str, Yaml]) -> None:
        origins = given.value.origins
        if not self._overridden.intersection(origins):
            name = origins[0] if origins else f"a literal of {self._text.name}.{given.step}"
            self._values.setdefault(name, (given, self._paper(given.signature, params)))

    @property
    def _worlds(self) -> Mapping[str, WorldSpec]:
        return self._catalogue.worlds

    def _paper(self, signature: Signature, params: Mapping[str, Yaml]) -> str:
        """What the paper of the step's loss (or of its task) gives."""
        paper, loss = signature.paper, signature.params.get("loss")
        if loss and loss.type.choice:
            folder, name = loss.type.choice.folder, choice_name(params.get("loss"))
            if name in self._catalogue.choices(folder):
                paper = self._catalogue.choice(folder, name, Where(folder), "loss").paper
        return paper

    def check(self) -> None:
        """Refuse a model with the values of another world, and an oracle without its world. Raises SpecError."""
        for model in self._models:
            for name, world in self._worlds.items():
                left = {k: v for k, v in self._values.items() if self._is_own(name, world, *v, model)}
                if left and choice_name(model.value) != name:
                    self._refuse_values(model, name, left)
        prompts = {choice_name(p.value): p for p in self._prompts}
        for oracle in self._oracles:
            for name, world in self._worlds.items():
                if choice_name(oracle.value) in world.oracles and prompts and name not in prompts:
                    what = f"judges the prompts of the world '{name}' only, and these come from"
                    others = " and ".join(self._shown(p) for p in prompts.values())
                    fail(self._place(oracle), f"{self._prefix(oracle)}{self._shown(oracle)} {what} {others}")

    def _is_own(self, name: str, world: WorldSpec, given: _Given, paper: str, model: _Given) -> bool:
        """Whether a value was written where the world is the model, and is not its method's general one."""
        value, numbers = given.value, rf"\b{given.parameter} (\d+(?:\.\d+)?(?:e-?\d+)?)"
        if given.parameter not in world.own_values or value.value in [float(n) for n in re.findall(numbers, paper)]:
            return False
        return any(
            choice_name(_value(ancestor.whole, model)) == name
            for ancestor in self._text.lineage
            if any(n.where == value.where for n in ancestor.written.walk())
        )

    def _refuse_values(self, model: _Given, world: str, left: Mapping[str, tuple[_Given, str]]) -> None:
        names = [name for name in left if name.isidentifier()]
        how = f"give {', '.join(f'{name}=…' for name in names)} as well" if names else "make it a parameter"
        values = " · ".join(_described(name, *value) for name, value in left.items())
        what = f"{self._shown(model)} is not the world '{world}', which these values were chosen for; {how}: {values}"
        fail(self._place(model), f"{self._prefix(model)}{what}")

    def _override(self, given: _Given) -> str:
        return min(self._overridden.intersection(given.value.origins), default="")

    def _place(self, given: _Given) -> Where:
        return COMMAND_LINE if self._override(given) else given.value.where

    def _prefix(self, given: _Given) -> str:
        return f"{self._text.name}: " if self._override(given) else f"{self._text.name}.{given.step}."

    def _shown(self, given: _Given) -> str:
        return f"{self._override(given) or given.parameter} = {quoted_value(given.value)}"


def _described(name: str, given: _Given, paper: str) -> str:
    return f"{name} = {quoted_value(given.value)} ({given.value.where}){f'; the paper: {paper}' if paper else ''}"


def _value(pipeline: Yaml, model: _Given) -> Yaml:
    """What the parameter of the step is in a pipeline as its file has it; null where it has no such step."""
    parts = entries(pipeline)
    sections = [parts.get("steps"), entries(parts.get("repeat")).get("steps"), parts.get("after")]
    steps = [entries(section)[model.step] for section in sections if model.step in entries(section)]
    found = entries(steps[0]).get(model.parameter) if steps else None
    params, seen = entries(parts.get("params")), set[str]()
    while found and isinstance(found.value, str) and found.value.startswith("$") and found.value not in seen:
        seen.add(found.value)
        found = params.get(found.value[1:])
    return found or Yaml(None, model.value.where)
