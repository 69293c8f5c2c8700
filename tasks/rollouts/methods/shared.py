"""What several methods do alike."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping

from torch import Tensor

from tasks.contract import Chosen
from tasks.losses.rl.cispo import cispo
from tasks.losses.rl.clipped import clipped
from tasks.rollouts.method import Rollout
from tasks.rollouts.settings import ScoreConfig


def losses_of(objective: Chosen, arguments: Mapping[str, Tensor]) -> Tensor:
    """The objective of those arguments that it names, `(m,)`."""
    names = inspect.signature(objective.function).parameters
    losses: Tensor = objective(**{name: x for name, x in arguments.items() if name in names})
    return losses


def clip_of(objective: Chosen) -> tuple[float, float]:
    """How far below and above 1 the objective clips; one that does not is counted at the bound of `clipped`, and one
    that caps the ratio only above."""
    if objective.function is cispo:
        return math.inf, _number(objective, cispo, "max_ratio") - 1
    low = _number(objective, clipped, "clip_eps")
    return low, low if objective.params.get("clip_high") is None else _number(objective, clipped, "clip_high")


def _number(objective: Chosen, loss: Callable[..., Tensor], name: str) -> float:
    """A parameter of the objective; the default of `loss`, where it has none of that name."""
    usual = inspect.signature(loss).parameters[name].default
    value = objective.params.get(name, usual)
    return float(value if isinstance(value, int | float) else usual)


def shaped_scores(rollout: Rollout, config: ScoreConfig) -> Tensor:
    """`(S,)`: the oracle's scores, less the penalty of answers that were cut."""
    assert rollout.scores is not None
    return rollout.scores - config.missing_eos_penalty * ~rollout.answers.finished


def reward_metrics(rollout: Rollout, scores: Tensor, coefficient: float) -> dict[str, float]:
    """The mean reward of an answer, and what of it is the price of the distance from the reference."""
    price = coefficient * rollout.kl
    return {"objective/non_score_reward": -price, "objective/rlhf_reward": float(scores.mean()) - price}
