"""The parts of a task's signature, and what a task receives besides its inputs.

A task is a public top-level function of `tasks/*.py` whose return annotation is a kind (`tasks.kinds`).
Positional arguments annotated with kinds are its ports; keyword-only arguments are its parameters.
Standard library only: the light commands read signatures without importing anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, Union

UNKEYED = {
    "importlib.import_module": "a choice is in the key by its name and by the code that it reaches",
    "__file__": "a data file is in the key by its content",
}
"""What the key of a step leaves out here, and why that changes no result; see `flows.python.unfollowable`."""

EXTENSIONS: dict[str, Path] = {}
"""Folders of a user's own packages, by name, in which choices and data files lie beside those of `tasks`. The process
that runs a step fills it."""

JSON = Union[None, bool, int, float, str, "list[JSON]", "dict[str, JSON]"]
T = TypeVar("T")


class SpecError(ValueError):
    """The request is invalid: an unknown name, a value out of bounds, ports that do not fit."""


class DataError(ValueError):
    """The data cannot be used: rows that do not match, a table that is used up, a damaged file."""


class Waiting(Exception):
    """A step needs people: what they are to do is prepared, and the step goes on when it is run after they did it.

    This is no failure. The run goes on with what does not depend on the step, and ends with the status `waiting`. The
    text is one argument, and says what people have to do and with which command.
    """


@dataclass(frozen=True)
class Bounds:
    """Closed bounds of a numeric parameter; `above` and `below` are open ones."""

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None


SEED = Bounds(min=0, max=2**63 - 1)
Seed = Annotated[int, SEED]
"""A parameter that seeds random numbers."""


@dataclass(frozen=True)
class Choice:
    """A parameter that names a file of `<package>/<folder>/` (or of one of its sub-folders).

    The choice is the function that bears its file's name. A scalar that is no identifier goes to the
    choice `other` as its one string parameter (`source: ./ckpt` means `source: {path: {path: ./ckpt}}`).
    """

    folder: str
    other: str | None = None


@dataclass(frozen=True)
class ExecutionMark:
    """Marks a parameter that changes how a step runs, never what it yields: recorded, not keyed."""


Execution = Annotated[T, ExecutionMark()]

REWARD_SCALE = "reward_scale"
"""May stand beside a loss: takes any of its parameters, gives what turns log π/π_ref into an implicit reward."""
STATE_BYTES = "state_bytes"
"""May stand beside an optimizer: what it keeps per parameter, as a `tasks.calls.StateBytes`."""
BY_ELEMENT = "steps_by_element"
"""May stand beside an optimizer, and gives True where a number of a weight changes by its own gradients alone: then
each of several processes can step on its own part of a weight."""
COUPLES_ROWS = "couples_rows"
"""May stand beside a loss, takes any of its parameters, and gives True where a row's loss depends on other rows of the
batch. Such a loss gets the whole optimizer batch at once, whatever the micro-batches and the ranks."""
NEEDS_TARGETS = "needs_targets"
"""May stand beside a loss, and gives True: its target answers are not the chosen ones, so a step without a table of
targets is refused. `check` only looks whether the loss has it."""
COMPANIONS = (REWARD_SCALE, STATE_BYTES, BY_ELEMENT, COUPLES_ROWS, NEEDS_TARGETS)
"""Functions beside a choice that a task may call. They are in the key of every step that takes the choice."""


@dataclass(frozen=True)
class Chosen:
    """A choice as a task receives it: calling it calls the chosen function with the chosen parameters."""

    folder: str
    """Folder below `tasks/`, e.g. `losses/pairwise`."""
    name: str
    params: Mapping[str, JSON]
    code: str = ""
    """Digest of the code that the function reaches."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """The result of the choice's `identity()`: what it reads of the outside world."""
    execution: Mapping[str, JSON] = field(default_factory=dict)
    """Its `Execution` parameters: given to the function, in no key and in no specification."""

    @property
    def module(self) -> str:
        """Where the function is: no two packages have a choice of one name."""
        owners = (p for p, folder in EXTENSIONS.items() if (folder / self.folder / f"{self.name}.py").is_file())
        return ".".join([next(owners, "tasks"), *self.folder.split("/"), self.name])

    @property
    def function(self) -> Callable[..., Any]:
        from importlib import import_module

        function: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return function

    def companion(self, name: str) -> Callable[..., Any] | None:
        """One of the COMPANIONS in the choice's file; None where it has none."""
        from importlib import import_module

        if name not in COMPANIONS:
            raise SpecError(
                f"'{name}' of {self.module} is in no key; a task may call one of {list(COMPANIONS)} beside it"
            )
        function: Callable[..., Any] | None = getattr(import_module(self.module), name, None)
        return function

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        return self.function(*args, **inputs, **self.params, **self.execution)


class Workspace(Protocol):
    """A task's argument `work`: a folder that survives a kill, progress, and metrics for the record."""

    @property
    def path(self) -> Path:
        """A folder of this step's own. It survives a kill, so the next attempt can read what is in it."""
        ...

    @property
    def output(self) -> Path:
        """An empty folder, made anew for each attempt, in which the result may be built; published by a rename."""
        ...

    @property
    def answers(self) -> Path:
        """Folder of the answers of oracles, which all steps, runs and processes of a store share. It need not exist."""
        ...

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Report how far the step is. Cheap: call it as often as you like."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row to the curves kept in the record. Rows at or after `step` of an earlier attempt are dropped."""
        ...

    def count(self, **metrics: float) -> None:
        """Add to the totals kept in the record (`samples`, `queries`, `tokens`, `rows_skipped`, …)."""
        ...

    def notice(self, text: str) -> None:
        """Show the user a message beside the step, which the record keeps. Not for errors."""
        ...


@dataclass(frozen=True)
class ChoiceSpec:
    """A choice as a composite receives it, at compile time: nothing of it is imported."""

    folder: str
    name: str
    params: Mapping[str, JSON]
    arguments: tuple[str, ...]
    """Names of the chosen function's positional arguments, e.g. `policy_chosen_logps`."""
    returns: str
    """The last name in the function's return annotation, e.g. `Scorer`, `World`."""
    world: WorldSpec | None = None
    """The declaration of a source that is a world."""


@dataclass(frozen=True)
class WorldSpec:
    """A world's declaration, `world` in its file of `tasks/sources/`. Composites and checks read it."""

    base_policy: Callable[[Add, ChoiceSpec], Any]
    """Adds the steps that make its base policy; the ChoiceSpec is the world with its parameters."""
    splits: Mapping[str, int]
    """Split → number of its prompts."""
    human_split: str
    """The split whose answers its people compare: what `train` means for pairs."""
    gold: str
    """The oracle that its people follow, with noise, and that measures."""
    oracles: tuple[str, ...]
    """All oracles that judge answers to its prompts and to no others."""
    own_values: tuple[str, ...]
    """Parameters whose values, in a pipeline that has this world as its model, suit its base policy alone."""
    scorers: tuple[str, ...] = ()
    """Those of its oracles that score single answers: the attributes of its scored answers."""


class Step(Protocol):
    """A step's result inside a composite: an argument of a port, or what `add` returned."""

    @property
    def kind(self) -> str:
        """The kind of the result, the most specific that is known at compile time, e.g. `Scorer`."""
        ...

    def is_a(self, kind: str) -> bool:
        """Whether the result serves where `kind` is wanted: `oracle.is_a("Scorer")`."""
        ...


class Add(Protocol):
    """First argument of a composite: adds a step and returns its result as a `Step`.

    Ports take steps (or lists of them, or None for an empty optional one); choices are given as a name, a mapping
    or the ChoiceSpec that the composite got. `name` is needed where a task is added twice: `report/baseline_sample`.
    """

    def __call__(self, task: str, name: str | None = None, **inputs: Any) -> Any: ...


def data_file(name: str) -> Path:
    """The file `<package>/data/<name>`, whose content is in the key of every step that reaches the code which names it.

    The only way in which a task or a choice may read a file that lies beside the code. `name` must be written out, and
    only one package may have a file of that name.
    """
    files = (folder / "data" / name for folder in (Path(__file__).parent, *EXTENSIONS.values()))
    return next(file for file in files if file.exists())


def chunks(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(total)`."""
    return (slice(i, min(i + size, total)) for i in range(0, total, size))
