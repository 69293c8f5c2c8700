"""Parameters of a pipeline: their values, what `$name` means, and which parameters of tasks they feed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import Feeds, choice_names
from flows.wiring.grammar import BUILT_IN, PARAMETER_NAME, PipelineText
from flows.wiring.model import Parameter
from flows.wiring.signatures import Param
from flows.wiring.tree import COMMAND_LINE, Missing, Yaml, fail, parse_yaml, quoted, quoted_value, yaml_from_json
from flows.wiring.types import Type
from flows.wiring.where import Where
from tasks.contract import JSON, SpecError

Overrides = Mapping[str, JSON]


def sweep_values(text: str) -> list[str]:
    """`dpo,ipo,{hinge: {beta: 0.05}}` → its values: split at commas outside brackets and quotes. Raises SpecError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        nodes = YAML(typ="safe", pure=True).compose(f"[{text}]").value
    except YAMLError:
        nodes = []
    if not nodes or text.rstrip().endswith(","):
        raise SpecError(f"command line: cannot split '{text}' at its commas: a bracket, a quote or a value is missing")
    return [text[node.start_mark.index - 1 : node.end_mark.index - 1] for node in nodes]


def references(node: Yaml) -> Iterator[tuple[str, Where]]:
    """The parameters that a value reads, and where."""
    for part in node.walk():
        if isinstance(part.value, str) and part.value.startswith("$") and not part.value.startswith("$$"):
            name = part.value[1:]
            if not re.fullmatch(PARAMETER_NAME, name):
                fail(
                    part.where,
                    f"'{part.value}' is an invalid parameter: $name is a whole value; $$ is a literal dollar",
                )
            yield name, part.where


class Values(Feeds):
    """The values of a pipeline's parameters under given overrides, and the task parameter that each feeds."""

    def __init__(
        self, text: PipelineText, read: frozenset[str], catalogue: Catalogue, overrides: Overrides, lenient: bool
    ) -> None:  # fmt: skip
        self._text = text
        self._lenient = lenient
        self.overridden = frozenset(overrides)
        self._given = {name: _given(value) for name, value in overrides.items()}
        self._declared: dict[str, Yaml] = {**text.params, **text.each}
        self._read = [name for name in self._declared if name in read]
        self._catalogue = catalogue
        self._uses: dict[str, tuple[Param, JSON]] = {}
        for name in overrides:
            if name not in self._read and name not in BUILT_IN and name not in catalogue.execution:
                what = f"{text.name} has no parameter {quoted(name)} (anything else is a variant: `extends`)"
                fail(COMMAND_LINE, what, name, [*self._read, *BUILT_IN])

    def feed(self, name: str) -> Yaml | None:
        """The value for an open parameter of that name: `seed`, `engine` or an `Execution` parameter."""
        if name not in self._given and name not in self._text.params:
            return yaml_from_json(0, COMMAND_LINE, ("seed",)) if name == "seed" else None
        return self._parameter(name, None, ()).through(name)

    def substitute(self, node: Yaml, round: int | None = None, open: tuple[str, ...] = ()) -> Yaml:
        """The value with every `$name` replaced. Raises SpecError for an unknown name or a circle."""
        if isinstance(node.value, dict):
            return replace(node, value={k: self.substitute(v, round, open) for k, v in node.value.items()})
        if isinstance(node.value, list):
            return replace(node, value=[self.substitute(v, round, open) for v in node.value])
        if isinstance(node.value, str) and node.value.startswith("$$"):
            return replace(node, value=node.value[1:])
        for name, where in references(node):
            return self._named(name, where, round, open)
        return node

    def _named(self, name: str, where: Where, round: int | None, open: tuple[str, ...]) -> Yaml:
        if name == "round":
            if round is None:
                fail(where, "$round is known only inside `repeat` and in a deployment's steps")
            return Yaml(round, where)
        if name in open:
            fail(where, f"a circle of parameters: {' → '.join([*open[open.index(name) :], name])}")
        if name in self._text.each and round is None:
            fail(where, f"${name} has one value per round (repeat.each), so it is known only inside `repeat`")
        if name == "seed" and name not in self._declared:
            return self.feed("seed") or Yaml(0, where)
        if name not in self._declared:
            fail(where, f"{self._text.name} has no parameter '{name}'", name, self._declared)
        return self._parameter(name, round, (*open, name)).through(name)

    def _parameter(self, name: str, round: int | None, open: tuple[str, ...]) -> Yaml:
        node = self._given.get(name) or self._declared[name]
        if name in self._text.each and round is not None:
            values = self.per_round(name)
            node = values[min(round, len(values)) - 1]
        elif node.value is None and name not in self._given:
            return self._required(name, node)
        return self.substitute(node, round, open)

    def _required(self, name: str, node: Yaml) -> Yaml:
        if not self._lenient:
            fail(node.place, f"{self._text.name} needs a value for '{name}': give {name}=…")
        return replace(node, value=Missing(f"<{name}>"))

    def per_round(self, name: str) -> list[Yaml]:
        """The values of an `each` parameter, round by round."""
        node = self._given.get(name) or self._declared[name]
        values = (self.substitute(node, 1, (name,)) if isinstance(node.value, str) else node).value
        if not isinstance(values, list) or not values:
            what = f"{self._text.name}.{name} = {quoted_value(node)}"
            fail(node.where, f"{what}; it must be a list with one value per round")
        return values

    def used(self, node: Yaml, param: Param) -> None:
        for name in node.origins:
            self._uses.setdefault(name, (param, node.plain))

    def notices(self) -> list[str]:
        """Parameters that were given and feed nothing: built-in ones, and those of a default that was replaced."""
        idle = [name for name in self._given if name not in self._uses]
        built_in = [f"{self._text.name}: '{name}' feeds no step here" for name in idle if name not in self._declared]
        return built_in + [
            f"{self._text.name}: '{name}' has no effect: it feeds the default of '{other}', which was given"
            for name in idle
            for other in self._given
            if other in self._declared and name in dict(references(self._declared[other]))
        ]

    def parameters(self) -> dict[str, Parameter]:
        """The declared parameters, and the built-in ones that feed something, with type, bounds and text."""
        names = [*self._read, *(n for n in self._uses if n not in self._declared)]
        return {name: self._described(name) for name in names}

    def _described(self, name: str) -> Parameter:
        param, value = self._uses.get(name, (None, None))
        node = self._given.get(name) or self._declared.get(name)
        required = name in self._text.params and self._text.params[name].value is None
        if name in self._text.each:
            value = [self.substitute(v, i + 1).plain for i, v in enumerate(self.per_round(name))]
        elif param is None or required:
            value = node.plain if node and name in self._given else None
        if param is None:
            return Parameter(name, value, None, BUILT_IN.get(name, ""), required)
        kind = param.type
        if kind.choice:
            kind = replace(kind, options=tuple(choice_names(self._catalogue, kind.choice)))
        if name in self._text.each:
            kind = Type("list", item=kind, execution=kind.execution)
        return Parameter(name, value, kind, param.help, required)


def _given(value: JSON) -> Yaml:
    """A text from the command line is YAML; any other value is taken as it is."""
    return parse_yaml(value, None) if isinstance(value, str) else yaml_from_json(value, COMMAND_LINE)
