"""The key of a step: what its result depends on, and the digest of that.

Parts of a key: `task`, `code` (sorted names and digests of units), `wiring` (which unit uses which), `params`, `inputs`
(contents by port), `packages` (public versions), `identities` (what choices read of the outside world). The step's
name, its execution parameters, and the files that its code lies in are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from flows.python.code_index import CodeIndex
from flows.python.importing import activate
from flows.python.reached import Reached
from flows.store.content import Contents
from flows.store.identities import Identities, choices_of
from flows.wiring.model import ChoiceValue, Value
from tasks.contract import COMPANIONS, JSON, Chosen

if TYPE_CHECKING:
    from flows.wiring.model import Node

OPENERS = {
    "RewardModel": ("tasks.training.reward_scorer", "reward_scorer"),
    "PreferenceModel": ("tasks.training.preference_oracle", "preference_oracle"),
    "ImplicitReward": ("tasks.training.implicit_scorer", "implicit_scorer"),
    "PolicyJudge": ("tasks.judging.policy_judge", "policy_judge"),
    "Ensemble": ("tasks.judging.ensemble_scorer", "ensemble_scorer"),
}
"""Kind → the function that opens it as an oracle. Such artifacts hold weights, or the names of members, and no code, so
the code of that function is in the key of each step that opens one."""
OF_ANY_KIND = frozenset({"Ensemble"})
"""Kinds whose members may be of any kind: the code that opens each of them counts."""
KINDS, CHOSEN = "tasks.kinds", ("tasks.contract", "Chosen")
"""The module of the classes of handles, and the class of a choice as a task receives it."""


@dataclass(frozen=True)
class Key:
    """Digest of the parts (32 hex digits), and what a record keeps: the parts, and where the code lies."""

    digest: str
    parts: Mapping[str, JSON]
    code: Mapping[str, str] = field(default_factory=dict)
    """Digest by `path::unit`, for sentences about what changed."""


class Choices:
    """Prepares steps, each once, for the code and the files outside of the store as they are now.

    `base` is the folder that relative paths are relative to. `online`: identities may use the network.
    """

    def __init__(self, code: CodeIndex, contents: Contents, base: Path | None = None, *, online: bool = False) -> None:
        activate(code.codebase.packages.values())
        self.code = code
        self.identities = Identities(code, contents, (base or Path.cwd()).absolute(), online=online)
        self._prepared: dict[int, PreparedStep] = {}
        self._openers: dict[str, str] = {}

    def opener_digest(self, kind: str) -> str:
        """Digest of the code that opens an oracle of this kind, and of its packages' versions; else empty."""
        if kind in OPENERS and kind not in self._openers and self.code.defines(*OPENERS[kind]):
            self._openers[kind] = self.code.reach(*OPENERS[kind]).digest
        return self._openers.get(kind, "")

    def prepare(self, node: Node) -> PreparedStep:
        """What is known of a step before its inputs are; its members raise SpecError where no key can follow it."""
        if id(node) not in self._prepared:
            self._prepared[id(node)] = PreparedStep(node, self)
        return self._prepared[id(node)]

    def chosen(self, choice: ChoiceValue) -> Chosen:
        """The choice with the digest of its code and its identity filled in. Raises SpecError."""
        code = self.code.reach(choice.module, choice.name).digest
        identity = self.identities.of(choice)
        return Chosen(choice.folder, choice.name, dict(choice.params), code, identity, dict(choice.execution))


class PreparedStep:
    """A step as far as it is known before its inputs are: its code, its key without inputs, its arguments."""

    def __init__(self, node: Node, choices: Choices) -> None:
        self.node, self._choices = node, choices

    @cached_property
    def reached(self) -> Reached:
        return _reached_by(self.node, self._choices.code)

    @cached_property
    def _parts(self) -> dict[str, JSON]:
        identities = self._choices.identities
        identities.refuse_unseen(self.node)
        read = {name: identities.of(choice) for name, choice in choices_of(self.node.params)}
        return {
            "task": self.node.task,
            "code": self.reached.listed,
            "wiring": self.reached.wiring,
            "params": {name: plain_value(value) for name, value in sorted(self.node.params.items())},
            "packages": dict(self.reached.versions),
            "identities": {name: dict(names) for name, names in read.items() if names},
        }

    @property
    def fixed(self) -> Key:
        """The key without its inputs."""
        return Key(digest_of(self._parts), self._parts, self.reached.units)

    def key(self, inputs: Mapping[str, Sequence[str]]) -> Key:
        """The key, given the content digests of the inputs by port in list order."""
        parts: dict[str, JSON] = {**self._parts, "inputs": {p: list(inputs[p]) for p in sorted(inputs) if inputs[p]}}
        return Key(digest_of(parts), parts, self.reached.units)

    @cached_property
    def arguments(self) -> dict[str, object]:
        """The keyword arguments of its task: parameters and execution parameters, choices made callable."""
        return {**{n: self._argument(v) for n, v in self.node.params.items()}, **self.node.execution}

    def _argument(self, value: object) -> object:
        if isinstance(value, ChoiceValue):
            return self._choices.chosen(value)
        if isinstance(value, list | tuple):
            return [self._argument(v) for v in value]
        return value

    @property
    def outside(self) -> dict[Path, str]:
        """The files and folders that its choices read, with the digests that the key holds."""
        several = (self._choices.identities.paths(choice) for _, choice in choices_of(self.node.params))
        return {path: digest for paths in several for path, digest in paths.items()}

    @cached_property
    def execution(self) -> dict[str, JSON]:
        """Execution parameters of the step and of its choices: recorded, never keyed."""
        choices = {n: v.execution for n, v in self.node.params.items() if isinstance(v, ChoiceValue) and v.execution}
        return {**self.node.execution, **{f"{n}.{k}": v for n, several in choices.items() for k, v in several.items()}}


def _reached_by(node: Node, code: CodeIndex) -> Reached:
    """Code reached by the task, by the classes of its inputs and its result, by its choices with their companions, and
    by the functions that open a model as an oracle."""
    opens = OPENERS.keys() if node.opens & OF_ANY_KIND else node.opens & OPENERS.keys()
    places = {(node.module, node.task), *(OPENERS[kind] for kind in opens)}
    places |= {(KINDS, kind) for kind in (node.kind, *node.kinds) if code.defines(KINDS, kind)}
    places |= {(group.module, group.name) for group in node.groups.values()}
    choices = [choice for _, choice in choices_of(node.params)]
    if choices and code.defines(*CHOSEN):
        places.add(CHOSEN)
    beside = {(choice.module, name) for choice in choices for name in COMPANIONS}
    places |= {place for place in beside if code.is_function(*place)}
    return code.reach_all(places | {(choice.module, choice.name) for choice in choices})


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
