"""Reinforcement learning without a value network: several answers to a prompt are each other's baseline."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import Cost, Resources, StepView, Training
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Demonstrations, Policy, Prompts, Scorer
from tasks.rollouts.memory import memory_without_critic
from tasks.rollouts.planning import CURVES, cost_of_rollouts, training_by_rollouts
from tasks.rollouts.settings import KeepConfig, KlConfig, LoopConfig, PassConfig, RolloutConfig, ScoreConfig, SftConfig
from tasks.rollouts.wiring import check_models
from tasks.training.passes import check_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig

grpo_resources = Resources(exclusive=True, gpus=1, ranks=True)
grpo_memory = memory_without_critic
grpo_wiring = check_models
grpo_files = check_optimizer
grpo_totals = QUERY_TOTALS
grpo_curves = CURVES


def grpo_cost(step: StepView) -> Cost:
    return cost_of_rollouts(step)


def grpo_training(step: StepView) -> Training:
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
    kl: KlConfig = KlConfig(),
    reward: ScoreConfig = ScoreConfig(),
    passes: PassConfig = PassConfig(),
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    normalisation: Literal["token", "sequence"] = "token",
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Raise a scorer's scores of a policy's own answers; the other answers to a prompt are the baseline (GRPO).

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate.
        objective: what a step minimises.
        normalisation: how the losses of tokens become one number.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Shao et al., DeepSeekMath, arXiv 2402.03300, eq. 3.
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.grouped import Grpo
    from tasks.training.adapters import chosen_adapter

    config = LoopConfig(
        iterations, (lr,), rollout, kl, passes, mix, optim, chosen_adapter(adapter), compute, keep, seed
    )
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    return train_policy(Grpo(reward, objective, normalisation), inputs, config, work)
