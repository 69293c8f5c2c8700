"""What a step of reinforcement learning costs, and what describes it. Light, because `plan` calls it."""

from collections.abc import Mapping
from typing import Any

from tasks.declarations import AtMost, Cost, Curve, StepView, Training

CURVES = {
    "objective/scores": Curve("score of sampled answers"),
    "objective/kl": Curve("KL to the reference", "nats per answer"),
    "objective/entropy": Curve("entropy of sampled answers", "nats per answer"),
    "policy/clip_frac": Curve("clipped tokens", "share"),
    "grad_norm": Curve("gradient norm"),
    "lr": Curve("learning rate", exact=True),
}
"""Of every method, as figures show them."""


def answers_per_prompt(params: Mapping[str, Any]) -> int:
    """Answers that an iteration samples to each of its prompts."""
    return int(params["k"]) * int(params.get("best_of", 1))


def cost_of_rollouts(step: StepView) -> Cost:
    """Answers, as many questions, and at most so many tokens. Prompts that are drawn again are known as a bound."""
    from tasks.sampling.longest import longest_answer

    answers = step.params["iterations"] * step.params["prompts_per_iteration"] * answers_per_prompt(step.params)
    longest, _ = longest_answer(step)
    times = 1 + int(step.params.get("draw_again", 0))
    most = answers if times == 1 else AtMost(answers * times)
    return {"samples": most, "queries": most, "tokens": AtMost(answers * times * longest, typical=False)}


def cost_of_comparisons(step: StepView, pairs: int, opponents: int = 0) -> Cost:
    """Answers of the policy and of so many opponents per prompt, and so many comparisons of each prompt's."""
    from tasks.sampling.longest import longest_answer

    prompts = step.params["iterations"] * step.params["prompts_per_iteration"]
    answers = prompts * (step.params["k"] + opponents)
    longest, _ = longest_answer(step)
    return {"samples": answers, "queries": prompts * pairs, "tokens": AtMost(answers * longest, typical=False)}


def training_by_pairs(step: StepView) -> Training:
    """The step as a training on pairs of its own answers: its KL weight is that of its loss."""
    params = step.params
    constants = {name: params[name] for name in ("lr", "epochs")}
    sizes = {name: params[name] for name in ("k", "prompts_per_iteration")}
    return Training(step.task, None, sizes, constants)


def training_by_rollouts(step: StepView) -> Training:
    """The step as a training: its method is the task, its KL weight the price of a nat."""
    params = step.params
    constants = {name: params[name] for name in ("lr", "epochs")}
    sizes = {name: params[name] for name in ("k", "prompts_per_iteration")}
    return Training(step.task, params.get("kl_coef"), sizes, constants)
