"""The loop of reinforcement learning: sample with the current weights, score, give credit, learn, move the price of a
nat; checkpoints on the way. What a method adds is in `tasks/rollouts/method.py`.
"""

import os
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import ignore_patterns
from typing import NamedTuple

from torch import nn

from tasks.contract import SpecError, Workspace
from tasks.judging.opening import open_oracle
from tasks.judging.oracle_report import report_paid
from tasks.kinds import Demonstrations, Oracle, Policy, Prompts, RewardModel
from tasks.parts import DIGESTS, is_intact, new_part
from tasks.ranks import barrier, join, this_rank
from tasks.rollouts.ahead import LockedWorkspace
from tasks.rollouts.divergence import Diverged, with_last_good
from tasks.rollouts.gpu_budget import with_gradient_checkpointing, with_remaining_memory, with_room_for
from tasks.rollouts.method import Method
from tasks.rollouts.networks import Networks, open_networks, value_start
from tasks.rollouts.one_base import VALUE, check_adapters
from tasks.rollouts.opponent import opponent_sampler
from tasks.rollouts.pending import load_feedback, save_feedback
from tasks.rollouts.refusals import check_off_policy, check_ranks
from tasks.rollouts.resume import (
    ResumeState,
    prompt_order_id,
    read_resume_state,
    restore_moments,
    write_moments,
    write_resume_state,
)
from tasks.rollouts.sampler import PromptOrder, Sampler, longest_of, plan_for
from tasks.rollouts.settings import LoopConfig
from tasks.rollouts.sft_mix import make_sft_mix
from tasks.rollouts.trainer import Progress, Trainer
from tasks.sampling.plan import Draws
from tasks.sampling.requests import Options, close_engine
from tasks.sampling.shards import chosen_engine
from tasks.template import stop_ids
from tasks.training.checkpoint import (
    CheckpointSchedule,
    checkpoint_bytes,
    drop_damaged,
    last_checkpoint,
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


class RolloutInputs(NamedTuple):
    """What a training by rollouts is given."""

    policy: Policy
    ref: Policy | None
    """None where no nat has a price, and nothing measures the distance."""
    prompts: Prompts
    oracle: Oracle | None
    """A Scorer for a method that asks for scores; None for one that asks nothing."""
    value: RewardModel | None = None
    """The start of the value network; None: the policy's own, or none where the method has none."""
    demonstrations: Demonstrations | None = None
    ref_port: str = "ref"
    """What the reference is called in messages."""


def train_policy(method: Method, inputs: RolloutInputs, config: LoopConfig, work: Workspace) -> Policy:
    """Check the inputs, open networks and sampler, train, and write the result to `work.output`."""
    policy, rollout = inputs.policy, config.rollout
    config.kl.check(rollout.prompts_per_iteration * rollout.k)
    if inputs.ref is None and (config.kl.kl_coef or config.kl.moves):
        raise SpecError("kl_coef penalises the KL from a reference policy, and there is none: feed `ref`")
    check_off_policy(method, rollout)
    work = LockedWorkspace(work) if rollout.stale else work
    chosen = with_room_for(config.adapter, chosen_engine(rollout.engine))
    check_ranks(chosen)
    if join().world > 1 and sharding() == "fsdp":
        work.notice("`sharding: fsdp` does not apply here: each rank has whole networks (see `plan`)")
    mix = make_sft_mix(inputs.demonstrations, policy, config.mix, config.seed, work)
    value = value_start(policy, inputs.value) if method.critic else None
    check_adapters(policy, value, config.adapter)
    readers = {
        port: model for port, model in {"value": value, inputs.ref_port: inputs.ref}.items() if model is not None
    }
    plan = plan_for(policy, inputs.prompts, readers, rollout.max_tokens, work)
    draws = Draws(rollout.k * method.best_of, config.seed, rollout.stream)
    order_id = prompt_order_id(plan, draws, rollout.prompts_per_iteration)
    resumed = read_resume_state(method.name, policy, value, config.kl, order_id)
    order = PromptOrder(plan, resumed.noise(draws), rollout.prompts_per_iteration)
    keep_memory()
    try:
        networks = open_networks(
            policy, value, inputs.ref, rollout.temperature, config.compute, config.adapter, config.seed
        )
        state_bytes = state_bytes_of(chosen_optimizer(config.optim.optimizer))
        networks = with_gradient_checkpointing(networks, chosen, state_bytes, config, order.k)
        chosen, rests = with_remaining_memory(
            chosen, networks, state_bytes, rollout.prompts_per_iteration * order.k, longest_of(plan), work,
            may_rest=not rollout.stale,
        )  # fmt: skip
        engine = chosen(policy)
        options = Options(temperature=rollout.temperature, stop_ids=stop_ids(policy))
        oracle = inputs.oracle and open_oracle(inputs.oracle, config.compute.dtype, work, stored=False)
        opponent = opponent_sampler(method.opponent, engine, networks, policy, inputs.ref)
        sampler = Sampler(engine, plan, order, options, opponent)
        _train(Trainer(method, networks, sampler, oracle, config, resumed, mix, work, rests), policy, value)
    finally:
        close_engine()
    return Policy(work.output, base=None if config.adapter is None else policy.whole)


def _train(trainer: Trainer, policy: Policy, value: RewardModel | None) -> None:
    """Train from the last checkpoint in `work.path` on, and write the result to `work.output`."""
    config, work = trainer.config, trainer.work
    checkpoint, kept, learning = work.path / "checkpoint", work.path / "kept", trainer.networks.learning
    _drop_damaged(checkpoint, kept, work)
    trainer = replace(
        trainer, networks=replace(trainer.networks, shape=pinned_packing(checkpoint, trainer.networks.shape))
    )
    networks, resumed = trainer.networks, trainer.resumed
    chosen = chosen_optimizer(config.optim.optimizer)
    optimizer = make_optimizer(chosen, networks.learned)
    size = checkpoint_bytes(whole_weights(learning), state_bytes_of(chosen))
    due = CheckpointSchedule(config.keep.checkpoint_every, config.keep.checkpoint_minutes, size, usual=10)
    progress = _restore(checkpoint, learning, optimizer, chosen.name, resumed)
    before = last_checkpoint(checkpoint)
    source = trainer.source(load_feedback(before) if before else None)
    try:
        while progress.step < config.iterations:
            metrics = trainer.iterate(source, optimizer, progress)
            work.log(progress.step, metrics)
            work.progress(progress.step, config.iterations, "iterations")
            if progress.step in config.checkpoints:
                _keep(networks, policy, kept / str(progress.step))
            last = progress.step == config.iterations
            if last or due.is_due(progress.step):
                pending = source.pending()
                state = vars(progress) | pins(networks.shape)
                save_checkpoint(
                    checkpoint, progress.step, whole_weights(learning), optimizer, state,
                    final=last and not config.keep.keep_optimizer, keep_last=not last,
                    beside=pending and partial(save_feedback, pending),
                )  # fmt: skip
                due.written()
                _drop(work.path / "scores")
    except Diverged as error:
        raise with_last_good(error, checkpoint) from error
    finally:
        source.stop()
    work.count(**+progress.totals)  # without zeros
    report_paid(work)
    if this_rank().is_first:
        folder, name = work.output / "state", trainer.method.name
        write_resume_state(folder, name, resumed, config.iterations, progress.coefficient, config.kl, chosen.name)
        if config.keep.keep_optimizer and not write_moments(folder, learning, optimizer):
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
    """Remove a folder of all ranks, if there is one, before any of them goes on."""
    if this_rank().is_first and folder.exists():
        shutil.rmtree(folder)
    barrier()


def _write(
    networks: Networks, policy: Policy, value: RewardModel | None, checkpoints: tuple[int, ...], work: Workspace
) -> None:
    """The policy, its `value/` if it has a value network, and `checkpoints/<n>/`, linked: a later attempt may need what
    was kept again."""
    for n in sorted(set(checkpoints)):
        to = work.output / "checkpoints" / str(n)
        shutil.copytree(work.path / "kept" / str(n), to, copy_function=os.link, ignore=ignore_patterns(DIGESTS))
    if networks.value is not None and value is not None:
        (work.output / "value").mkdir()
        save_reward_model(networks.value.model, value, work.output / "value", adapter=VALUE, attributes=())
    save_model(networks.policy.model, policy, work.output)
