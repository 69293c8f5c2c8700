"""The key of a step: what its result depends on, and the digest of that.

Parts of a key: `task`, `code` (sorted names and digests of units), `wiring` (which unit uses which), `params`, `inputs`
(contents by port), `packages` (public versions), `identities` (what choices read of the outside world). The step's
name, its execution parameters, and the files that its code lies in are not in it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from flows.store.code import CodeIndex, Reached
from flows.store.content import Contents
from flows.wiring.model import ChoiceValue, Value
from tasks.contract import JSON, Chosen, SpecError

if TYPE_CHECKING:
    from flows.wiring.model import Node

OPENERS = {"RewardModel": ("tasks.training.reward_scorer", "reward_scorer")}
"""Kind of a model → the function that makes an oracle of it: its content holds weights and no code."""
KINDS, CHOSEN = "tasks.kinds", ("tasks.contract", "Chosen")
"""Where the classes of handles are, and the class of what a task is given as a choice."""
Identity = Callable[..., Mapping[str, "str | Path"]]


@dataclass(frozen=True)
class Key:
    """Digest of the parts (32 hex digits), and what a record keeps: the parts, and where the code lies."""

    digest: str
    parts: Mapping[str, JSON]
    code: Mapping[str, str] = field(default_factory=dict)
    """Digest by `path::unit`, for sentences about what changed."""


class Choices:
    """Turns choices into what a task receives, and asks them what they read of the outside world.

    `base` is the folder that relative paths are relative to. `online`: identities may use the network.
    """

    def __init__(self, code: CodeIndex, contents: Contents, base: Path | None = None, *, online: bool = False) -> None:
        self.code = code
        self._contents = contents
        self._base = (base or Path.cwd()).absolute()
        self._online = online
        self._identities: dict[str, dict[str, str]] = {}

    def chosen(self, choice: ChoiceValue) -> Chosen:
        """The choice with the digest of its code and its identity filled in. Raises SpecError."""
        module = _module(choice)
        code = self.code.reach(module, choice.name).digest
        return Chosen(
            choice.folder, choice.name, dict(choice.params), code, self.identity(choice), dict(choice.execution)
        )

    def arguments(self, node: Node) -> dict[str, object]:
        """The keyword arguments of a step's task: parameters and execution parameters, choices made callable."""
        return {**{n: self._argument(v) for n, v in node.params.items()}, **node.execution}

    def identity(self, choice: ChoiceValue) -> dict[str, str]:
        """What the choice's own `identity()` says, with paths as content digests; empty if it has none."""
        name = json.dumps([choice.folder, choice.name, choice.params], sort_keys=True)
        if name not in self._identities:
            found: dict[str, str] = {}
            if self.code.defines(_module(choice), "identity"):
                said = self._function(_module(choice))(online=self._online, base=self._base, **choice.params)
                found = {k: self._said(v) for k, v in sorted(said.items())}
            self._identities[name] = found
        return self._identities[name]

    def _said(self, value: str | Path) -> str:
        return self._contents.digest(self._base / value) if isinstance(value, Path) else value

    def _argument(self, value: object) -> object:
        if isinstance(value, ChoiceValue):
            return self.chosen(value)
        if isinstance(value, list | tuple):
            return [self._argument(v) for v in value]
        return value

    def _function(self, module: str) -> Identity:
        """`identity` of a file, loaded from the indexed code: what was imported before may be another version."""
        path = self.code.path(module)
        name = f"{module}.identity.{blake3(str(path).encode()).hexdigest(4)}"
        spec = importlib.util.spec_from_file_location(name, path) if path else None
        if spec is None or spec.loader is None:
            raise SpecError(f"{module} cannot be loaded to ask for its identity")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)
        function: Identity = loaded.identity
        return function


def step_key(node: Node, inputs: Mapping[str, Sequence[str]], choices: Choices) -> Key:
    """The key of a step, given the content digests of its inputs by port in list order. Raises SpecError."""
    fixed = fixed_key(node, choices)
    fed: JSON = {port: list(inputs[port]) for port in sorted(inputs) if inputs[port]}
    parts = {**fixed.parts, "inputs": fed}
    return Key(digest_of(parts), parts, fixed.code)


def fixed_key(node: Node, choices: Choices) -> Key:
    """What is known of a step's key before its inputs are: its parts without them. Raises SpecError."""
    reached = reached_by(node, choices.code)
    identities: dict[str, JSON] = {}
    for name, choice in _choices(node.params):
        said = choices.identity(choice)
        if said:
            identities[name] = dict(said)
    parts: dict[str, JSON] = {
        "task": node.task,
        "code": reached.listed,
        "wiring": reached.wiring,
        "params": {name: plain(value) for name, value in sorted(node.params.items())},
        "packages": dict(reached.versions),
        "identities": identities,
    }
    return Key(digest_of(parts), parts, reached.units)


def reached_by(node: Node, code: CodeIndex) -> Reached:
    """Code reached by the task, by the handles that it takes and gives, and by every function that it was given as a
    choice, or that asks an oracle which is a model."""
    places = {(node.module, node.task), *(OPENERS[kind] for kind in node.opens & OPENERS.keys())}
    places |= {(KINDS, kind) for kind in (node.kind, *node.kinds) if code.defines(KINDS, kind)}
    choices = [choice for _, choice in _choices(node.params)]
    if choices and code.defines(*CHOSEN):
        places.add(CHOSEN)
    return code.reach_all(places | {(_module(choice), choice.name) for choice in choices})


def digest_of(parts: Mapping[str, JSON]) -> str:
    """Digest of canonical JSON."""
    return blake3(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest(16)


def fixed_digest(parts: Mapping[str, JSON]) -> str:
    """Digest of the parts without the inputs."""
    return digest_of({name: part for name, part in parts.items() if name != "inputs"})


def plain(value: Value | Sequence[Value]) -> JSON:
    """A parameter's value as JSON; a choice becomes its name and parameters."""
    if isinstance(value, ChoiceValue):
        return {"choice": f"{value.folder}/{value.name}", "params": dict(value.params)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value  # type: ignore[return-value]


def _choices(params: Mapping[str, Value]) -> Iterator[tuple[str, ChoiceValue]]:
    for name, value in sorted(params.items()):
        several = value if isinstance(value, list | tuple) else [value]
        for i, one in enumerate(several):
            if isinstance(one, ChoiceValue):
                yield (name if one is value else f"{name}.{i}"), one


def _module(choice: ChoiceValue) -> str:
    return ".".join(["tasks", *choice.folder.split("/"), choice.name])
