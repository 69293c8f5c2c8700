"""What the choices of each folder are called with and give back: one contract per folder, for `check` and the tasks.

Standard library only. The docstring of each folder's `__init__.py` gives the meaning and the shape of every name; a
test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LossFamily:
    """The losses of one folder: which arguments they may name, and which kind of table fills these."""

    answers: Literal["one", "pair", "list", "token"]
    """What one entry of the result belongs to: an answer, a pair, the answers of a prompt, a token."""
    of_model: tuple[str, ...]
    """What the trained model gives at every step. A loss names at least one of them."""
    fixed: tuple[str, ...] = ()
    """What any table of the family gives, or the reference (`ref_…`), once for all steps."""
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind of table → the arguments that only this kind has. The first kind serves losses that name none of these."""
    trains: str = "Policy"
    """Kind of the trained model."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Everything that a loss of the family may name."""
        return (*self.of_model, *self.fixed, *(name for names in self.tables.values() for name in names))

    def table_of(self, names: Iterable[str]) -> str:
        """The kind of table that a loss with these arguments works on; empty where no single kind has them all."""
        special = set(names) - {*self.of_model, *self.fixed}
        return next((kind for kind, own in self.tables.items() if special <= set(own)), "")

    def error(self, names: Iterable[str]) -> tuple[str, str]:
        """What is wrong with the arguments of a loss, and which one it is; two empty texts where nothing is."""
        several = list(names)
        for name in several:
            if name not in self.arguments:
                return f"names the argument '{name}'", name
        if not set(several) & set(self.of_model):
            return f"names none of {', '.join(self.of_model)}, so that nothing could be learnt from it", ""
        if self.tables and not self.table_of(several):
            owners = {name: kind for kind, own in self.tables.items() for name in own}
            mixed = ", ".join(f"{name} (of {owners[name]})" for name in several if name in owners)
            return f"names {mixed}, and no table has all of these", ""
        return "", ""


LOSSES: Mapping[str, LossFamily] = {
    "losses/pairwise": LossFamily(
        "pair", ("policy_chosen_logps", "policy_rejected_logps"),
        ("ref_chosen_logps", "ref_rejected_logps", "chosen_lengths", "rejected_lengths"),
        {"Preferences": ("p", "margin")},
    ),
    "losses/pointwise": LossFamily(
        "one", ("policy_logps",), ("ref_logps", "lengths"),
        {"Demonstrations": (), "WinRates": ("win_rate", "prompt_win_rates"), "Labels": ("label",)},
    ),
    "losses/listwise": LossFamily(
        "list", ("policy_logps",), ("ref_logps", "lengths"), {"Rankings": ("target_scores", "mask")}
    ),
    "losses/reward": LossFamily(
        "pair", ("chosen_scores", "rejected_scores"), (), {"Preferences": ("margin",)}, trains="RewardModel"
    ),
    "losses/rl": LossFamily("token", ("logps",), ("old_logps", "advantages")),
}  # fmt: skip
"""Folder of losses → its family."""


@dataclass(frozen=True)
class CallContract:
    """How the choices of a folder are called: by position, with all of these arguments."""

    arguments: tuple[str, ...]
    """Names in order; a choice that does not use one may write it with an underscore before it."""
    returns: tuple[str, ...]
    """Last names of the return annotations that are allowed."""


CALLS: Mapping[str, CallContract] = {
    "oracles": CallContract((), ("Oracle", "Scorer", "PreferenceModel", "RewardModel")),
    "sources": CallContract((), ("Source", "World")),
    "engines": CallContract(("policy",), ("Engine",)),
    "pair_rules": CallContract(("pairs",), ("DataFrame",)),
    "kl_controllers": CallContract(("coefficient", "kl", "samples"), ("float",)),
    "deviations": CallContract(("text",), ("str",)),
}
"""Folder of choices → how they are called."""

PAIR_COLUMNS = (
    "prompt", "answers", "a", "b", "a_id", "b_id", "a_win_rate", "b_win_rate", "a_place", "b_place", "p",
)  # fmt: skip
"""Columns of the frame that a pair rule works on."""
