"""What a task or a choice may declare about itself, beside its function, for planner, tables and figures.

A declaration of the task `mine` is a top-level function or constant `mine_<what>` of the same file:

| name | value | default |
|---|---|---|
| `mine_size` | `(step) -> Size`: rows of the result | the rows of its first input |
| `mine_cost` | `(step) -> Cost`: what the step consumes | time alone |
| `mine_work` | `(step) -> float`: what its time is proportional to | the first quantity of its cost, else its rows |
| `mine_resources` | `Resources`, or `(step) -> Resources` | one CPU thread; with a policy: a GPU, or all threads |
| `mine_memory` | `(step, machine) -> Memory`: bytes at its peak; None: not known | not known |
| `mine_architecture` | `(step) -> Mapping`: config.json of its model; None: not known | that of its first model |
| `mine_wiring` | `(step) -> None`, raises SpecError where the step can only fail as it is wired | |
| `mine_files` | the same for the files that it reads | |
| `mine_training` | `(step) -> Training`: how it trains a model | |
| `mine_evaluation` | `(step) -> Evaluation`: what its Report measures | |
| `mine_metrics` | name → `Metric`: the rows of its Report, in the order of the columns | no column |
| `mine_bins` | name → `Binned`: the histograms of its Report | no figure |
| `mine_excludes` | names of ports whose rows it keeps out of its result: it may be measured on them | none |
| `mine_curves` | name → `Curve`: its training curves, in the order of the figures | no figure |
| `mine_totals` | name → `Total`: the totals of its record that people read, in their order | as they are |

A choice has a file of its own, so there the name is `resources` alone: `Resources`, or a function that gets the
choice's parameters by name. A world declares its `world`, and a loss its
`reward_scale`, the λ of E[r] − λ·KL(π ‖ π_ref) whose optimum is the loss's.

A declaration is run without importing its file: only it and what it names there. So it must be light itself, whatever
the file imports for the task. No declaration is in a key, because the task does not reach it. One that fails costs its
number and a notice, never a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Literal, Protocol

from tasks.contract import JSON, Chosen

DECLARATIONS = (
    "size", "cost", "work", "resources", "memory", "architecture", "wiring", "files", "training", "evaluation",
    "metrics", "bins", "excludes", "curves", "totals",
)  # fmt: skip
"""What `<what>` may be in `mine_<what>`."""


class StepView(Protocol):
    """A step as its declarations see it: before it runs, or as its record has it."""

    @property
    def task(self) -> str: ...

    @property
    def kind(self) -> str:
        """Kind of its result."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Its parameters but for the choices."""
        ...

    @property
    def choices(self) -> Mapping[str, Chosen]: ...

    @property
    def inputs(self) -> Mapping[str, Sequence[StepView]]:
        """Port → the steps that feed it."""
        ...

    @property
    def rows(self) -> float:
        """Rows of its result; nan where that is not known."""
        ...

    @property
    def k(self) -> float:
        """Answers per prompt in its result; nan where that is not known, or it holds no answers."""
        ...

    @property
    def config(self) -> Mapping[str, Any] | None:
        """config.json of the model that is its result; None where that is not known, or it makes none."""
        ...

    @property
    def origin(self) -> Any:
        """What it shows: for those who made the view."""
        ...

    @property
    def base(self) -> Path:
        """What relative paths are relative to."""
        ...

    @property
    def evaluation(self) -> Evaluation | None:
        """What its Report measures; None where its task does not declare it."""
        ...

    def declares(self, param: str, what: str) -> Any:
        """What the choice of a parameter declares; None where it does not."""
        ...

    def first(self, port: str) -> StepView | None:
        """The first step that feeds a port; None where nothing does."""
        ...

    def rows_of(self, port: str) -> float:
        """Rows of what feeds a port; nan where that is not known."""
        ...


@dataclass(frozen=True)
class Size:
    """How large a result is. nan: not known before it runs."""

    rows: float = nan
    k: float = nan
    """Answers per prompt, where it holds answers."""


@dataclass(frozen=True)
class AtMost:
    """A quantity of which only a bound is known before the step runs."""

    bound: float
    typical: bool = True
    """Whether a former run of the task shows how much it usually is."""


REWRITERS = frozenset({"write_weights"})
"""Tasks that change the content of prompts, and so their ids: the prompts that go in are seen where those that come
out are, and the other way round."""
Sharding = Literal["auto", "ddp", "fsdp"]
Cost = Mapping[str, "float | AtMost"]
"""What a step consumes: `samples`, `queries`, `tokens`, `steps`, or any other word. nan: not known before it runs."""


@dataclass(frozen=True)
class Resources:
    """What a step needs of the machine while it runs."""

    exclusive: bool = False
    """Whether it uses all CPU threads, so that no other such step runs beside it."""
    gpus: int = 0
    """GPUs of each process, which the step takes instead of the CPUs where the machine has any; with 0 it sees none."""
    ranks: bool = False
    """Whether the task can run as several processes (`tasks.ranks`), each with GPUs of its own."""


HEAVY = Resources(exclusive=True)
"""Of steps that keep all CPU threads busy."""
ACCELERATED = Resources(exclusive=True, gpus=1)
"""Of steps that compute with a model: on a GPU where there is one, else with all CPU threads."""
SHARED = Resources(exclusive=True, gpus=1, ranks=True)
"""Of those whose work several ranks can share."""


@dataclass(frozen=True)
class Machine:
    """What steps run on."""

    gpu: bool
    device_bytes: float
    """Memory of a GPU; that of the machine where there is none."""
    host_bytes: float
    """Memory of the machine."""
    ranks: int = 1
    """Processes as which the step runs, each on a device of its own; without GPUs they share the machine's memory."""
    sharding: Sharding = "auto"
    """How a training spreads its model over several devices; `auto`: in shards (`fsdp`) only where it needs them."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a step needs at its peak, on each device that it uses."""

    parts: Mapping[str, float]
    """What needs them on the device → bytes."""
    host: float = 0.0
    """Bytes besides in the machine's memory, of each process."""
    alternatives: Mapping[str, Memory] = field(default_factory=dict)
    """Changes of the step's parameters → what it would need then, the smallest change first."""

    @property
    def device(self) -> float:
        return sum(self.parts.values())

    def fits(self, machine: Machine) -> bool:
        """Whether there is so much on the machine. Without a GPU the device is the machine, for all ranks."""
        host = machine.ranks * (self.host if machine.gpu else self.host + self.device)
        return (not machine.gpu or self.device <= machine.device_bytes) and host <= machine.host_bytes


@dataclass(frozen=True)
class Training:
    """How a step trains a model, as runs of any method are compared by."""

    algorithm: str
    kl_weight: float | None = None
    """λ of E[r] − λ·KL(π ‖ π_ref); None: the `reward_scale` of its loss."""
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    """Parameters that runs of all methods have in common, such as `k`."""
    constants: Mapping[str, JSON] = field(default_factory=dict)
    """Constants of the training, such as `lr`."""


@dataclass(frozen=True)
class Evaluation:
    """What a Report measures, and with what: numbers may stand beside each other only where all of it is equal."""

    title: str
    measured: Sequence[tuple[StepView, Sequence[StepView]]]
    """Each table that is measured on, with the models whose numbers they are and which it must not have trained."""
    model: StepView | None = None
    """The model that the numbers are of."""
    data: StepView | None = None
    """Its prompts or pairs."""
    baseline: StepView | None = None
    """The model that it is compared with."""
    oracle: StepView | None = None
    """Who judged the answers; None where people had judged before."""
    sides: tuple[StepView | None, StepView | None] = (None, None)
    """The answers of both."""
    judgements: StepView | None = None
    """The oracle's P for pairs of answers."""
    scores: Sequence[StepView] = ()
    """Tables of answers with the oracle's scores."""
    settings: Mapping[str, JSON] = field(default_factory=dict)
    """What else changes the numbers, by its name in sentences."""
    allow_seen: bool = False
    """Whether the models may have been trained on what is measured; otherwise the step is refused."""
    includes: Sequence[StepView] = ()
    """Reports whose rows are all in this one, the one that it is ranked by first: tables do not show them again."""


@dataclass(frozen=True)
class Metric:
    """A row of a Report, and how people see it. A name includes longer ones: `eval/beats` for `eval/beats/2/1`."""

    column: str = ""
    """Head of its column in tables, where `{}` stands for the rest of a longer name; empty: no column."""
    format: str = ".2f"
    interval: bool = False
    """Whether tables show its 95% interval."""
    compared: bool = True
    """Whether the table of several runs has the column, too."""
    ranks: bool = False
    """Whether runs are ranked by it."""
    higher_is_better: bool = True
    role: Literal[
        "",
        "win_rate",
        "score",
        "proxy",
        "distance",
        "gap",
        "mixture_gap",
        "beats",
        "group",
        "same_verdict",
        "kappa",
        "correlation",
        "correlation_within",
        "probe",
        "probe_change",
        "accuracy_at",
        "distance_at",
        "accuracy_bound",
        "farthest",
    ] = ""
    """What figures and gates take it for: P(better than the baseline); a score by who measures, or by who trained; the
    KL from the baseline in nats; how far a policy, or a mixture of policies, can be beaten; P(one beats another); the
    main metric of a group of the rows; how often two annotators give the same verdict, and their kappa; the correlation
    of two quantities over all answers, or over those to one prompt; the log-probability of a kind of answer after so
    many steps of a training, and its change; an oracle's accuracy on the answers of numbered policies, the KL of each,
    the accuracy that is enough, the KL to which it is."""
    best_of_n: bool = False
    """Of a distance: whether it is that of the best of n samples, so that gains follow its law."""
    baseline: str = ""
    """The metric that holds the baseline's value of it."""
    figure: str = ""
    """Title of a figure of it by round."""
    axis: str = ""
    """Label of its axis."""
    chart: int = 0
    """Its place among MLflow's charts by round; 0: none."""
    of_run: bool = False
    """Whether MLflow has it as a number of the run also where its Report is not the headline."""


@dataclass(frozen=True)
class Binned:
    """Bins of a Report, and how a figure shows them. A name includes longer ones, as that of a `Metric` does."""

    title: str
    axis: str
    """Label of the axis along which they lie, with its unit."""
    of: str = "answers"
    """What they count."""
    value: str = ""
    """Label of the axis of what was measured in each bin; empty: the figure shows how many are in it."""
    reference: float | None = None
    """Where a line marks what is usual: on the axis of what was measured, or of the bins where nothing was."""
    metric: str = ""
    """The metric of the same Report that is the mean of what is binned; it has the same longer name."""


@dataclass(frozen=True)
class Curve:
    """A number of each optimizer step, and how figures show it."""

    title: str
    unit: str = ""
    """Label of its axis, where the title does not say it."""
    exact: bool = False
    """Whether it is set and not measured, as a learning rate is: it is never smoothed."""
    role: Literal["", "chosen", "rejected", "chosen_reward", "rejected_reward", "margin"] = ""
    """What figures take it for: the log-probability of chosen or rejected answers in nats; their reward, which is a
    multiple of log π/π_ref, or a score; the difference of both rewards."""


@dataclass(frozen=True)
class Total:
    """A total of a step's record (`Workspace.count`), and how people see it."""

    title: str
    """Head of its column in tables."""
    format: str = ",.0f"
    about: str = ""
    """What it is, where the title does not say so."""
