"""What a wiring shows of the models of PPO: which of them are adapters of one base. Light, because `plan` calls it."""

from __future__ import annotations

from tasks.contract import SpecError
from tasks.declarations import StepView
from tasks.training.learner import check_adapter, rank_of


def check_models(step: StepView) -> None:
    """Raise SpecError for a step of PPO whose policy or value network cannot learn as its `adapter` says."""
    check_adapter(step)
    value, policy = step.first("value"), step.first("policy")
    if value is None or policy is None or not rank_of(value):
        return
    if not rank_of(step):
        raise SpecError("`value` is an adapter, and the whole policy is to learn: set `adapter`, or `merge` `value`")
    if base_of(value).origin is not base_of(policy).origin:
        raise SpecError(
            "`value` is an adapter of another base than the policy's: train the reward model from the policy's base, "
            "or `merge` it"
        )


def base_of(view: StepView) -> StepView:
    """The step that makes a model, or its base where it is an adapter, as far as a wiring shows."""
    while rank_of(view) or view.task == "checkpoint_at":
        source = view.first("policy")
        if source is None:
            break
        view = source
    return view


def value_rank(step: StepView) -> int:
    """The rank of the value network's adapter in a step of PPO; 0 where it is a whole model."""
    view: StepView | None = step
    while view is not None and view.task == step.task:
        value = view.first("value")
        if value is not None and value.task != "value_of":
            return rank_of(value)
        view = (value or view).first("policy")  # an earlier round, which made the value network
    return 0
