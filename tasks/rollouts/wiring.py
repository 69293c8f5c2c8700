"""What a wiring shows of a step of reinforcement learning: which of its models are adapters of one base, and settings
that cannot be together. Light, because `plan` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def check_groups(step: StepView) -> None:
    """Raise SpecError for a step whose answers to a prompt are each other's baseline, where its settings cannot be."""
    check_models(step)
    check_group_settings(step.params, has_ref=step.first("ref") is not None)


def check_group_settings(params: Mapping[str, Any], *, has_ref: bool) -> None:
    """Raise SpecError for settings of `grpo` or `rloo` that cannot be together.

    params: by the names of the tasks' parameters, those of their groups included.
    """
    k, longest, cache = params["k"], params["max_tokens"], params["overlong_cache"]
    if k < 2:
        raise SpecError(
            f"k = {k} gives one answer per prompt, and the baseline of an answer is the other answers to its prompt: "
            "set k to 2 or more"
        )
    if longest is None and params.get("normalisation") in ("constant", "dr_grpo"):
        raise SpecError(
            f"normalisation = '{params['normalisation']}' divides by the longest answer allowed: set max_tokens, or "
            "choose another normalisation"
        )
    if cache is not None and not cache <= (longest or 0):
        raise SpecError(
            f"overlong_cache = {cache} is a part of the longest answer allowed, and max_tokens is {longest}: set "
            f"max_tokens to at least {cache}, or overlong_cache to null"
        )
    if params.get("stale") and params.get("importance") == "sequence":
        raise SpecError(
            "importance = 'sequence' weighs an answer by the mean of its tokens' ratios, which is no correction for "
            "answers of an older policy: set stale to 0, or importance to 'token'"
        )
    if not has_ref and (params["kl_form"] != "reward" or params["kl_coef"]):
        raise SpecError(
            f"kl_coef = {params['kl_coef']} with kl_form = '{params['kl_form']}' is the price of a nat away from the "
            "reference, and there is none: feed the port `ref`, or set kl_coef to 0 and leave kl_form out"
        )


def check_mixing(step: StepView) -> None:
    """`check_models`, and besides refuse a mixture of policy and reference that the engine cannot sample."""
    from tasks.sampling.requests import check_mixture

    check_models(step)
    engine = step.choices["engine"].name
    if engine != "auto":
        check_mixture(engine, step.params["mixture"])


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
