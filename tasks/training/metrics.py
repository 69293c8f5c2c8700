"""Metrics of every optimizer step, and the detection of a training that diverges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.training.examples import Examples, padded_rows
from tasks.training.rows import CHOSEN, Ints

RECENT = 10
"""The last steps that count: the training diverges where more than half of them are bad, never for a single batch."""
WORSE = 10.0
"""Losses this many times the best and the first ones are bad."""
SMALL = 0.1
"""Smaller losses count as this one: they may grow to `WORSE` times it."""
DEGENERATE, LOST = -0.5, -1.5
"""Log π/π_ref of chosen answers, in nats per token, at which the user is warned and at which the training stops."""


class StepLosses(NamedTuple):
    """Losses and outputs of one optimizer step, rows in any order."""

    rows: Ints
    losses: Tensor
    """`(B,)`, before weights."""
    logps: Tensor
    """`(S,)`: log-probabilities, or a reward model's scores, of the rows' answers, in the order of `rows`."""
    kl_reference: float | None = None
    """The estimate of KL(π ‖ π_ref) that the losses were filled with, if they were."""


def step_metrics(examples: Examples, outcome: StepLosses) -> dict[str, float]:
    """train/loss, logps/* and, where there is a reference or a reward model, rewards/*, over one optimizer batch."""
    weights = examples.weights[torch.from_numpy(outcome.rows)]
    metrics = {"train/loss": float((outcome.losses * weights).sum()) / examples.total_weight(outcome.rows)}
    if outcome.kl_reference is not None:
        metrics["train/kl_reference"] = outcome.kl_reference
    answers = torch.tensor([a for row in outcome.rows.tolist() for a in examples.rows.answers_of(row)])
    sides = _sides(examples, answers)
    rewards = outcome.logps
    if examples.family.outputs == "logps":
        metrics |= {f"logps/{side}": _mean(outcome.logps[here]) for side, here in sides.items()}
        if examples.ref_logps is None:
            return metrics
        rewards = examples.reward_scale * (rewards - examples.ref_logps[answers])
    metrics |= {f"rewards/{side}": _mean(rewards[here]) for side, here in sides.items()}
    return metrics | _agreement(examples, outcome, answers, sides, rewards)


def _sides(examples: Examples, answers: Tensor) -> dict[str, Tensor]:
    """Side → flags of its answers; one side `mean` where the table has no judgement of them. Targets have no side."""
    if examples.preferred is None:
        return {"mean": torch.ones(len(answers), dtype=torch.bool)}
    preferred, target = examples.preferred[answers], torch.from_numpy(examples.rows.is_target)[answers]
    return {side: here for side, here in (("chosen", preferred), ("rejected", ~preferred & ~target)) if here.any()}


def _agreement(
    examples: Examples, outcome: StepLosses, answers: Tensor, sides: dict[str, Tensor], rewards: Tensor
) -> dict[str, float]:
    """Margins and accuracies of rewards: better against worse answers of a row, else chosen ones against 0."""
    if examples.worth is not None and examples.layout.answers != "one":
        margin = _margins(examples, torch.from_numpy(outcome.rows), examples.worth[answers], rewards)
        right = margin > 0
    elif len(sides) == 2:
        margin = rewards[sides["chosen"]].mean() - rewards[sides["rejected"]].mean()
        right = (rewards > 0) == sides["chosen"]
    else:
        return {}
    return {"rewards/margins": _mean(margin), "rewards/accuracies": _mean(right)} if right.numel() else {}


def _margins(examples: Examples, rows: Tensor, worth: Tensor, rewards: Tensor) -> Tensor:
    """Reward of the better minus that of the worse answer, for every pair of a row's answers that are not equal."""
    worths, each = (padded_rows(examples.rows, rows, values, torch.nan) for values in (worth, rewards.double()))
    better = worths[:, :, None] > worths[:, None, :]
    return (each[:, :, None] - each[:, None, :])[better]


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def chosen_drift(examples: Examples, outcome: StepLosses) -> float | None:
    """Mean over chosen answers of log π/π_ref per token, nats; None unless rows are pairs with a reference."""
    if examples.layout.answers != "pair" or examples.ref_logps is None:
        return None
    chosen = torch.tensor([examples.rows.answers_of(row)[0] for row in outcome.rows.tolist()])
    lengths = torch.tensor([examples.rows.answers.size(a) for a in chosen.tolist()])
    each = 3 if examples.rows.has_targets else 2
    return _mean((outcome.logps[CHOSEN::each] - examples.ref_logps[chosen]) / lengths)


@dataclass
class DivergenceMonitor:
    """The last steps of a training, which is stopped when most of them are bad."""

    losses: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    """Of the chosen answers; see `chosen_drift`."""
    start: float = math.inf
    """Smallest |loss| of the first three steps, of which one may be a hard batch."""
    best: float = math.inf
    """Smallest median of `losses`."""
    steps: int = 0

    def check_drift(self, step: int, drift: float | None, advice: str) -> None:
        """Raises DataError where chosen answers became so unlikely in most steps that the policy is broken."""
        if drift is None:
            return
        self.drifts = [*self.drifts, drift][-RECENT:]
        if _most(drift < LOST for drift in self.drifts):
            raise DataError(
                f"training diverges at step {step + 1}: chosen answers lost {-self.drift:.1f} nats per token against "
                f"the reference in most of the last {len(self.drifts)} steps, though the loss may fall: it only asks "
                f"that rejected ones lose more. {advice}"
            )

    @property
    def drift(self) -> float:
        """Median over the last steps; 0 where there is none."""
        return median(self.drifts) if self.drifts else 0.0

    def warning(self) -> str:
        """A warning about a training that ended; empty if there is none."""
        if self.drift > DEGENERATE:
            return ""
        return (
            f"chosen answers lost {-self.drift:.1f} nats per token against the reference: the margin grew by making "
            "both sides unlikely; the policy may have degenerated. Read its answers; try a smaller lr or larger beta"
        )

    def check_loss(self, step: int, loss: float, norm: float, advice: str) -> None:
        """Raises DataError for a loss or gradient that is not finite, or losses far above the best and the first."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise DataError(
                f"training broke at step {step + 1}: the {what} is {loss if what == 'loss' else norm}. {advice}"
            )
        self.steps += 1
        self.start = min(self.start, abs(loss)) if self.steps <= 3 else self.start
        self.losses = [*self.losses, loss][-RECENT:]
        self.best = min(self.best, median(self.losses))
        limit = max(abs(self.best), self.start, SMALL) * WORSE
        if _most(loss > limit for loss in self.losses):
            raise DataError(
                f"training diverges at step {step + 1}: most losses of the last {len(self.losses)} steps are above "
                f"{limit:.4g}, their median is {median(self.losses):.4g} after {self.best:.4g} at best and "
                f"{self.start:.4g} at first. {advice}"
            )


def _most(bad: Iterable[bool]) -> bool:
    return sum(bad) > RECENT // 2
