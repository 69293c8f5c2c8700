"""On-policy distillation: a student learns from a teacher's probabilities of the student's own answers."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import Cost, Curve, Resources, StepView, Training
from tasks.kinds import Demonstrations, Policy, Prompts
from tasks.rollouts.memory import memory_with_teacher
from tasks.rollouts.planning import cost_of_rollouts, training_by_rollouts
from tasks.rollouts.settings import FreeKl, KeepConfig, LoopConfig, PassConfig, RolloutConfig, SftConfig
from tasks.rollouts.wiring import check_models
from tasks.training.passes import check_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig

distill_resources = Resources(exclusive=True, gpus=1, ranks=True)
distill_memory = memory_with_teacher
distill_wiring = check_models
distill_files = check_optimizer
distill_curves = {
    "objective/kl": Curve("KL to the teacher", "nats per answer"),
    "objective/reverse_kl": Curve("KL to the teacher", "nats per token"),
    "objective/entropy": Curve("entropy of sampled answers", "nats per answer"),
    "val/length": Curve("length of sampled answers", "tokens"),
    "grad_norm": Curve("gradient norm"),
    "lr": Curve("learning rate", exact=True),
}


def distill_cost(step: StepView) -> Cost:
    return {name: amount for name, amount in cost_of_rollouts(step).items() if name != "queries"}


def distill_training(step: StepView) -> Training:
    return training_by_rollouts(step)


def distill(
    policy: Policy,
    teacher: Policy,
    prompts: Prompts,
    work: Workspace,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    estimator: Literal["sampled", "full"] = "sampled",
    discount: Annotated[float, Bounds(min=0, max=1)] = 0.0,
    rollout: RolloutConfig = RolloutConfig(k=1),
    passes: PassConfig = PassConfig(),
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    normalisation: Literal["token", "sequence", "sum"] = "token",
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Bring a student to a teacher: KL(student ‖ teacher) on answers that the student samples itself.

    Every iteration the student (`policy`) samples `k` answers to `prompts_per_iteration` prompts, the teacher reads
    them, and the student lowers its reverse KL, d_t = KL(π(·|y_<t) ‖ π_teacher(·|y_<t)), at each of their tokens:

        sampled    an answer's tokens are priced at log π/π_teacher; a policy gradient, one number per token
        full       d_t and its gradient over the whole vocabulary: no noise from the token that was sampled

    Both have the same mean gradient, Σ_t (∇d_t + ∇log π(y_t)·Σ_{s>t} γ^{s−t}·d_s) with γ = `discount`. At 0 each token
    is judged by its own distance alone, on prefixes that are taken as given: what GKD does. At 1 it is the exact
    gradient of the KL between whole answers, where a token also pays for the distance that it leads to, with more
    noise. Both have the teacher as their optimum where the student can represent it. Where it cannot, 0 is the fixed
    point of matching each token, and 1 the closest policy. Costs are centred over an iteration's tokens, which changes
    no optimum.

    `full` keeps no table of all tokens and the whole vocabulary: both heads compute logits in chunks of positions, and
    again in the backward pass (`tasks/training/head_divergence.py`). It reads every answer once more with both models.

    The teacher may be larger, of another architecture, or an adapter; it must have the student's tokenizer and chat
    template, and read every id that the student can sample. Both are read at `temperature`. The result has `state/` for
    a later round. Totals: `samples`, `tokens`. Raises DataError without prompts, or for a teacher that reads other
    tokens; else as `ppo` does. Curves: objective/*, policy/*, loss/*, val/*, sampler/*, lr.

    Args:
        policy: the student.
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate.
        estimator: of the gradient; see above.
        discount: γ, how far the tokens that follow count in a token's cost.
        objective: what a step minimises, of a token's advantage (with `full`, that of what follows it).
        normalisation: how the losses of tokens become one number; see `grpo`.
        adapter: what learns beside the student's frozen base; default: nothing, the whole student learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Agarwal et al., On-Policy Distillation (GKD), arXiv 2306.13649, with the student's data alone (its λ = 1)
    and the reverse KL (its β → 1). Other than there: no divergence between forward and reverse KL, no share of the
    teacher's or a data set's answers (`demonstrations` with `sft` is the nearest), and on request what follows counts.
    As a policy gradient: Gu et al., MiniLLM, arXiv 2306.08543, section 2.2, without its mixing with the teacher and
    its normalisation of lengths.
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.distillation import Distillation, check_teacher
    from tasks.training.adapters import chosen_adapter

    check_teacher(policy, teacher)
    config = LoopConfig(
        iterations, (lr,), rollout, FreeKl(max_kl=None), passes, mix, optim, chosen_adapter(adapter), compute, keep,
        seed,
    )  # fmt: skip
    method = Distillation(estimator, discount, objective, normalisation)
    inputs = RolloutInputs(policy, teacher, prompts, None, demonstrations=demonstrations, ref_port="teacher")
    return train_policy(method, inputs, config, work)
