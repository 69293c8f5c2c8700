"""Reinforcement learning: Proximal Policy Optimization against a scorer; value networks and checkpoints of policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, Choice, Chosen, DataError, Seed, Workspace
from tasks.declarations import Cost, Curve, Resources, StepView, Training
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Demonstrations, Policy, Prompts, RewardModel, Scorer
from tasks.rollouts.memory import memory_of_ppo
from tasks.rollouts.planning import CURVES, cost_of_rollouts, training_by_rollouts
from tasks.rollouts.settings import (
    KeepConfig,
    KlConfig,
    LoopConfig,
    RewardConfig,
    RolloutConfig,
    SftConfig,
    UpdateConfig,
)
from tasks.rollouts.wiring import check_models
from tasks.training.passes import check_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig

if TYPE_CHECKING:
    from pathlib import Path


ppo_resources = Resources(exclusive=True, gpus=1, ranks=True)
ppo_memory = memory_of_ppo
ppo_wiring = check_models
ppo_files = check_optimizer


ppo_totals = QUERY_TOTALS
ppo_curves = CURVES | {
    "loss/value": Curve("loss of the value network"),
    "val/explained_variance": Curve("variance that the values explain", "share"),
}


def ppo_cost(step: StepView) -> Cost:
    return cost_of_rollouts(step)


def ppo_training(step: StepView) -> Training:
    return training_by_rollouts(step)


def ppo(
    policy: Policy,
    ref: Policy,
    prompts: Prompts,
    oracle: Scorer,
    work: Workspace,
    value: RewardModel | None = None,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    value_lr: Annotated[float, Bounds(above=0)] | None = None,
    rollout: RolloutConfig = RolloutConfig(),
    kl: KlConfig = KlConfig(),
    reward: RewardConfig = RewardConfig(),
    update: UpdateConfig = UpdateConfig(epochs=4),
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0, optimizer={"adamw": {"eps": 1e-5}}),  # type: ignore[arg-type]
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Raise a scorer's scores of a policy's own answers, at a price for every nat away from the reference (PPO).

    Every iteration samples `k` answers to `prompts_per_iteration` prompts with the current weights, scores them, gives
    each token the reward −kl_coef·log π/π_ref and the last one the score besides, and takes `epochs` × `minibatches`
    steps on the whitened advantages (GAE over the answer alone). The exact optimum is π_ref·exp(score/kl_coef),
    normalised. Prompts count alike: their `weight` is not read.

    The value network starts from `value` or, where that is empty, from the policy's `value/`, and is stored in the
    result's `value/`. With the result's `state/`, a later round continues exactly (`tasks/rollouts/resume.py`).
    With `adapter` the policy's weights stay and small layers beside them learn. The value network learns as it is
    given: an adapter of the same base (`train_reward` with `adapter`), or, much larger, a whole reward model. The
    reference costs no memory where it is the base, and an adapter's where it is an adapter of it
    (`tasks/rollouts/one_base.py`). The result is an adapter, with an adapter as `value/`.

    Equal answers to a prompt are one question to the oracle; a resumed step repeats no query where its engine samples
    the same again. Several ranks share prompts, questions and rows, each with whole networks and an engine of its own,
    which must be `transformers`. `plan` states the memory (`tasks/rollouts/memory.py`), and policy and value network
    compute their activations again where all of it does not fit otherwise. Totals: `samples`, `tokens`, `queries`.

    Raises DataError without prompts, without a value network or for one with another tokenizer, template or base, if
    the first update of an iteration does not start at ratio 1, if the sampler's log-probabilities are another policy's,
    or if a number is not finite or the policy runs away (`max_kl`), with the last good checkpoint kept; SpecError for a
    `kl_coef` of 0 that no controller can move, for a single answer per iteration, and for an adapter that is not the
    policy's. Curves: objective/*, policy/*, loss/*, value/*, val/*, sampler/* (`tasks/rollouts/mismatch.py`), time/*
    (shares of an iteration), kl_coef, lr.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate of the policy; no default, because no value serves two models. AdamW's eps of 1e-5 is
            PPO's of old: 1e-8 moves rarely used weights too far.
        value_lr: peak learning rate of the value network; default: `lr`. The networks share nothing and AdamW knows no
            scale, so this is what other codes set by a coefficient of the value loss.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Schulman et al., arXiv 1707.06347; Ziegler et al., arXiv 1909.08593; details of Huang et al., arXiv
    2403.17031.
    Paper: lr 3e-6 for both networks, kl_coef 0.05, 512 answers per iteration, 4 epochs (arXiv 2403.17031, 1B to 6.9B).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.ppo import Ppo
    from tasks.training.adapters import chosen_adapter

    config = LoopConfig(
        iterations, (lr, value_lr or lr), rollout, kl, update, mix, optim, chosen_adapter(adapter), compute, keep, seed
    )
    inputs = RolloutInputs(policy, ref, prompts, oracle, value, demonstrations)
    return train_policy(Ppo(reward, update.objective, update.value_clip), inputs, config, work)


value_of_resources = Resources()
checkpoint_at_resources = Resources()


def value_of(policy: Policy) -> RewardModel:
    """The value network that PPO left beside a policy, for the next round's `value`. Raises DataError without one."""
    if not (policy.path / "value").is_dir():
        raise DataError(
            f"the policy at {policy.path} has no value/: {_held(policy.path)}. A policy that `ppo` made has one; "
            "before the first round, feed the reward model itself"
        )
    return RewardModel(policy.path / "value", base=policy.base)


def checkpoint_at(policy: Policy, *, step: Annotated[int, Bounds(min=1)]) -> Policy:
    """A policy as it was at an earlier step of its training. Raises DataError if that step was not kept.

    Args:
        step: iteration of the training that made the policy, one of its `checkpoints`.
    """
    folder = policy.path / "checkpoints"
    kept = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    if step not in kept:
        available = f"kept are {kept}" if kept else f"none was kept ({_held(policy.path)})"
        raise DataError(
            f"the policy at {policy.path} has no checkpoint of step {step}: {available}. "
            f"Set `checkpoints: [{step}, …]` in the step that trains it"
        )
    return Policy(folder / str(step), base=policy.base)


def _held(path: Path) -> str:
    folders = sorted(f"{p.name}/" for p in path.iterdir() if p.is_dir())
    return f"beside the weights it holds {', '.join(folders)}" if folders else "it holds the weights alone"
