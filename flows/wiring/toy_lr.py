"""The toy world's learning rates serve no real model: a run of a real one must have a rate that was meant for it.

A rate is the toy's if the pipeline that writes it has a world as its model, unless it is the one that the method's own
paper gives. What is given on the command line is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from flows.wiring.choices import choice_name
from flows.wiring.grammar import PipelineText
from flows.wiring.model import Where
from flows.wiring.params import Values
from flows.wiring.signatures import Catalogue, Signature
from flows.wiring.tree import COMMAND_LINE, Yaml, entries, fail, quoted_value


class _Rate(NamedTuple):
    """A learning rate that no command line gave."""

    name: str
    value: Yaml
    paper: str


class _Model(NamedTuple):
    """A model from outside: which step's parameter says so."""

    step: str
    parameter: str
    shown: str
    where: Where


class ToyRates:
    """Collects, step by step, where a model comes from and what feeds an `lr`."""

    def __init__(self, text: PipelineText, catalogue: Catalogue, values: Values) -> None:
        self._text = text
        self._catalogue = catalogue
        self._values = values
        self._models: list[_Model] = []
        self._rates: dict[str, _Rate] = {}

    def note(self, signature: Signature, params: Mapping[str, Yaml], step: str) -> None:
        """Note a step's values."""
        for param in signature.params.values():
            given, choice = params.get(param.name), param.type.choice
            if given and choice and choice.folder == "sources" and self._catalogue.is_a(signature.returns, "Model"):
                self._note_model(given, step, param.name)
        rate = params.get("lr")
        if rate is not None and not self._values.overridden.intersection(rate.origins):
            name = rate.origins[0] if rate.origins else f"a literal of {self._text.name}.{step}"
            self._rates.setdefault(name, _Rate(name, rate, self._paper(signature, params)))

    def _note_model(self, given: Yaml, step: str, parameter: str) -> None:
        if given.missing or self._is_world(given):
            return
        overridden = self._values.overridden.intersection(given.origins)
        shown_as = (
            f"'{min(overridden)}'" if overridden else f"{self._text.name}.{step}.{parameter} = {quoted_value(given)}"
        )
        self._models.append(_Model(step, parameter, shown_as, COMMAND_LINE if overridden else given.where))

    def _is_world(self, node: Yaml) -> bool:
        name = choice_name(node)
        if name not in self._catalogue.choices("sources"):
            return False
        return self._catalogue.choice("sources", name, node.where, "source").returns == "World"

    def _paper(self, signature: Signature, params: Mapping[str, Yaml]) -> str:
        paper, loss = signature.paper, signature.params.get("loss")
        if loss and loss.type.choice:
            folder, name = loss.type.choice.folder, choice_name(params.get("loss"))
            if name in self._catalogue.choices(folder):
                paper = self._catalogue.choice(folder, name, Where(folder), "loss").paper
        return paper

    def check(self) -> None:
        """Refuse a real model with the toy's learning rates. Raises SpecError."""
        for model in self._models:
            left = [r for r in self._rates.values() if self._is_toys(r, model)]
            if left:
                rates = " · ".join(map(_described, left))
                names = [r.name for r in left if r.name.isidentifier()]
                how = f"give {names[0]}=… as well" if names else "make it a parameter"
                text = f"{model.shown} is no toy, and these learning rates are the toy's; {how}"
                pipeline = "" if model.shown.startswith(f"{self._text.name}.") else f"{self._text.name}: "
                fail(model.where, f"{pipeline}{text}: {rates}")

    def _is_toys(self, rate: _Rate, model: _Model) -> bool:
        if rate.value.missing or rate.value.value in _rates_in(rate.paper):
            return False
        return any(
            self._is_world(_value(ancestor.whole, model))
            for ancestor in self._text.lineage
            if any(n.where == rate.value.where for n in ancestor.written.walk())
        )


def _described(rate: _Rate) -> str:
    paper = f"; the paper: {rate.paper}" if rate.paper else ""
    return f"{rate.name} = {quoted_value(rate.value)} ({rate.value.where}){paper}"


def _rates_in(paper: str) -> list[float]:
    return [float(number) for number in re.findall(r"\blr (\d+(?:\.\d+)?(?:e-?\d+)?)", paper)]


def _value(pipeline: Yaml, model: _Model) -> Yaml:
    """What the parameter of the step is in a pipeline as its file has it; null where it has no such step."""
    parts = entries(pipeline)
    sections = [parts.get("steps"), entries(parts.get("repeat")).get("steps"), parts.get("after")]
    steps = [entries(section)[model.step] for section in sections if model.step in entries(section)]
    found = entries(steps[0]).get(model.parameter) if steps else None
    params, seen = entries(parts.get("params")), set[str]()
    while found and isinstance(found.value, str) and found.value.startswith("$") and found.value not in seen:
        seen.add(found.value)
        found = params.get(found.value[1:])
    return found or Yaml(None, model.where)
