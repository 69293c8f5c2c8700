"""Loss families: what the losses of each folder of `tasks/losses/` may name, what fills it, and what they train.

The compiler, the trainer, its metrics, `check --deep` and the JSON Schema read these objects, so that `check` accepts
what can be trained. A loss is a pure function: its positional arguments are any of its family's, filled by name; it
returns `(B,)`, one loss for each row of the batch. Standard library only.

Shapes: `(B,)`, a number for each row; `(B, K)` where a row has several answers. Log-probabilities are nats.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

DATA = "data"
"""Port of a task with a loss: the table that it trains on."""
FEEDS: Mapping[str, tuple[str, ...]] = {
    "reference": ("ref", "ref_logps"),
    "anchor": ("anchor", "anchor_logps"),
    "target": ("targets",),
    "mismatched": ("mismatched", "mismatched_logps"),
}
"""What fills an argument → optional ports of such a task that give it. A loss that names no such argument ignores
them."""
TARGETS = FEEDS["target"]
_NEEDED = {"reference": "a reference", "anchor": "an anchor (a second reference)"}
"""What a loss cannot do without, if it names an argument of it."""
ALL_REFERENCES = tuple(port for source in _NEEDED for port in FEEDS[source])


NO_TARGETS = "needs a table of target answers, because its targets are not the chosen ones: feed the port `targets`"
"""Why a task cannot train with a loss that has the companion `needs_targets`, where it is given none."""


@dataclass(frozen=True)
class LossArgument:
    """An argument that a loss may name."""

    name: str
    about: str
    filled_by: Literal[
        "model", "reference", "anchor", "target", "mismatched", "share", "length", "mask", "column", "rollout"
    ] = "column"
    """model: the model's output for an answer, anew at every step; reference: an answer's log-probability under the
    reference; anchor: under the anchor, a second reference, of several ones their mean; target: the model's output for
    the target answer of the row, which is the chosen one where the step has no table of targets; mismatched: one number
    for the whole optimizer batch, from answers to other prompts; share: one number for the whole table, the share of
    rows whose column is True; length: an answer's tokens; mask: whether there is an answer; column: a column of the
    table; rollout: what sampling recorded of a token."""
    output: Literal["", "common", "weight"] = ""
    """Which log-probability of an answer. Empty: that of the whole answer. common: that of as many of its first tokens
    as the shorter answer of the pair has. weight: the mean over its tokens of log π(y_t) − log Σ_v π(v)²; it has no
    gradient."""
    answer: int | None = None
    """Of a pair: 0 for the chosen answer's, 1 for the rejected one's."""
    column: str = ""
    """Name of the column, where it is not the argument's."""
    null: float = math.nan
    """What a null in the column counts as. Rows in which a loss reads NaN are refused."""
    padding: float = 0.0
    """Its value where a row has fewer than K answers."""
    holds: Literal["number", "bool", "list"] = "number"
    """What a row of the column holds, where it has one answer; a list gives `(B, K)`."""
    online: bool = False
    """Whether answers that are sampled and compared while the policy trains have it."""

    @property
    def learns(self) -> bool:
        """Whether a gradient in it trains the model."""
        return self.filled_by in ("model", "target") and self.output != "weight"


@dataclass(frozen=True)
class LossTable:
    """A kind of table that losses of a family work on."""

    kinds: tuple[str, ...]
    """The kinds that serve; none where no table is trained on."""
    answers: Literal["one", "pair", "list", "token"]
    """What a row holds: an answer, a chosen and a rejected answer, the K answers to a prompt, a token of an answer."""
    arguments: tuple[LossArgument, ...]
    judged_by: str | None = ""
    """Column that measures how good an answer is: it decides which answers the metrics count as chosen (above ½ in
    rows of one answer, the highest of several). Empty: every answer is to become likelier, or the pair's order
    decides; None: nothing does."""

    def named(self, names: Collection[str]) -> tuple[LossArgument, ...]:
        """Those arguments that have one of the names."""
        return tuple(argument for argument in self.arguments if argument.name in names)


@dataclass(frozen=True)
class LossFamily:
    """The losses of one folder."""

    about: str
    trains: str
    """Kind of the trained model."""
    outputs: Literal["logps", "scores"]
    """What the model gives for an answer. Metrics: logps/* of log-probabilities, and rewards/* where there is a
    reference; scores are rewards themselves."""
    tables: tuple[LossTable, ...]
    """A loss works on the first of them that has all its arguments."""

    @property
    def arguments(self) -> Mapping[str, LossArgument]:
        """Everything that a loss of the family may name."""
        return {argument.name: argument for table in self.tables for argument in table.arguments}

    def table_of(self, names: Collection[str]) -> LossTable | None:
        """The table that a loss with these arguments works on, None where none has them all."""
        return next((table for table in self.tables if len(table.named(names)) == len(set(names))), None)

    def reads(self, names: Collection[str], source: str) -> bool:
        """Whether an argument of a loss with these arguments is filled by `source`, one of FEEDS."""
        return any(self.arguments[name].filled_by == source for name in names if name in self.arguments)

    def unread_ports(self, names: Collection[str]) -> list[str]:
        """Ports that give nothing which a loss with these arguments reads. Where none trains on a table, the task
        itself decides what its ports are for."""
        if not any(table.kinds for table in self.tables):
            return []
        return [port for source, ports in FEEDS.items() if not self.reads(names, source) for port in ports]

    def misnamed(self, names: Sequence[str]) -> tuple[str, str]:
        """What is wrong with the arguments of a loss, and with which of them; two empty texts where nothing is."""
        for name in names:
            if name not in self.arguments:
                return f"names the argument '{name}'", name
        outputs = [argument for argument in self.arguments.values() if argument.learns]
        if not any(argument.name in names for argument in outputs):
            options = ", ".join(f"{argument.name} ({argument.about})" for argument in outputs)
            return f"names none of {options}, so that nothing could be learnt from it", ""
        if self.table_of(names) is None:
            owners = {name: [t.kinds[0] for t in self.tables if t.named([name])] for name in names}
            mixed = ", ".join(f"{n} (of {' and '.join(o)})" for n, o in owners.items() if len(o) < len(self.tables))
            return f"names {mixed}, and no table has all of these", ""
        return "", ""

    def mismatch(
        self, names: Collection[str], model: Sequence[str], data: Sequence[str], ports: Collection[str],
        given: Collection[str],
    ) -> str:  # fmt: skip
        """Why a task cannot train with a loss that has these arguments, empty where it can.

        Args:
            names: arguments of the loss, which fit the family.
            model: kind that the task makes, then the kinds as which it serves.
            data: likewise of the table that it trains on; empty where it has none.
            ports: names of the task's ports.
            given: those of them that are fed.
        """
        table = self.table_of(names)
        if table is None or self.trains not in model:
            return f"trains a {self.trains}, not a {model[0]}"
        online = not data and DATA not in ports
        if online and table.kinds and (lacking := [n for n in names if not self.arguments[n].online]):
            return (
                f"names {', '.join(lacking)}, which answers that are sampled while the policy trains do not have; "
                f"they have {', '.join(n for n, argument in self.arguments.items() if argument.online)}"
            )
        if data and not table.kinds:
            return "learns from answers that are sampled while it trains (`ppo`, `grpo`), not from a table"
        if table.kinds and not online and not set(table.kinds) & set(data):
            return f"trains on {' or '.join(table.kinds)}, not on {data[0] if data else 'nothing'}"
        for source, what in _NEEDED.items():
            if self.reads(names, source) and not set(FEEDS[source]) & set(given):
                options = " or ".join(f"`{port}`" for port in FEEDS[source])
                return f"needs {what}, which is always explicit: feed the port {options} of its step"
        if self.reads(names, "mismatched") and (unfed := set(FEEDS["mismatched"]) & set(ports) - set(given)):
            return f"needs the ports {sorted(unfed)}: answers to other prompts; `train` makes them by itself"
        return ""


_MARGIN = LossArgument("margin", "how much better the chosen answer is, in the labeller's units; null means 0",
                       null=0.0)  # fmt: skip
_ANSWER = (
    LossArgument("policy_logps", "log-probability of the answer under the policy, summed over its tokens", "model"),
    LossArgument("ref_logps", "the same under the reference", "reference"),
    LossArgument("anchor_logps", "the same under the anchor", "anchor"),
    LossArgument("lengths", "tokens of the answer", "length", padding=1.0),
)
_RANKED = (
    LossArgument("target_scores", "what each answer was scored; 0 where there is none", column="scores"),
    LossArgument("mask", "where there is an answer, bool", "mask"),
)
_FIRST = "of the first min(n_w, n_l) tokens of the"
_WEIGHT = "answer's tokens of log π(y_t) − log Σ_v π(v)²; no gradient"
_PARTS = (
    LossArgument("policy_chosen_common_logps", f"{_FIRST} chosen answer under the policy", "model", "common", 0),
    LossArgument("policy_rejected_common_logps", f"{_FIRST} rejected answer under the policy", "model", "common", 1),
    LossArgument("ref_chosen_common_logps", f"{_FIRST} chosen answer under the reference", "reference", "common", 0),
    LossArgument("ref_rejected_common_logps", f"{_FIRST} rejected answer under the reference", "reference", "common",
                 1),
    LossArgument("policy_chosen_log_weights", f"mean over the chosen {_WEIGHT}", "model", "weight", 0),
    LossArgument("policy_rejected_log_weights", f"mean over the rejected {_WEIGHT}", "model", "weight", 1),
)  # fmt: skip

LOSSES: Mapping[str, LossFamily] = {
    "losses/pairwise": LossFamily("losses of pairs", "Policy", "logps", (
        LossTable(("Preferences",), "pair", (
            LossArgument("policy_chosen_logps", "log-probability of the chosen answer under the policy, summed over "
                         "its tokens", "model", answer=0, online=True),
            LossArgument("policy_rejected_logps", "the same of the rejected answer", "model", answer=1,
                         online=True),
            LossArgument("ref_chosen_logps", "of the chosen answer under the reference", "reference", answer=0,
                         online=True),
            LossArgument("ref_rejected_logps", "of the rejected answer under the reference", "reference", answer=1,
                         online=True),
            LossArgument("anchor_chosen_logps", "of the chosen answer under the anchor, a second reference", "anchor",
                         answer=0),
            LossArgument("anchor_rejected_logps", "of the rejected answer under the anchor", "anchor", answer=1),
            LossArgument("target_logps", "of the target answer to the prompt under the policy; the target is the "
                         "chosen answer where the step has no table of targets", "target"),
            *_PARTS,
            LossArgument("chosen_lengths", "tokens of the chosen answer", "length", answer=0, online=True),
            LossArgument("rejected_lengths", "tokens of the rejected answer", "length", answer=1, online=True),
            LossArgument("p", "P(chosen beats rejected) as judged; refused where it is null", online=True),
            _MARGIN,
            LossArgument("reward_margin", "how much higher the chosen answer scores; refused where it is null",
                         column="margin"),
        )),
    )),
    "losses/pointwise": LossFamily("losses of single answers", "Policy", "logps", (
        LossTable(("Demonstrations", "Completions"), "one", _ANSWER),
        LossTable(("WinRates",), "one", (
            *_ANSWER,
            LossArgument("win_rate", "mean P of winning, in [0, 1]"),
            LossArgument("prompt_win_rates", "those of all answers to the prompt, NaN where there are fewer than K",
                         padding=math.nan, holds="list"),
        ), "win_rate"),
        LossTable(("Labels",), "one", (
            *_ANSWER, LossArgument("label", "whether the answer is desirable", holds="bool"),
            LossArgument("kl_reference", "mean of log π/π_ref over the optimizer batch, of answers to other prompts "
                         "than theirs: an estimate of KL(π ‖ π_ref), equal for all rows, no gradient, may be below 0",
                         "mismatched"),
            LossArgument("desirable_share", "share of the table's rows that are desirable, equal for all rows", "share",
                         column="label"),
        ), "label"),
    )),
    "losses/listwise": LossFamily("losses of ranked answers", "Policy", "logps", (
        LossTable(("Rankings",), "list", (*_ANSWER, *_RANKED), "scores"),
    )),
    "losses/reward": LossFamily("losses of reward models", "RewardModel", "scores", (
        LossTable(("Preferences",), "pair", (
            LossArgument("chosen_scores", "what the model scores the chosen answer", "model", answer=0),
            LossArgument("rejected_scores", "what it scores the rejected answer", "model", answer=1),
            _MARGIN,
        )),
        LossTable(("Scores",), "one", (
            LossArgument("scores", "what the model scores the answer; `(B, M)` of M attributes", "model"),
            LossArgument("target_scores", "what the answer was scored, in standard deviations from the mean of the "
                         "table's rows; `(B, M)` of M attributes, NaN where one is missing", column="score"),
            LossArgument("win_prob", "the score itself, which for a comparison is P(the answer shown first is better)",
                         column="score"),
        ), None),
        LossTable(("Rankings",), "list", (
            LossArgument("scores", "what the model scores each answer; 0 where there is none", "model"), *_RANKED,
        ), "scores"),
    )),
    "losses/rl": LossFamily("objectives of reinforcement learning, averaged over the tokens of a minibatch", "Policy",
                            "logps", (
        LossTable((), "token", (
            LossArgument("logps", "log-probability of the token under the policy", "model"),
            LossArgument("old_logps", "the same under the policy that sampled it", "rollout"),
            LossArgument("advantages", "how much better than expected the answer is from the token on", "rollout"),
        )),
    )),
}  # fmt: skip
"""Folder of losses → its family."""
