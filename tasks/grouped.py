"""Reinforcement learning without a value network: several answers to a prompt are each other's baseline."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import Cost, Curve, Resources, StepView, Training
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Demonstrations, Policy, Prompts, Scorer
from tasks.rollouts.memory import memory_without_critic
from tasks.rollouts.planning import CURVES, cost_of_rollouts, training_by_rollouts
from tasks.rollouts.settings import (
    GroupConfig,
    GroupKlConfig,
    KeepConfig,
    LoopConfig,
    PassConfig,
    RolloutConfig,
    SftConfig,
)
from tasks.rollouts.wiring import check_group_settings, check_groups
from tasks.training.passes import check_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig

_CURVES = CURVES | {"objective/groups_without_variance": Curve("groups whose scores are equal", "share")}
grpo_resources = rloo_resources = Resources(exclusive=True, gpus=1, ranks=True)
grpo_memory = rloo_memory = memory_without_critic
grpo_wiring = rloo_wiring = check_groups
grpo_files = rloo_files = check_optimizer
grpo_totals = rloo_totals = QUERY_TOTALS
grpo_curves = rloo_curves = _CURVES


def grpo_cost(step: StepView) -> Cost:
    return cost_of_rollouts(step)


def rloo_cost(step: StepView) -> Cost:
    return cost_of_rollouts(step)


def grpo_training(step: StepView) -> Training:
    return training_by_rollouts(step)


def rloo_training(step: StepView) -> Training:
    return training_by_rollouts(step)


def grpo(
    policy: Policy,
    prompts: Prompts,
    oracle: Scorer,
    work: Workspace,
    ref: Policy | None = None,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    rollout: RolloutConfig = RolloutConfig(),
    kl: GroupKlConfig = GroupKlConfig(),
    scores: GroupConfig = GroupConfig(),
    scale: Literal["group", "batch", "none"] = "group",
    normalisation: Literal[
        "sequence", "token", "constant", "global", "sum", "grpo", "bnpo", "dr_grpo", "dapo"
    ] = "global",
    importance: Literal["token", "sequence"] = "token",
    passes: PassConfig = PassConfig(),
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Raise a scorer's scores of a policy's own answers; the other answers to a prompt are the baseline (GRPO).

    Every iteration samples `k` answers to `prompts_per_iteration` prompts with the current weights and scores them. An
    answer's reward is its score less kl_coef times its log-ratio to the reference; its advantage, equal for all its
    tokens, is the distance of its reward from the mean of its prompt, divided by their standard deviation. With
    `kl_form: reward` the exact optimum is π_ref·exp(score/kl_coef), normalised, as PPO's.

    The variants of the field are settings: Dr. GRPO `scale: none, normalisation: dr_grpo`; DAPO `objective: {clipped:
    {clip_high: 0.28}}, draw_again: 3, overlong_cache: …`, without a price; GSPO `importance: sequence, normalisation:
    sequence, objective: {clipped: {clip_eps: 3e-4, clip_high: 4e-4}}`; CISPO `objective: cispo`.

    Answers without a score train nothing and are no part of a baseline. A group without variance has advantages of 0
    where nats have no price; with one, its answers differ by their price alone. Groups whose scores are equal are
    counted (objective/groups_without_variance), and those drawn in vain with `draw_again` too (objective/discarded).
    With the result's `state/`, a later round continues exactly (`tasks/rollouts/resume.py`).

    Raises DataError without prompts, for a reference with another tokenizer or template, if the first update of an
    iteration does not start at ratio 1, if the sampler's log-probabilities are another policy's, or if a number is not
    finite; SpecError for one answer per prompt, for a price without a reference, for a `kl_coef` of 0 that no
    controller can move, for `constant` or `overlong_cache` without `max_tokens`, and for an adapter that is not the
    policy's. Curves: objective/*, policy/*, loss/*, val/*, sampler/*, time/*, kl_coef, lr.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate; no default, because no value serves two models.
        scale: what distances from the mean are divided by: the standard deviation of the group, so that every prompt
            counts alike; that of the `batch`, an iteration's rewards; or nothing, which keeps the units of the score
            and gives a prompt on which answers hardly differ little weight (Dr. GRPO).
        normalisation: how the losses of tokens become one number; the second names are those of the field.
            `sequence` (grpo): answers count alike, so that a token of a long answer counts little and bad answers get
            longer; `token` (bnpo): tokens of the minibatch alike; `global` (dapo): tokens of the iteration alike;
            `constant` (dr_grpo): sums of answers over `max_tokens`; `sum`: sums of answers.
        importance: whose ratio to the policy that drew the answers weighs and clips: that of each token, or the
            geometric mean over the answer (GSPO), which needs far narrower bounds of the objective. They differ only
            from the second step on an iteration's answers on.
        objective: what a step minimises.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Shao et al. (DeepSeekMath), arXiv 2402.03300, eq. 3; Yu et al. (DAPO), arXiv 2503.14476; Liu et al. (Dr.
    GRPO), arXiv 2503.20783; Zheng et al. (GSPO), arXiv 2507.18071.
    Paper: lr 1e-6, k 64, kl_coef 0.04 with kl_form token_k3, scale group, normalisation sequence, 1,024 answers per
    iteration, 1 epoch (arXiv 2402.03300).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.grouped import Grpo
    from tasks.rollouts.normalisation import normalisation_of
    from tasks.training.adapters import chosen_adapter

    settings = {**vars(rollout), **vars(kl), **vars(scores), "normalisation": normalisation}
    check_group_settings(settings, has_ref=ref is not None)
    config = LoopConfig(
        iterations, (lr,), rollout, kl, passes, mix, optim, chosen_adapter(adapter), compute, keep, seed
    )  # fmt: skip
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    method = Grpo(
        scores, kl, objective, rollout.max_tokens, scale=scale, loss_over=normalisation_of(normalisation),
        importance=importance,
    )  # fmt: skip
    return train_policy(method, inputs, config, work)


def rloo(
    policy: Policy,
    prompts: Prompts,
    oracle: Scorer,
    work: Workspace,
    ref: Policy | None = None,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    rollout: RolloutConfig = RolloutConfig(),
    kl: GroupKlConfig = GroupKlConfig(),
    scores: GroupConfig = GroupConfig(),
    passes: PassConfig = PassConfig(),
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Raise a scorer's scores of a policy's own answers; the mean of the others is an answer's baseline (RLOO).

    Every iteration samples `k` answers to `prompts_per_iteration` prompts with the current weights and scores them. An
    answer's reward is its score less kl_coef times its log-ratio to the reference; its advantage is what its reward
    exceeds the mean of the *other* answers' by, unscaled. The loss is the mean over answers of sums over tokens, so
    that the first step on an iteration's answers follows the exact gradient of the mean reward, without bias
    (REINFORCE); further ones (`epochs`, `minibatches`) are clipped per token. The exact optimum is
    π_ref·exp(score/kl_coef), normalised, as PPO's.

    Answers without a score, groups without variance, later rounds, errors and curves are as in `grpo`.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate; no default, because no value serves two models.
        objective: what a step minimises.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Ahmadian et al., arXiv 2402.14740, §3.3; Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!"
    (2019).
    Paper: lr 1e-6, k 2, kl_coef 0.05 (the defaults of TRL 1.16's RLOOTrainer).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.grouped import Rloo
    from tasks.training.adapters import chosen_adapter

    check_group_settings({**vars(rollout), **vars(kl), **vars(scores)}, has_ref=ref is not None)
    config = LoopConfig(
        iterations, (lr,), rollout, kl, passes, mix, optim, chosen_adapter(adapter), compute, keep, seed
    )  # fmt: skip
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    return train_policy(Rloo(scores, kl, objective, rollout.max_tokens), inputs, config, work)
