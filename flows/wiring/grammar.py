"""The grammar of a pipelines file: its keys with their texts, for reader, compiler, refusals and JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.wiring.tree import Yaml, entries

FILE = {
    "extend": "folders of your own tasks and choices, which mirror tasks/: paths from this file",
    "pipelines": "every wiring, by name",
    "profiles": "on which devices runs compute and where they are tracked: `--profile NAME`; no result depends on it",
}
PIPELINE = {
    "about": "what the pipeline does, with its source",
    "extends": "the pipeline that this one changes: NAME, FILE#NAME with a path from this file, or alignflow#NAME",
    "params": "parameters and their values; an empty value means required",
    "steps": "the steps before the loop",
    "repeat": "the loop over rounds",
    "after": "the steps after the loop; they may use last.x and every.x",
    "deployments": "how it is deployed",
}
REPEAT = {
    "times": "number of rounds; default: the length of `each`",
    "start": "what prev.x means in the first round; null: empty",
    "each": "parameters with one value per round; the last one repeats",
    "steps": "the steps of one round; they may use prev.x and $round",
}
DEPLOYMENT = {
    "schedule": "when it runs",
    "continue": "never (the default), always, or {gate: STEP, alpha: 0.05}: go on where the last tick stopped",
    "steps": "steps of the tick, over the pipeline's",
}
SCHEDULE = {"cron": "five fields", "timezone": "an IANA name; default: UTC"}
CONTINUE = {
    "gate": "the step that measures a round's policy against the head; the round is accepted only if it is better",
    "alpha": "largest probability of ever accepting a policy that is no better, over all rounds; default: 0.05",
}
PROFILE = {
    "gpus": "GPUs that a run may use at a time, which must be there; default: all that are visible",
    "ranks": "processes that share the work of a step, by the name of a step or task; default: 1 each",
    "sharding": "how training spreads a model over its ranks: auto (the default), ddp or fsdp",
    "timeout_minutes": "how long ranks may give no sign of life before they are ended; default: 30",
    "tracking": "where runs are tracked: mlflow (the default), wandb, trackio; ALIGNFLOW_TRACKING=wandb,… goes first",
}
TRACKING = ("mlflow", "wandb", "trackio")
"""The servers to which a run can be published."""
LOCAL = "local"
"""The profile of runs that name none: one process for every step, all visible GPUs."""
RESERVED = ("prev", "last", "every", "start")
TICKS = {"rounds": "ticks to make, one after the other", "force": "work even where the loop is stalled"}
"""Parameters of a deployment that continues, besides the pipeline's."""
ALPHA = 0.05
BUILT_IN = {
    "seed": "seed of every step that leaves it open", "engine": "engine of every step that samples",
    "max_tokens": "longest answer of every step that samples and leaves it open",
    "max_skipped": "largest share of unusable rows, at every step that leaves it open",
}  # fmt: skip
"""Parameters that every pipeline has without declaring them."""

MOST_ROUNDS = 2000
"""Rounds of one run, all of whose steps are in its graph before the first one begins."""
LONGEST_NAME = 80
"""In characters; names become names of files."""
NAME_RULE = f"letters, digits, _ and -; at most {LONGEST_NAME}"
PIPELINE_NAME = rf"[A-Za-z_][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}"
STEP_NAME = PIPELINE_NAME
PARAMETER_NAME = rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}"
REFERENCE = rf"(?:(prev|last|every)\.)?({STEP_NAME})"


def written_steps(pipeline: Yaml) -> dict[str, Yaml]:
    """The steps of a pipeline as its file has it: before, in and after the loop."""
    parts = entries(pipeline)
    sections = (parts.get("steps"), entries(parts.get("repeat")).get("steps"), parts.get("after"))
    return {name: step for section in sections for name, step in entries(section).items()}


@dataclass(frozen=True, eq=False)
class StepText:
    """A step as written: a mapping with a `task`, or a plain reference."""

    name: str
    section: str
    """`steps`, `repeat`, `after` or `tick` (a deployment's)."""
    node: Yaml
    own: bool
    """Whether the pipeline itself writes it, at least in part."""

    @property
    def alias(self) -> bool:
        return not isinstance(self.node.value, dict)


@dataclass(frozen=True)
class DeploymentText:
    """A deployment as written."""

    name: str
    node: Yaml
    cron: str | None
    timezone: str
    continues: bool
    gate: Yaml | None
    alpha: float
    """See CONTINUE."""
    steps: Mapping[str, StepText]
    schedule: Yaml | None = None
    """Its cron expression, with its place."""


@dataclass(frozen=True)
class Ancestor:
    """A pipeline of a line of variants."""

    written: Yaml
    """As its file has it."""
    whole: Yaml
    """With what it inherits."""


@dataclass(frozen=True)
class PipelineText:
    """A pipeline as written, with what it inherits; names and shapes checked, nothing compiled."""

    name: str
    about: str
    node: Yaml
    params: Mapping[str, Yaml]
    each: Mapping[str, Yaml]
    times: Yaml | None
    start: Mapping[str, Yaml]
    steps: Mapping[str, StepText]
    """Of all sections but the deployments'."""
    deployments: Mapping[str, DeploymentText]
    own: frozenset[str]
    """`params.x`, `start.x`, `each.x` that the pipeline itself writes."""
    lineage: tuple[Ancestor, ...]
    """This pipeline and those that it extends, nearest first."""

    def section(self, name: str) -> list[StepText]:
        return [s for s in self.steps.values() if s.section == name]
