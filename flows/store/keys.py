"""The key of a step: what its result depends on, and the digest of that.

Parts of a key: `task`, `code` (sorted names and digests of units), `wiring` (which unit uses which), `params`, `inputs`
(contents by port), `packages` (public versions), `identities` (what choices read of the outside world). The step's
name, its execution parameters, and the files that its code lies in are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from flows.python.code_index import CodeIndex
from flows.python.reached import Reached
from flows.store.content import Contents
from flows.store.identities import Identities, choices_of, module_of
from flows.wiring.model import ChoiceValue, Value
from tasks.contract import COMPANIONS, JSON, Chosen

if TYPE_CHECKING:
    from flows.wiring.model import Node

OPENERS = {"RewardModel": ("tasks.training.reward_scorer", "reward_scorer")}
"""Kind of a model → the function that makes an oracle of it: its content holds weights and no code."""
KINDS, CHOSEN = "tasks.kinds", ("tasks.contract", "Chosen")
"""Where the classes of handles are, and the class of what a task is given as a choice."""


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
        self.identities = Identities(code, contents, (base or Path.cwd()).absolute(), online=online)

    def chosen(self, choice: ChoiceValue) -> Chosen:
        """The choice with the digest of its code and its identity filled in. Raises SpecError."""
        code = self.code.reach(module_of(choice), choice.name).digest
        identity = self.identities.of(choice)
        return Chosen(choice.folder, choice.name, dict(choice.params), code, identity, dict(choice.execution))

    def arguments(self, node: Node) -> dict[str, object]:
        """The keyword arguments of a step's task: parameters and execution parameters, choices made callable."""
        return {**{n: self._argument(v) for n, v in node.params.items()}, **node.execution}

    def _argument(self, value: object) -> object:
        if isinstance(value, ChoiceValue):
            return self.chosen(value)
        if isinstance(value, list | tuple):
            return [self._argument(v) for v in value]
        return value


def step_key(node: Node, inputs: Mapping[str, Sequence[str]], choices: Choices) -> Key:
    """The key of a step, given the content digests of its inputs by port in list order. Raises SpecError."""
    fixed = fixed_key(node, choices)
    fed: JSON = {port: list(inputs[port]) for port in sorted(inputs) if inputs[port]}
    parts = {**fixed.parts, "inputs": fed}
    return Key(digest_of(parts), parts, fixed.code)


def fixed_key(node: Node, choices: Choices) -> Key:
    """What is known of a step's key before its inputs are: its parts without them. Raises SpecError."""
    reached = reached_by(node, choices.code)
    choices.identities.refuse_unseen(node)
    asked = {name: choices.identities.of(choice) for name, choice in choices_of(node.params)}
    parts: dict[str, JSON] = {
        "task": node.task,
        "code": reached.listed,
        "wiring": reached.wiring,
        "params": {name: plain_value(value) for name, value in sorted(node.params.items())},
        "packages": dict(reached.versions),
        "identities": {name: dict(said) for name, said in asked.items() if said},
    }
    return Key(digest_of(parts), parts, reached.units)


def reached_by(node: Node, code: CodeIndex) -> Reached:
    """Code reached by the task, by the handles that it takes and gives, and by every function that it was given as a
    choice, that stands beside one, or that asks an oracle which is a model."""
    places = {(node.module, node.task), *(OPENERS[kind] for kind in node.opens & OPENERS.keys())}
    places |= {(KINDS, kind) for kind in (node.kind, *node.kinds) if code.defines(KINDS, kind)}
    choices = [choice for _, choice in choices_of(node.params)]
    if choices and code.defines(*CHOSEN):
        places.add(CHOSEN)
    beside = {(module_of(choice), name) for choice in choices for name in COMPANIONS}
    places |= {place for place in beside if code.is_function(*place)}
    return code.reach_all(places | {(module_of(choice), choice.name) for choice in choices})


def digest_of(parts: Mapping[str, JSON]) -> str:
    """Digest of canonical JSON."""
    return blake3(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest(16)


def fixed_digest(parts: Mapping[str, JSON]) -> str:
    """Digest of the parts without the inputs."""
    return digest_of({name: part for name, part in parts.items() if name != "inputs"})


def plain_value(value: Value | Sequence[Value]) -> JSON:
    """A parameter's value as JSON; a choice becomes its name and parameters."""
    if isinstance(value, ChoiceValue):
        return {"choice": f"{value.folder}/{value.name}", "params": dict(value.params)}
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    return value  # type: ignore[return-value]
