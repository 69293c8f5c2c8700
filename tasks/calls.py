"""How the choices of each folder are called, and what an optimizer and an adapter say of themselves; losses have
`tasks.families`.

Standard library only. `check` holds every choice to its folder's contract; the tasks call it so.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CallContract:
    """How the choices of a folder are called: by position, with all of these arguments."""

    arguments: Mapping[str, str]
    """Name → meaning, in order; a choice that does not use one may write its name with an underscore before it."""
    returns: tuple[str, ...]
    """Last names of the return annotations that are allowed."""


@dataclass(frozen=True)
class StateBytes:
    """Bytes per parameter that an optimizer keeps."""

    device: float = 0.0
    """Beside the model."""
    host: float = 0.0
    """In the machine's memory; above 0 the optimizer steps there, on float32 copies of the weights."""


ALL_LINEAR = "all-linear"
"""Of an adapter's targets: every linear layer of a model's body."""


@dataclass(frozen=True)
class Adapter:
    """Low-rank layers beside linear layers of a frozen model."""

    rank: int
    alpha: float
    """What a layer adds is scaled by alpha / rank."""
    targets: tuple[str, ...]
    """Names of the linear layers, or the last parts of names, or `all-linear`."""


CALLS: Mapping[str, CallContract] = {
    "oracles": CallContract({}, ("Oracle", "Scorer", "PreferenceModel", "RewardModel")),
    "sources": CallContract({}, ("Source", "World")),
    "engines": CallContract({"policy": "a Hugging Face directory"}, ("Engine",)),
    "pair_rules": CallContract({"pairs": "a polars frame with PAIR_COLUMNS"}, ("DataFrame",)),
    "kl_controllers": CallContract(
        {
            "coefficient": "that of the iteration which ended",
            "kl": "KL(policy ‖ reference) that it measured, nats per answer",
            "samples": "answers that it sampled",
        },
        ("float",),
    ),
    "optimizers": CallContract(
        {"groups": "of parameters: `params`, and `decays` for matrices, which weight decay is for"}, ("Optimizer",)
    ),
    "adapters": CallContract({}, ("Adapter",)),
    "responses": CallContract({"text": "one answer"}, ("str",)),
}
"""Folder of choices → how they are called."""

PAIR_COLUMNS: Mapping[str, str] = {
    "prompt": "number of the prompt, ascending",
    "answers": "how many answers it has",
    "a": "row of the first answer",
    "b": "row of the second answer; a < b",
    "a_id": "completion_id of the first answer",
    "b_id": "completion_id of the second answer",
    "a_win_rate": "mean P over the answered opponents of the prompt, the answer itself not counted",
    "b_win_rate": "the same of the second answer",
    "a_place": "place among the answers of the prompt, 0 = highest win rate, of equal ones the lower k first",
    "b_place": "the same of the second answer",
    "p": "P(a beats b), the mean over both orders where both were queried",
    "uncertainty": "how uncertain the oracle is of p; null where it does not know",
}
"""Columns of the frame that a pair rule works on → their meaning. One row is one answered pair of answers."""
