"""Reinforcement learning: Proximal Policy Optimization against a scorer, and what a policy keeps of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, DataError, Execution, Seed, SpecError, Workspace
from tasks.declarations import HEAVY, AtMost, Cost, Resources, StepView, Training
from tasks.kinds import Demonstrations, Policy, Prompts, RewardModel, Scorer

if TYPE_CHECKING:
    from pathlib import Path


ppo_resources = HEAVY


def ppo_cost(step: StepView) -> Cost:
    from tasks.sampling.longest import longest_answer

    answers = step.params["iterations"] * step.params["prompts_per_iteration"] * step.params["k"]
    longest, _ = longest_answer(step)
    return {"samples": answers, "queries": answers, "tokens": AtMost(answers * longest, typical=False)}


def ppo_training(step: StepView) -> Training:
    params = step.params
    constants = {name: params[name] for name in ("lr", "epochs")}
    return Training(
        "ppo", params["kl_coef"], {name: params[name] for name in ("k", "prompts_per_iteration")}, constants
    )


ppo_curves = {
    "objective/scores": "score", "objective/kl": "KL to reference (nats)", "objective/entropy": "entropy (nats)",
    "policy/clip_frac": "clipped tokens", "loss/value": "value loss", "val/explained_variance": "explained variance",
    "grad_norm": "gradient norm", "lr": "learning rate",
}  # fmt: skip


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
    prompts_per_iteration: Annotated[int, Bounds(min=1)] = 64,
    k: Annotated[int, Bounds(min=1)] = 4,
    lr: Annotated[float, Bounds(above=0)],
    value_lr: Annotated[float, Bounds(above=0)] | None = None,
    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped",  # type: ignore[assignment]
    kl_coef: Annotated[float, Bounds(min=0)] = 0.05,
    kl_controller: Annotated[Chosen, Choice("kl_controllers")] = "fixed",  # type: ignore[assignment]
    epochs: Annotated[int, Bounds(min=1)] = 4,
    minibatches: Annotated[int, Bounds(min=1)] = 1,
    gamma: Annotated[float, Bounds(above=0, max=1)] = 1.0,
    lam: Annotated[float, Bounds(min=0, max=1)] = 0.95,
    value_clip: Annotated[float, Bounds(above=0)] = 0.2,
    missing_eos_penalty: Annotated[float, Bounds(min=0)] = 1.0,
    sft: Annotated[float, Bounds(min=0)] = 0.0,
    sft_batch: Annotated[int, Bounds(min=1)] = 32,
    sft_average: Literal["token", "sequence"] = "token",
    temperature: Annotated[float, Bounds(min=0.01)] = 1.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    schedule: Literal["linear", "cosine", "constant"] = "linear",
    warmup: Annotated[float, Bounds(min=0, max=1)] = 0.0,
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - signatures are read as literals
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0,
    checkpoints: list[int] = [],  # noqa: B006
    keep_optimizer: bool = True,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: Seed = 0,
    stream: Seed = 0,
    engine: Annotated[Chosen, Choice("engines")] = "auto",  # type: ignore[assignment]
    max_tokens_per_microbatch: Execution[int] = 0,
    checkpoint_every: Execution[int] = 10,
) -> Policy:
    """Raise a scorer's scores of a policy's own answers, at a price for every nat away from the reference (PPO).

    Every iteration draws `k` answers to `prompts_per_iteration` prompts with the weights as they are, scores them,
    gives each token the reward −kl_coef·log π/π_ref and the last one the score besides, and takes `epochs` ×
    `minibatches` steps on the whitened advantages (GAE over the answer alone). The exact optimum is
    π_ref·exp(score/kl_coef), normalised.

    The value network is one of its own, started from `value` or, where that is empty, from what an earlier `ppo` left
    in the policy's `value/`; it stays in the result's `value/`. `state/` keeps iterations, KL coefficient and Adam's
    moments, so that a later round on this result and its `value_of` goes on exactly where lr is constant and prompts,
    their number, k, epochs, minibatches and seed are the same. With other prompts, another number, k or seed the order
    of prompts begins anew, with new noise. Prompts count alike: their `weight` is not read.

    One device. By arithmetic, not measurement: P parameters take 36·P bytes where all three networks have as many
    (weights in float32, gradients and Adam's moments of two), and activations and the engine come besides. vLLM on a
    GPU gets no more than that leaves it, whatever its `gpu_memory` says.

    Equal answers to a prompt are one question to the oracle, and scores are kept as they come: a killed step asks
    nothing twice where its engine draws the same again. Totals: `samples`, `tokens`, `queries`.

    Raises DataError without prompts, where there is no value network or one with another tokenizer or template, where
    the first update of an iteration does not start at ratio 1, where the sampler's log-probabilities are another
    policy's, or where a number is none any more; SpecError for a `kl_coef` of 0 that no controller can move, and for
    a single answer per iteration. Curves: objective/*, policy/*, loss/*, value/*, val/*, sampler/*, kl_coef, lr.

    Args:
        iterations: rollouts; each is learnt from once.
        prompts_per_iteration: how many, in a seeded order through the table, again and again.
        k: answers per prompt.
        lr: peak learning rate of the policy; no default, because no value serves two models.
        value_lr: peak learning rate of the value network; default: `lr`. The networks share nothing and Adam knows no
            scale, so this is what other codes set by a coefficient of the value loss.
        objective: what a step minimises.
        kl_coef: price of a nat, in units of the score; where a controller moves it, its start.
        kl_controller: how the price goes on after each iteration.
        epochs: passes over an iteration's answers.
        minibatches: optimizer steps per pass; the answers to a prompt stay together.
        gamma: discount per token.
        lam: GAE's λ: 1 trusts the scores alone, 0 the value network alone.
        value_clip: how far a value may move in one iteration before its gradient ends, in units of the score.
        missing_eos_penalty: subtracted from the score of an answer that was cut.
        sft: coefficient of the demonstrations' mean negative log-likelihood in every step's loss.
        sft_batch: demonstrations per step.
        sft_average: mean over their tokens, or over whole answers.
        temperature: of the answers, and of every log-probability that is compared with them.
        max_tokens: longest answer; default: generation_config.json's max_new_tokens, else what the positions leave.
        schedule: how the learning rates fall after the warm-up; linear and cosine end at 0.
        warmup: share of the iterations over which they rise linearly from 0.
        betas: Adam's two decay rates; its eps is 1e-5.
        max_grad_norm: each network's gradient is scaled down to this norm.
        checkpoints: iterations after which the whole policy is kept in `checkpoints/<n>/`.
        keep_optimizer: Adam's moments in `state/`: twice the size of both networks.
        dtype: type that the networks compute in; auto: float32 on a CPU, bfloat16 on a GPU. Weights stay in float32.
        seed: of draws, order of prompts and minibatches.
        stream: another stream of noise for the same prompts; in rounds, `$round`, or a round that is tried again after
            a gate refused it would draw the very answers of the refused one.
        engine: what generates; `auto`: vllm on a machine with a GPU, else transformers.
        max_tokens_per_microbatch: most tokens that go through a network together, padding included; 0: what fits.
        checkpoint_every: iterations between two checkpoints.

    Source: Schulman et al., arXiv 1707.06347; Ziegler et al., arXiv 1909.08593; details of Huang et al., arXiv
    2403.17031.
    Paper: lr 3e-6 for both networks, kl_coef 0.05, 512 answers per iteration, 4 epochs (arXiv 2403.17031, 1B to 6.9B).
    """
    from tasks.rollouts import networks as n
    from tasks.rollouts.gpu_budget import with_remaining_memory
    from tasks.rollouts.loop import LoopConfig, SamplingConfig, reinforce
    from tasks.rollouts.resume import KlControl, prompt_order_id, read_resume_state
    from tasks.rollouts.rollout import PromptOrder, RewardConfig
    from tasks.rollouts.sft_mix import make_sft_mix
    from tasks.rollouts.update import UpdateConfig
    from tasks.sampling.plan import Draws, sampling_plan
    from tasks.sampling.requests import Options, close_engine
    from tasks.sampling.shards import chosen_engine
    from tasks.template import stop_ids
    from tasks.training.model import keep_memory, positions_of

    if len(betas) != 2:
        raise SpecError(f"betas = {betas}; Adam has two, such as [0.9, 0.999]")
    if beyond := [c for c in checkpoints if not 1 <= c <= iterations]:
        raise SpecError(f"checkpoints = {checkpoints}: {beyond} lie outside the iterations 1 to {iterations}")
    if prompts_per_iteration * k == 1:
        raise SpecError(
            "prompts_per_iteration 1 and k 1 give one answer per iteration, and its advantage means nothing without "
            "another"
        )
    control = KlControl(kl_controller, kl_coef)
    if kl_coef == 0 and control.moves and control.after(0.0, 1e6, prompts_per_iteration * k) == 0:
        raise SpecError(
            f"kl_coef = 0 stays 0 under `{kl_controller.name}`, which multiplies it: start above 0, or say "
            "`kl_controller: fixed` if nats are to be free"
        )
    if (demonstrations is None) != (sft == 0):
        raise SpecError("demonstrations and their coefficient `sft` (above 0) come together")
    start = n.value_start(policy, value)
    n.check_tokens(policy, start, "value")
    n.check_tokens(policy, ref, "ref")
    plan = sampling_plan(policy, prompts, max_tokens, work)
    if not plan.prompt_ids:
        raise DataError("there are no prompts to draw answers to")
    longest = max(len(t) + room for t, room in zip(plan.prompt_tokens, plan.room, strict=True))
    n.check_room(longest, {"value": start, "ref": ref})
    keep_memory()
    mixed = None
    if demonstrations is not None:
        mixed = make_sft_mix(demonstrations, policy, sft, sft_batch, sft_average, seed, positions_of(policy), work)
    draws = Draws(k, seed, stream)
    carried = read_resume_state(policy, start, control, prompt_order_id(plan, draws, prompts_per_iteration))
    try:
        networks = n.open_networks(policy, start, ref, temperature, dtype, max_tokens_per_microbatch)
        reinforce(
            networks,
            SamplingConfig(
                with_remaining_memory(chosen_engine(engine), networks, work)(policy), oracle.open(), plan,
                PromptOrder(plan, carried.noise(draws), prompts_per_iteration),
                Options(temperature=temperature, stop_ids=stop_ids(policy)),
            ),
            RewardConfig(gamma, lam, missing_eos_penalty),
            UpdateConfig(objective, epochs, minibatches, value_clip, max_grad_norm, seed),
            LoopConfig(
                iterations, lr, value_lr or lr, schedule, warmup, (betas[0], betas[1]), tuple(checkpoints),
                keep_optimizer, checkpoint_every,
            ),
            control, carried, mixed, policy, start, work,
        )  # fmt: skip
    finally:
        close_engine()
    return Policy(work.output)


value_of_resources = Resources()
checkpoint_at_resources = Resources()


def value_of(policy: Policy) -> RewardModel:
    """The value network that PPO left beside a policy, for the next round's `value`. Raises DataError without one."""
    if not (policy.path / "value").is_dir():
        raise DataError(
            f"the policy at {policy.path} has no value/: {_held(policy.path)}. A policy that `ppo` made has one; "
            "before the first round, feed the reward model itself"
        )
    return RewardModel(policy.path / "value")


def checkpoint_at(policy: Policy, *, step: Annotated[int, Bounds(min=1)]) -> Policy:
    """A policy as it was at an earlier step of its training. Raises DataError if that step was not kept.

    Args:
        step: iteration of the training that made the policy, one of its `checkpoints`.
    """
    folder = policy.path / "checkpoints"
    kept = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    if step not in kept:
        told = f"kept are {kept}" if kept else f"none was kept ({_held(policy.path)})"
        raise DataError(
            f"the policy at {policy.path} has no checkpoint of step {step}: {told}. Say `checkpoints: [{step}, …]` in "
            "the step that trains it"
        )
    return Policy(folder / str(step))


def _held(path: Path) -> str:
    folders = sorted(f"{p.name}/" for p in path.iterdir() if p.is_dir())
    return f"beside the weights it holds {', '.join(folders)}" if folders else "it holds the weights alone"
