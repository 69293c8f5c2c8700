"""Online preference optimization: answers are sampled, compared by an oracle and learnt from while a policy trains."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Seed, SpecError, Workspace
from tasks.declarations import Cost, Curve, Resources, StepView
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Demonstrations, Oracle, Policy, Prompts
from tasks.rollouts.memory import memory_without_critic
from tasks.rollouts.planning import CURVES, cost_of_comparisons, training_by_pairs, training_by_rollouts
from tasks.rollouts.settings import FreeKl, KeepConfig, KlConfig, LoopConfig, PassConfig, RolloutConfig, SftConfig
from tasks.rollouts.wiring import check_mixing, check_models
from tasks.training.passes import check_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig

PAIR_CURVES = {
    "rewards/margins": Curve("margin of implicit rewards", role="margin"),
    "rewards/accuracies": Curve("pairs whose chosen reward is higher", "share"),
    "loss/policy": Curve("loss"),
    **{name: curve for name, curve in CURVES.items() if name not in ("objective/scores", "policy/clip_frac")},
}
online_dpo_resources = xpo_resources = nash_md_resources = Resources(exclusive=True, gpus=1, ranks=True)
online_dpo_memory = xpo_memory = nash_md_memory = memory_without_critic
online_dpo_files = xpo_files = nash_md_files = check_optimizer
online_dpo_totals = xpo_totals = nash_md_totals = QUERY_TOTALS
online_dpo_wiring = xpo_wiring = check_models
nash_md_wiring = check_mixing
online_dpo_training = xpo_training = training_by_pairs
nash_md_training = training_by_rollouts
online_dpo_curves = PAIR_CURVES
xpo_curves = PAIR_CURVES | {"objective/win_rate": Curve("win rate against the reference", "probability")}
nash_md_curves = CURVES | {
    "objective/win_rate": Curve("win rate against the opponent", "probability"), "objective/payoff": Curve("payoff"),
}  # fmt: skip


def online_dpo_cost(step: StepView) -> Cost:
    return cost_of_comparisons(step, step.params["k"] * (step.params["k"] - 1) // 2)


def xpo_cost(step: StepView) -> Cost:
    return cost_of_comparisons(step, step.params["k"] * step.params["k_ref"], step.params["k_ref"])


def nash_md_cost(step: StepView) -> Cost:
    return cost_of_comparisons(step, step.params["k"] * step.params["k_opponent"], step.params["k_opponent"])


def online_dpo(
    policy: Policy,
    ref: Policy,
    prompts: Prompts,
    oracle: Oracle,
    work: Workspace,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    loss: Annotated[Chosen, Choice("losses/pairwise")] = "dpo",  # type: ignore[assignment]
    labels: Literal["sampled", "soft", "hard"] = "sampled",
    pairs: Literal["all", "best_and_worst"] = "all",
    orders: Literal["both", "random"] = "both",
    rollout: RolloutConfig = RolloutConfig(k=2),
    passes: PassConfig = PassConfig(),
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Learn pairs of a policy's own answers, sampled and compared anew in every iteration (online DPO, OAIF).

    Every iteration samples `k` answers to `prompts_per_iteration` prompts, has an oracle compare those to a prompt, and
    takes `epochs` × `minibatches` steps on a loss of pairs. `ref` stays the same in all iterations: the first policy,
    as a rule. A Scorer compares by Bradley-Terry; an oracle that depends on the order is queried in both orders, whose
    mean counts. Pairs that the oracle does not answer train nothing.

    With `sampled` or `soft` labels the optimum is that of the loss: π_ref·exp(r/β), normalised, for DPO and
    P = σ(r − r'). `hard` labels, by which the likelier winner always wins, never contradict each other: a loss like
    DPO's then has no finite optimum, and the policy moves on for as long as it trains (IPO's margin is bounded).
    `best_and_worst` prefers pairs that are easy to tell apart, which moves the optimum too.

    Kills, ranks, adapters, resuming in a later round and memory: as `ppo`. Totals: `samples`, `tokens`, `queries`.
    Raises SpecError for a loss that needs more than log-probabilities, lengths and p of a pair, and for k = 1;
    DataError where the oracle compares nothing. Curves: rewards/*, objective/*, policy/*, loss/*, val/*, sampler/*, lr.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate.
        loss: of pairs. Its policy and reference log-probabilities are sums over answers.
        labels: sampled: who wins is drawn with probability P, by noise of the two draws; soft: both orientations of a
            pair, weighted by P; hard: the likelier one wins.
        pairs: all of a prompt's, or its best against its worst answer by mean P of winning.
        orders: for an oracle that depends on the order: query in both, or in a random one for each pair.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, labels, order of prompts and minibatches, and a new adapter.

    Source: Guo et al., arXiv 2402.04792 (OAIF).
    Paper: beta 0.1, lr 5e-7, temperature 0.9, k 2 (TRL 1.16's `OnlineDPOConfig`, whose labels are hard).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.paired import OnlineDpo
    from tasks.rollouts.pair_loss import chosen_pair_loss
    from tasks.training.adapters import chosen_adapter

    if rollout.k < 2:
        raise SpecError("k = 1: a pair needs two answers to a prompt, so k is at least 2")
    method = OnlineDpo(chosen_pair_loss(loss, labels), labels, pairs, orders, seed)
    config = LoopConfig(
        iterations, (lr,), rollout, FreeKl(), passes, mix, optim, chosen_adapter(adapter), compute, keep,
        seed,
    )  # fmt: skip
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    return train_policy(method, inputs, config, work)


def xpo(
    policy: Policy,
    ref: Policy,
    prompts: Prompts,
    oracle: Oracle,
    work: Workspace,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    alpha: Annotated[float, Bounds(min=0)] = 1e-5,
    k_ref: Annotated[int, Bounds(min=1)] = 1,
    loss: Annotated[Chosen, Choice("losses/pairwise")] = "dpo",  # type: ignore[assignment]
    labels: Literal["sampled", "soft", "hard"] = "sampled",
    orders: Literal["both", "random"] = "both",
    rollout: RolloutConfig = RolloutConfig(k=1),
    passes: PassConfig = PassConfig(),
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Online DPO of a policy's answers against its reference's, with a bonus for exploration (XPO).

        ℓ(pair of y ~ π and y' ~ π_ref)  +  α·log π(y'),   each in the mean

    The bonus makes answers that the reference gives less likely, and so all others likelier: optimism about answers
    that were not compared yet. It has no bound, and it is not divided by anything that learning makes small, so the
    optimum is moved by it: α = 0 is online DPO with the reference as opponent, and α is small. The reference's answers
    are sampled without a second copy of it in memory (`tasks/sampling/mixture.py`).

    All else is as in `online_dpo`. Curves besides: objective/win_rate, the mean P of beating the reference, and
    logps/reference_answers, the bonus without α.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate.
        alpha: α, weight of the bonus.
        k_ref: answers of the reference per prompt; each is compared with each of the policy's `k`.
        loss: of pairs. Its policy and reference log-probabilities are sums over answers.
        labels: as in `online_dpo`.
        orders: for an oracle that depends on the order: query in both, or in a random one for each pair.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, labels, order of prompts and minibatches, and a new adapter.

    Source: Xie et al., arXiv 2405.21046, Algorithm 1.
    Paper: alpha 5e-6 (oat's code) or 1e-5 (TRL's default until 1.10).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.methods.paired import Xpo
    from tasks.rollouts.pair_loss import chosen_pair_loss
    from tasks.training.adapters import chosen_adapter

    method = Xpo(chosen_pair_loss(loss, labels), labels, "all", orders, seed, alpha, k_ref)
    config = LoopConfig(
        iterations, (lr,), rollout, FreeKl(), passes, mix, optim, chosen_adapter(adapter), compute, keep,
        seed,
    )  # fmt: skip
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    return train_policy(method, inputs, config, work)


def nash_md(
    policy: Policy,
    ref: Policy,
    prompts: Prompts,
    oracle: Oracle,
    work: Workspace,
    demonstrations: Demonstrations | None = None,
    *,
    iterations: Annotated[int, Bounds(min=1)],
    lr: Annotated[float, Bounds(above=0)],
    mixture: Annotated[float, Bounds(min=0, max=1)] = 0.125,
    k_opponent: Annotated[int, Bounds(min=1)] = 1,
    payoff: Literal["probability", "log_odds"] = "probability",
    baseline: Literal["leave_one_out", "even"] = "leave_one_out",
    orders: Literal["both", "random"] = "both",
    rollout: RolloutConfig = RolloutConfig(),
    kl: KlConfig = KlConfig(),
    passes: PassConfig = PassConfig(),
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    mix: SftConfig = SftConfig(),
    optim: StepConfig = StepConfig(warmup=0.0),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    compute: GradientComputeConfig = GradientComputeConfig(),
    keep: KeepConfig = KeepConfig(),
    seed: Seed = 0,
) -> Policy:
    """Play a game of preferences against a mixture of the policy and its reference, for a price per nat (Nash-MD).

    Every iteration samples `k` answers of the policy π and `k_opponent` of the mixture π^(1−m)·π_ref^m to each prompt,
    has the oracle compare each with each, and takes a step of REINFORCE on the payoff less τ·log π/π_ref of the whole
    answer, τ = kl_coef. The opponent is only played against: nothing is learnt from its answers.

    With the payoff `probability` the fixed point is π ∝ π_ref·exp(P(y ≻ π^(1−m)·π_ref^m)/τ). There the *mixture* is the
    Nash policy of the game whose price of a nat is τ/(1 − m), and π the best response to it; π itself is a Nash policy
    for m = 0 alone, which is self-play. The payoff `log_odds` with m = 0 has the equilibrium
    π ∝ π_ref·exp(E log P/(1 − P)/τ), which is RLHF's optimum where the oracle is Bradley-Terry.

    An engine other than `transformers` samples m = 0 and m = 1 alone (`tasks/sampling/mixture.py`). All else is as in
    `online_dpo`. Curves besides: objective/win_rate, the mean P of beating the opponent, and objective/payoff.
    Raises SpecError for a mixture that the engine cannot sample, and for k = 1 with `leave_one_out`.

    Args:
        iterations: rollouts; each is learnt from once.
        lr: peak learning rate.
        mixture: m, the reference's share of the opponent.
        k_opponent: answers of the opponent per prompt; the payoff of an answer is its mean over them.
        payoff: P(y ≻ y') − ½, or the log-odds of P, which is moved into [1e-3, 1 − 1e-3] before.
        baseline: what an answer's payoff less its price is compared with: the mean of the policy's other answers to the
            prompt, or an even game, which is 0.
        orders: for an oracle that depends on the order: query in both, or in a random one for each pair.
        objective: what a step minimises.
        adapter: what learns beside the policy's frozen base; default: nothing, the whole policy learns.
        seed: of draws, order of prompts and minibatches, and a new adapter.

    Source: Munos et al., arXiv 2312.00886, §7 (Nash-MD-PG), in the form for whole answers: TRL's product of token
    terms has another fixed point.
    Paper: m 0.125, τ 0.008 (there: for policies of T5X).
    """
    from tasks.rollouts.loop import RolloutInputs, train_policy
    from tasks.rollouts.method import Opponent
    from tasks.rollouts.methods.nash_md import NashMd
    from tasks.training.adapters import chosen_adapter

    if rollout.k < 2 and baseline == "leave_one_out":
        raise SpecError("k = 1 leaves no other answer to a prompt for the baseline `leave_one_out`: set k, or `even`")
    method = NashMd(payoff, baseline, Opponent(k_opponent, mixture, is_learnt=False), objective, orders)
    config = LoopConfig(
        iterations, (lr,), rollout, kl, passes, mix, optim, chosen_adapter(adapter), compute, keep, seed
    )
    inputs = RolloutInputs(policy, ref, prompts, oracle, demonstrations=demonstrations)
    return train_policy(method, inputs, config, work)
