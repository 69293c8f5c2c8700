"""Values that were chosen for a world serve no other model and no other prompts: such values must be given anew.

A value is a world's own if the world names its parameter (`WorldSpec.own_values`) and the pipeline that writes it has
that world as its model, unless it is the one that the method's own paper gives. Values of the command line are never a
world's own. An oracle of a world judges that world's prompts only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import choice_name
from flows.wiring.grammar import PipelineText, written_steps
from flows.wiring.params import Values
from flows.wiring.signatures import Signature
from flows.wiring.tree import COMMAND_LINE, Yaml, entries, fail, quoted_value
from flows.wiring.where import Where


class _Given(NamedTuple):
    """A step's parameter with its value."""

    step: str
    parameter: str
    value: Yaml
    signature: Signature
    paper: str = ""
    """What the paper of the step's loss (or of its task) gives."""

    @property
    def choice(self) -> str:
        return choice_name(self.value)


class WorldValues:
    """Collects, step by step, where models and prompts come from, and the values that worlds call their own."""

    def __init__(self, text: PipelineText, catalogue: Catalogue, values: Values) -> None:
        self._text = text
        self._catalogue = catalogue
        self._overridden = values.overridden
        self._models: list[_Given] = []
        self._prompts: list[_Given] = []
        self._oracles: list[_Given] = []
        self._values: dict[str, _Given] = {}

    def note(self, signature: Signature, params: Mapping[str, Yaml], step: str) -> None:
        """Note a step's values."""
        own = {name for world in self._catalogue.worlds.values() for name in world.own_values}
        for name in (n for n in signature.params if n in params and not params[n].missing):
            choice = signature.params[name].type.choice
            given = _Given(step, name, params[name], signature)
            if choice and choice.folder == "sources":
                noted = {"Model": self._models, "Prompts": self._prompts}
                for kind in (k for k in noted if self._catalogue.is_a(signature.returns, k)):
                    noted[kind].append(given)
            elif choice and choice.folder == "oracles":
                self._oracles.append(given)
            elif name in own and not self._override(given):
                origin = next(iter(given.value.origins), f"a literal of {self._text.name}.{step}")
                self._values.setdefault(origin, given._replace(paper=self._paper(signature, params)))

    def _paper(self, signature: Signature, params: Mapping[str, Yaml]) -> str:
        paper, loss = signature.paper, signature.params.get("loss")
        if loss and loss.type.choice:
            folder, name = loss.type.choice.folder, choice_name(params.get("loss"))
            if name in self._catalogue.choices(folder):
                paper = self._catalogue.choice(folder, name, Where(folder), "loss").paper
        return paper

    def check(self) -> None:
        """Refuse a model with the values of another world, and an oracle without its world. Raises SpecError."""
        for name, world in self._catalogue.worlds.items():
            for model in self._models:
                own = {k: v for k, v in self._values.items() if v.parameter in world.own_values}
                left = {k: v for k, v in own.items() if self._was_chosen_for(name, v, model)}
                if left and model.choice != name:
                    self._refuse_values(model, name, left)
            prompts = {p.choice: self._shown(p) for p in self._prompts}
            for oracle in self._oracles:
                if oracle.choice in world.oracles and prompts and name not in prompts:
                    what = f"judges the prompts of the world '{name}' only, and these come from"
                    self._refuse(oracle, f"{what} {' and '.join(prompts.values())}")

    def _was_chosen_for(self, world: str, given: _Given, model: _Given) -> bool:
        """Whether a value was written where the world is the model, and is not the one that its paper gives."""
        numbers = re.findall(rf"\b{given.parameter} (\d+(?:\.\d+)?(?:e-?\d+)?)", given.paper)
        return given.value.value not in [float(n) for n in numbers] and any(
            choice_name(_value(ancestor.whole, model)) == world
            for ancestor in self._text.lineage
            if any(node.where == given.value.where for node in ancestor.written.walk())
        )

    def _refuse_values(self, model: _Given, world: str, left: Mapping[str, _Given]) -> None:
        names = [name for name in left if name.isidentifier()]
        how = f"give {', '.join(f'{name}=…' for name in names)} as well" if names else "make it a parameter"
        values = " · ".join(
            f"{name} = {quoted_value(v.value)} ({v.value.where}){f'; the paper: {v.paper}' if v.paper else ''}"
            for name, v in left.items()
        )
        self._refuse(model, f"is not the world '{world}', which these values were chosen for; {how}: {values}")

    def _refuse(self, given: _Given, what: str) -> None:
        override, pipeline = self._override(given), self._text.name
        where = COMMAND_LINE if override else given.value.where
        fail(where, f"{pipeline}{': ' if override else f'.{given.step}.'}{self._shown(given)} {what}")

    def _override(self, given: _Given) -> str:
        """The parameter by which the command line gave the value; empty if it did not."""
        return min(self._overridden.intersection(given.value.origins), default="")

    def _shown(self, given: _Given) -> str:
        return f"{self._override(given) or given.parameter} = {quoted_value(given.value)}"


def _value(pipeline: Yaml, model: _Given) -> Yaml:
    """The value of the step's parameter in a pipeline as its file has it; null where it has no such step."""
    node = entries(written_steps(pipeline).get(model.step)).get(model.parameter)
    params, seen = entries(entries(pipeline).get("params")), set[str]()
    while node and isinstance(node.value, str) and node.value.startswith("$") and node.value not in seen:
        seen.add(node.value)
        node = params.get(node.value[1:])
    return node or Yaml(None, model.value.where)
