"""The loop of PPO: push weights, draw, score, learn, control; checkpoints, and the policies kept along the way."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import ignore_patterns

import torch

from tasks.contract import Workspace
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.parts import DIGESTS, is_intact, new_part
from tasks.rollouts.gpu_budget import with_remaining_memory
from tasks.rollouts.networks import Networks
from tasks.rollouts.resume import ResumeState, restore_moments, write_moments, write_resume_state
from tasks.rollouts.rollout import PromptOrder, ScoredAnswers, make_rollout, sample_scored
from tasks.rollouts.settings import PpoConfig, RolloutConfig
from tasks.rollouts.sft_mix import SftMix
from tasks.rollouts.update import learn
from tasks.sampling.plan import Draws, SamplingPlan
from tasks.sampling.requests import Engine, Options
from tasks.sampling.shards import chosen_engine
from tasks.template import stop_ids
from tasks.training.checkpoint import (
    CheckpointSchedule,
    checkpoint_bytes,
    drop_damaged,
    last_state,
    load_checkpoint,
    pinned_packing,
    save_checkpoint,
)
from tasks.training.memory import StateBytes
from tasks.training.model import save_model
from tasks.training.optimizer import chosen_optimizer, make_optimizer, state_bytes_of
from tasks.training.reward import save_reward_model


@dataclass(frozen=True)
class SamplingConfig:
    """What answers are drawn with."""

    engine: Engine
    scorer: Scorer
    plan: SamplingPlan
    course: PromptOrder
    options: Options


def open_sampling(
    networks: Networks,
    policy: Policy,
    oracle: Scorer,
    plan: SamplingPlan,
    draws: Draws,
    config: RolloutConfig,
    dtype: str,
    state: StateBytes,
    work: Workspace,
) -> SamplingConfig:
    """The engine, with what memory the networks and their optimizer leave it, and the oracle, which computes in
    `dtype`, both open."""
    engine = with_remaining_memory(chosen_engine(config.engine), networks, state, work)(policy)
    options = Options(temperature=config.temperature, stop_ids=stop_ids(policy))
    return SamplingConfig(
        engine, oracle.open(dtype), plan, PromptOrder(plan, draws, config.prompts_per_iteration), options
    )


@dataclass
class Totals:
    """What the iterations used; one that a kill undid and another attempt ran again counts once."""

    samples: int = 0
    tokens: int = 0
    queries: int = 0


def reinforce(
    networks: Networks,
    sampling: SamplingConfig,
    config: PpoConfig,
    carried: ResumeState,
    mixed: SftMix | None,
    policy: Policy,
    value: RewardModel,
    work: Workspace,
) -> None:
    """Train from the last checkpoint in `work.path` on, and write the result to `work.output`."""
    folder, learning = work.path / "checkpoint", networks.learning
    _drop_damaged(folder, work.path / "kept", work)
    networks = replace(networks, shape=pinned_packing(folder, networks.shape))
    chosen = chosen_optimizer(config.optim.optimizer)
    optimizer = make_optimizer(chosen, [networks.policy.model.parameters(), networks.value.model.parameters()])
    size = checkpoint_bytes(learning, state_bytes_of(chosen))
    due = CheckpointSchedule(config.checkpoint_every, config.checkpoint_minutes, size, usual=10)
    state = load_checkpoint(folder, learning, optimizer)
    if state is None:
        state = {"step": 0, "coefficient": carried.coefficient, "totals": {}, "difference": None}
        if carried.moments is not None and carried.optimizer == chosen.name:
            restore_moments(carried.moments, learning, optimizer)
    coefficient, totals, difference = float(state["coefficient"]), Totals(**state["totals"]), state["difference"]
    for iteration in range(state["step"], config.iterations):
        begun, number = time.perf_counter(), carried.iterations + iteration
        sampling.engine.update(networks.policy.model.state_dict().items())
        drawn = _drawn(sampling, number - carried.begun, iteration, config.iterations, work)
        rollout = make_rollout(networks, drawn, coefficient, config.reward, difference)
        difference = rollout.difference if difference is None else difference
        rates = config.rates(iteration)
        metrics = learn(networks, optimizer, rollout, config, rates, number, mixed)
        metrics |= {**rollout.metrics, "kl_coef": coefficient, "lr": rates[0]}
        coefficient = config.kl.after(coefficient, rollout.kl, len(drawn.rows))
        _count(totals, drawn)
        metrics["tokens_per_second"] = int(drawn.rows.tokens.sum()) / (time.perf_counter() - begun)
        work.log(iteration + 1, metrics)
        work.progress(iteration + 1, config.iterations, "iterations")
        if iteration + 1 in config.checkpoints:
            _keep(networks, policy, work.path / "kept", iteration + 1)
        last = iteration + 1 == config.iterations
        if last or due.is_due(iteration + 1):
            kept = {"coefficient": coefficient, "totals": vars(totals), "difference": difference,
                    "shape": networks.shape._asdict(), "threads": torch.get_num_threads()}  # fmt: skip
            final = last and not config.keep_optimizer
            save_checkpoint(folder, iteration + 1, learning, optimizer, kept, final=final)
            due.written()
            shutil.rmtree(work.path / "scores")
    work.count(**vars(totals))
    write_resume_state(work.output / "state", carried, config.iterations, coefficient, config.kl, chosen.name)
    if config.keep_optimizer and not write_moments(work.output / "state", learning, optimizer):
        work.notice(f"the state of {chosen.name} is not kept: it is no plain tensors; a later round begins it anew")
    _write(networks, policy, value, config.checkpoints, work)


def _drawn(sampling: SamplingConfig, number: int, iteration: int, iterations: int, work: Workspace) -> ScoredAnswers:
    """number: the iteration's place in the course."""
    course = sampling.course.draws(number)

    def on_progress(n: int) -> None:
        work.progress(iteration + 0.5 * n / len(course[1]), iterations, "iterations")

    s, kept = sampling, work.path / "scores" / str(iteration)
    return sample_scored(s.engine, s.scorer, s.plan, course, s.options, kept, on_progress, work)


def _count(totals: Totals, drawn: ScoredAnswers) -> None:
    """Tokens are those drawn, as `sample` counts them, without those of unscored answers; queries as `score` does."""
    totals.samples += len(drawn.rows) + drawn.unanswered
    totals.queries += drawn.queries
    totals.tokens += int(drawn.rows.answers.lengths.sum())


def _keep(networks: Networks, policy: Policy, folder: Path, iteration: int) -> None:
    with new_part(folder / str(iteration)) as part:
        save_model(networks.policy.model, policy, part)


def _drop_damaged(checkpoint: Path, kept: Path, work: Workspace) -> None:
    """Begin again where a checkpoint, or a policy kept before it, is not what was written: no later one has it."""
    drop_damaged(checkpoint, work)
    if not last_state(checkpoint) or all(is_intact(part) for part in _kept(kept)):
        return
    work.notice("a policy that an earlier attempt kept was damaged; training begins again")
    shutil.rmtree(checkpoint)


def _kept(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*")) if not p.name.startswith(".")]


def _write(networks: Networks, policy: Policy, value: RewardModel, checkpoints: Sequence[int], work: Workspace) -> None:
    """The policy, with `value/` and `checkpoints/<n>/`. What was kept is linked: a later attempt may need it again."""
    for n in sorted(set(checkpoints)):
        to = work.output / "checkpoints" / str(n)
        shutil.copytree(work.path / "kept" / str(n), to, copy_function=os.link, ignore=ignore_patterns(DIGESTS))
    (work.output / "value").mkdir()
    save_reward_model(networks.value.model, value, work.output / "value")
    save_model(networks.policy.model, policy, work.output)
