"""What every step says of itself, and when a training has gone wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.contract import Chosen, DataError
from tasks.training.examples import Examples, reward_scale
from tasks.training.rows import Ints

MEMORY = 0.9
"""Weight of the past in the running means that divergence is judged by: about ten steps."""
WORSE = 10.0
"""A running loss so many times its best and its start has diverged."""
SMALL = 0.1
"""Losses below this one may grow that much without alarm."""

DEGENERATE = -0.5
"""Nats per token that chosen answers may lose against the reference before the user is warned."""


class Outcome(NamedTuple):
    """What a step computed, rows in any order."""

    rows: Ints
    losses: Tensor
    """`(B,)`, before weights."""
    logps: Tensor
    """`(S,)`: log-probabilities, or a reward model's scores, of the rows' answers, in the order of `rows`."""


def step_metrics(examples: Examples, loss: Chosen, outcome: Outcome) -> dict[str, float]:
    """train/loss, logps/* and, where there is a reference or a reward model, rewards/*, over one optimizer batch."""
    weights = examples.weights[torch.from_numpy(outcome.rows)]
    metrics = {"train/loss": float((outcome.losses * weights).mean())}
    answers = torch.tensor([a for row in outcome.rows.tolist() for a in examples.rows.answers_of(row)])
    better = torch.ones(len(answers), dtype=torch.bool) if examples.better is None else examples.better[answers]
    sides = {"chosen": better, "rejected": ~better}
    rewards = outcome.logps
    if not loss.folder.endswith("reward"):
        metrics |= {f"logps/{side}": _mean(outcome.logps[here]) for side, here in sides.items() if here.any()}
        if examples.ref_logps is None:
            return metrics
        rewards = reward_scale(loss.params) * (rewards - examples.ref_logps[answers])
    metrics |= {f"rewards/{side}": _mean(rewards[here]) for side, here in sides.items() if here.any()}
    if loss.folder.endswith(("pairwise", "reward")):
        margins = rewards[0::2] - rewards[1::2]
        metrics |= {"rewards/margins": _mean(margins), "rewards/accuracies": _mean((margins > 0).double())}
    elif examples.better is not None and better.any() and not better.all():
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        metrics["rewards/accuracies"] = _mean(((rewards > 0) == better).double())
    return metrics


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def chosen_drift(examples: Examples, loss: Chosen, outcome: Outcome) -> float | None:
    """Mean over chosen answers of log π/π_ref per token, nats; None where rows are no pairs with a reference."""
    if not loss.folder.endswith("pairwise") or examples.ref_logps is None:
        return None
    chosen = torch.tensor([examples.rows.answers_of(row)[0] for row in outcome.rows.tolist()])
    lengths = torch.tensor([examples.rows.answers.size(a) for a in chosen.tolist()])
    return _mean((outcome.logps[0::2] - examples.ref_logps[chosen]) / lengths)


@dataclass
class Watch:
    """Running means of a training, and the stop when they say that it is lost."""

    loss: float | None = None
    best: float | None = None
    first: float | None = None
    drift: float | None = None
    """Of the chosen answers; see `chosen_drift`."""

    def follow(self, drift: float | None) -> None:
        if drift is not None:
            self.drift = drift if self.drift is None else MEMORY * self.drift + (1 - MEMORY) * drift

    def warning(self) -> str:
        """What the user should know of a training that ended; empty if all seems well."""
        if self.drift is None or self.drift > DEGENERATE:
            return ""
        return (
            f"chosen answers lost {-self.drift:.1f} nats per token against the reference: the margin grew by making "
            "both sides unlikely; the policy may have degenerated. Read its answers; try a smaller lr or larger beta"
        )

    def look(self, step: int, loss: float, norm: float, advice: str) -> None:
        """Raises DataError at a loss or gradient that is no number, or a loss far above its best and its start."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise DataError(
                f"training broke at step {step + 1}: the {what} is {loss if what == 'loss' else norm}. {advice}"
            )
        self.first = loss if self.first is None else self.first
        self.loss = loss if self.loss is None else MEMORY * self.loss + (1 - MEMORY) * loss
        self.best = self.loss if self.best is None else min(self.best, self.loss)
        if self.loss > max(abs(self.best), abs(self.first), SMALL) * WORSE:
            raise DataError(
                f"training diverges at step {step + 1}: the loss, averaged over about ten steps, is {self.loss:.4g} "
                f"after {self.best:.4g} at best and {self.first:.4g} at first. {advice}"
            )
