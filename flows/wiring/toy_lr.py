"""The learning rate of the toy world serves no real model: a run that changes the model must say its own."""

from __future__ import annotations

from collections.abc import Mapping

from flows.wiring.choices import choice_name
from flows.wiring.model import Where
from flows.wiring.params import Values
from flows.wiring.signatures import Catalogue, Signature
from flows.wiring.tree import Yaml, shown
from tasks.contract import SpecError


class ToyRates:
    """Collects, step by step, where a model comes from and what feeds an `lr`."""

    def __init__(self, pipeline: str, catalogue: Catalogue, values: Values) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._values = values
        self._model = ""
        self._left: dict[str, str] = {}

    def note(
        self,
        signature: Signature,
        params: Mapping[str, Yaml],
        written: Mapping[str, Yaml],
        what: str,
        round: int | None,
    ) -> None:
        """Note a step: its values as given, and as the file writes them."""
        models = self._catalogue.is_a(signature.returns, "Model")
        for param in signature.params.values():
            if models and param.type.choice and param.type.choice.folder == "sources" and param.name in params:
                self._note_model(params[param.name], self._values.in_file(written[param.name], round))
        rate = params.get("lr")
        if rate is not None and not self._values.overridden.intersection(rate.origins):
            name = rate.origins[0] if rate.origins else f"a literal of {what}"
            self._left.setdefault(name, f"{name} = {shown(rate)} ({rate.where}){self._paper(signature, params)}")

    def _note_model(self, given: Yaml, in_file: Yaml) -> None:
        changed = self._values.overridden.intersection(given.origins)
        if changed and self._is_world(in_file) and not self._is_world(given):
            self._model = min(changed)

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
        return f"; the paper: {paper}" if paper else ""

    def check(self) -> None:
        """Refuse a real model with the toy's learning rates. Raises SpecError."""
        if self._model and self._left:
            rates = "\n  ".join(self._left.values())
            names = [n for n in self._left if n.isidentifier()]
            how = f"give {names[0]}=… as well" if names else "make it a parameter"
            raise SpecError(
                f"command line: {self._pipeline}: '{self._model}' is no toy, and these learning rates are the toy's; "
                f"{how}\n  {rates}"
            )
