"""When a training has broken: numbers that are not finite, a policy that has run away from its reference."""

import math
from pathlib import Path

from tasks.contract import DataError
from tasks.rollouts.method import Rollout
from tasks.training.checkpoint import drop_all_but_last, drop_last, last_state

SHORTEST = 10
"""Tokens that an answer counts as at least: the best of a few words may be worth all nats that its first one costs."""


class Diverged(DataError):
    """The training is broken. `suspect`: the iteration started from a broken policy, and so does its checkpoint."""

    def __init__(self, method: str, iteration: int, what: str, *, suspect: bool) -> None:
        super().__init__(f"`{method}` broke in iteration {iteration + 1}: {what}")
        self.suspect = suspect


def check_rollout(rollout: Rollout, max_kl: float | None, method: str, iteration: int) -> None:
    """Refuse to learn from answers of a policy that has run away from its reference. Raises Diverged.

    max_kl: nats per token, of answers that count as SHORTEST tokens at least; None: any distance is allowed.
    """
    if not bool(rollout.logps.isfinite().all()) or not math.isfinite(rollout.kl):
        raise Diverged(
            method, iteration, "log-probabilities of the policy's own answers are not finite. Likely causes: lr is too "
            "high for this model, or weights in the policy's files are NaN or infinite", suspect=True,
        )  # fmt: skip
    length = max(SHORTEST, float(rollout.lengths.double().mean()))
    if max_kl is None or rollout.kl <= max_kl * length:
        return
    raise Diverged(
        method, iteration, f"KL(policy ‖ reference) is {rollout.kl:.4g} nats per answer (allowed: max_kl = {max_kl:g} "
        f"per token, {max_kl * length:.4g} here). Likely causes: {_causes(iteration)}. If such a distance is "
        "wanted, raise max_kl, which keeps the training's progress", suspect=True,
    )  # fmt: skip


def _causes(iteration: int) -> str:
    if iteration == 0:
        return "`ref` is another policy than the one that this training, or its first round, began with"
    return (
        "lr is too high for this model, kl_coef too low, or the oracle gives extreme scores to texts that nobody would "
        "write"
    )


def check_update(metrics: dict[str, float], method: str, iteration: int) -> None:
    """Refuse an update whose losses or gradients are not finite. Raises Diverged."""
    broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(
            method, iteration, f"{', '.join(broken)}. Likely causes: lr is too high for this model, or scores are "
            "extreme", suspect=False,
        )  # fmt: skip


def confirm_checkpoint(folder: Path) -> None:
    """The policy of the last checkpoint has answered as a policy should: those before it are not needed any more."""
    drop_all_but_last(folder)


def with_last_good(error: Diverged, folder: Path) -> DataError:
    """The error with what is left of the training; a checkpoint of the broken policy is removed if one precedes it."""
    if error.suspect:
        drop_last(folder)
    step = last_state(folder).get("step")
    left = (
        f"The state after iteration {step}, the last good one that was stored, is kept in {folder / f'step-{step}'}: "
        "the same step would go on from there, and break again"
        if step
        else "No state from before was stored, because it broke before the first checkpoint"
    )
    return DataError(f"{error}. {left}. With a smaller lr it is another training, which starts from the beginning")
