"""The loop of PPO: sample with the current weights, score, learn, move the price of a nat; checkpoints on the way."""

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import ignore_patterns

from torch import nn

from tasks.contract import Chosen, SpecError, Workspace
from tasks.judging.opening import open_oracle
from tasks.judging.oracle_report import report_paid
from tasks.kinds import Demonstrations, Policy, Prompts, RewardModel, Scorer
from tasks.parts import DIGESTS, is_intact, new_part
from tasks.ranks import barrier, join, this_rank
from tasks.rollouts.gpu_budget import with_gradient_checkpointing, with_remaining_memory, with_room_for
from tasks.rollouts.networks import Networks, open_networks, value_start
from tasks.rollouts.one_base import VALUE, check_adapters
from tasks.rollouts.resume import (
    ResumeState,
    prompt_order_id,
    read_resume_state,
    restore_moments,
    write_moments,
    write_resume_state,
)
from tasks.rollouts.rollout import PromptOrder, Sampler, make_rollout, plan_for, sample_scored
from tasks.rollouts.settings import PpoConfig
from tasks.rollouts.sft_mix import SftMix, make_sft_mix
from tasks.rollouts.update import learn
from tasks.sampling.plan import Draws
from tasks.sampling.requests import Options, close_engine
from tasks.sampling.shards import chosen_engine
from tasks.template import stop_ids
from tasks.training.checkpoint import (
    CheckpointSchedule,
    checkpoint_bytes,
    drop_damaged,
    last_state,
    load_checkpoint,
    pinned_packing,
    pins,
    save_checkpoint,
)
from tasks.training.model import keep_memory, save_model
from tasks.training.optimizer import Updater, chosen_optimizer, make_optimizer, state_bytes_of
from tasks.training.parallel import whole_weights
from tasks.training.placement import sharding
from tasks.training.reward import save_reward_model


@dataclass
class Progress:
    """What a checkpoint has besides weights and the optimizer's state."""

    step: int
    """Iterations so far."""
    coefficient: float
    """Of the KL penalty, for the next iteration."""
    totals: Counter[str]
    """samples, tokens, queries; an iteration that a kill undid and another attempt ran again counts once."""
    difference: float | None
    """Between sampler and trainer in the first iteration, nats per token; None before it."""


def train_by_ppo(
    policy: Policy,
    ref: Policy,
    prompts: Prompts,
    oracle: Scorer,
    value: RewardModel | None,
    demonstrations: Demonstrations | None,
    config: PpoConfig,
    work: Workspace,
) -> None:
    """Check the inputs, open networks and sampler, train, and write the result to `work.output` (`tasks.rl.ppo`)."""
    rollout = config.rollout
    config.kl.check(rollout.prompts_per_iteration * rollout.k)
    chosen = with_room_for(config.adapter, chosen_engine(rollout.engine))
    check_ranks(chosen)
    if join().world > 1 and sharding() == "fsdp":
        work.notice("`sharding: fsdp` does not apply here: each rank of PPO has whole networks (see `plan`)")
    sft_mix = make_sft_mix(demonstrations, policy, config.mix, config.seed, work)
    value = value_start(policy, value)
    check_adapters(policy, value, config.adapter)
    plan = plan_for(policy, prompts, {"value": value, "ref": ref}, rollout.max_tokens, work)
    draws = Draws(rollout.k, config.seed, rollout.stream)
    order_id = prompt_order_id(plan, draws, rollout.prompts_per_iteration)
    resumed = read_resume_state(policy, value, config.kl, order_id)
    keep_memory()
    try:
        networks = open_networks(
            policy, value, ref, rollout.temperature, config.compute, config.adapter, config.seed
        )  # fmt: skip
        state_bytes = state_bytes_of(chosen_optimizer(config.optim.optimizer))
        networks = with_gradient_checkpointing(networks, chosen, state_bytes, config)
        engine = with_remaining_memory(chosen, networks, state_bytes, work)(policy)
        order = PromptOrder(plan, resumed.noise(draws), rollout.prompts_per_iteration)
        options = Options(temperature=rollout.temperature, stop_ids=stop_ids(policy))
        sampler = Sampler(engine, open_oracle(oracle, config.compute.dtype, work, stored=False), plan, order, options)
        _train(networks, sampler, config, resumed, sft_mix, policy, value, work)
    finally:
        close_engine()


def check_ranks(engine: Chosen) -> None:
    """Refuse an engine that several ranks cannot have. Raises SpecError."""
    if join().world > 1 and engine.name == "vllm":
        raise SpecError(
            "PPO on several ranks samples with `engine: transformers`: vLLM, in the process of a rank, would take its "
            "process group for its own"
        )


def _train(
    networks: Networks,
    sampler: Sampler,
    config: PpoConfig,
    resumed: ResumeState,
    sft_mix: SftMix | None,
    policy: Policy,
    value: RewardModel,
    work: Workspace,
) -> None:
    """Train from the last checkpoint in `work.path` on, and write the result to `work.output`."""
    checkpoint, kept, learning = work.path / "checkpoint", work.path / "kept", networks.learning
    _drop_damaged(checkpoint, kept, work)
    networks = replace(networks, shape=pinned_packing(checkpoint, networks.shape))
    chosen = chosen_optimizer(config.optim.optimizer)
    optimizer = make_optimizer(chosen, networks.learned)
    size = checkpoint_bytes(whole_weights(learning), state_bytes_of(chosen))
    due = CheckpointSchedule(config.checkpoint_every, config.checkpoint_minutes, size, usual=10)
    progress = _restore(checkpoint, learning, optimizer, chosen.name, resumed)
    while progress.step < config.iterations:
        metrics = _iterate(networks, sampler, optimizer, config, resumed, sft_mix, progress, work)
        work.log(progress.step, metrics)
        work.progress(progress.step, config.iterations, "iterations")
        if progress.step in config.checkpoints:
            _keep(networks, policy, kept / str(progress.step))
        last = progress.step == config.iterations
        if last or due.is_due(progress.step):
            state = vars(progress) | pins(networks.shape)
            final = last and not config.keep_optimizer
            save_checkpoint(checkpoint, progress.step, whole_weights(learning), optimizer, state, final=final)
            due.written()
            _drop(work.path / "scores")
    work.count(**progress.totals)
    report_paid(work)
    if this_rank().is_first:
        folder = work.output / "state"
        write_resume_state(folder, resumed, config.iterations, progress.coefficient, config.kl, chosen.name)
        if config.keep_optimizer and not write_moments(folder, learning, optimizer):
            work.notice(f"the state of {chosen.name} is not kept: it is no plain tensors; a later round begins it anew")
        _write(networks, policy, value, config.checkpoints, work)
    barrier()


def _restore(
    checkpoint: Path, learning: nn.ModuleDict, optimizer: Updater, name: str, resumed: ResumeState
) -> Progress:
    """Read the last checkpoint, or the state that the round before left of the optimizer `name`."""
    if state := load_checkpoint(checkpoint, whole_weights(learning), optimizer):
        return Progress(state["step"], state["coefficient"], Counter(state["totals"]), state["difference"])
    if resumed.moments is not None and resumed.optimizer == name:
        restore_moments(resumed.moments, learning, optimizer)
    return Progress(0, resumed.coefficient, Counter(), None)


def _iterate(
    networks: Networks,
    sampler: Sampler,
    optimizer: Updater,
    config: PpoConfig,
    resumed: ResumeState,
    sft_mix: SftMix | None,
    progress: Progress,
    work: Workspace,
) -> dict[str, float]:
    """Sample, score and learn once; `progress` moves on. Returns the metrics."""
    begun, iteration = time.perf_counter(), progress.step
    number = resumed.iterations + iteration
    sampler.engine.update(*networks.weights)
    answers = sample_scored(
        sampler, number - resumed.begun, work.path / "scores" / str(iteration),
        lambda share: work.progress(iteration + 0.5 * share, config.iterations, "iterations"), work,
    )  # fmt: skip
    rollout = make_rollout(networks, answers, progress.coefficient, config.reward, progress.difference)
    rates = config.rates(iteration)
    metrics = learn(networks, optimizer, rollout, config, rates, number, sft_mix)
    metrics |= {**rollout.metrics, "kl_coef": progress.coefficient, "lr": rates[0]}
    progress.step += 1
    progress.coefficient = config.kl.after(progress.coefficient, rollout.kl, len(answers.rows))
    progress.difference = rollout.difference if progress.difference is None else progress.difference
    progress.totals.update(
        samples=len(answers.rows) + answers.unanswered, queries=answers.queries,
        tokens=int(answers.rows.answers.lengths.sum()),
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    return metrics | {"tokens_per_second": int(answers.rows.tokens.sum()) / seconds}


def _drop_damaged(checkpoint: Path, kept: Path, work: Workspace) -> None:
    """Remove damaged checkpoints, and all of them where a policy kept before is damaged: no later one has it."""
    drop_damaged(checkpoint, work)
    policies = [part for part in kept.glob("*") if not part.name.startswith(".")]
    if this_rank().is_first and last_state(checkpoint) and not all(map(is_intact, policies)):
        work.notice("a policy that an earlier attempt kept was damaged; training begins again")
        shutil.rmtree(checkpoint)
    barrier()


def _keep(networks: Networks, policy: Policy, folder: Path) -> None:
    if this_rank().is_first:
        with new_part(folder) as part:
            save_model(networks.policy.model, policy, part)


def _drop(folder: Path) -> None:
    """Remove a folder of all ranks before any of them goes on."""
    if this_rank().is_first:
        shutil.rmtree(folder)
    barrier()


def _write(
    networks: Networks, policy: Policy, value: RewardModel, checkpoints: tuple[int, ...], work: Workspace
) -> None:
    """The policy, with `value/` and `checkpoints/<n>/`. What was kept is linked: a later attempt may need it again."""
    for n in sorted(set(checkpoints)):
        to = work.output / "checkpoints" / str(n)
        shutil.copytree(work.path / "kept" / str(n), to, copy_function=os.link, ignore=ignore_patterns(DIGESTS))
    (work.output / "value").mkdir()
    save_reward_model(networks.value.model, value, work.output / "value", adapter=VALUE, attributes=())
    save_model(networks.policy.model, policy, work.output)
