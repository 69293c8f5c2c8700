"""An iteration's answers: prompts, samples, scores, and the networks' log-probabilities and values of their tokens."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.journal import Journal
from tasks.judging.pairing import Questions
from tasks.kinds import Model, Policy, Prompts, Scorer
from tasks.ranks import gather_all, this_rank
from tasks.rollouts.advantages import as_table, explained_variance, gae, k3, mask_of, token_rewards, whitened
from tasks.rollouts.networks import Networks, check_room, check_tokens, read_tokens
from tasks.rollouts.noise import PROMPTS, shuffled_piece
from tasks.rollouts.settings import RewardConfig
from tasks.sampling.plan import Draws, SamplingPlan, sampling_plan
from tasks.sampling.requests import Engine, Options, Request, SampledAnswer
from tasks.training.rows import Rows, rows_of_ids

ALIKE = 0.05
"""Nats per token by which sampler and trainer may differ in the mean where both have the weights that training began
with. Measured: 1e-6 where both compute in float32, up to 0.016 for a trainer in bfloat16 and an engine in float32."""
NOISE, GROWTH = 1e-3, 3.0
"""Later they may differ by this, or by so many times the difference at the beginning, which is the number types'."""


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers that have a score."""

    rows: Rows
    scores: Tensor
    """`(S,)` float64, as the oracle gave them."""
    finished: Tensor
    """`(S,)` bool: ended by itself."""
    sampler_logps: Tensor
    """`(M,)`: the engine's log-probabilities of its tokens, at temperature 1."""
    unanswered: int
    """Answers that the oracle gave no score; they train nothing."""
    queries: int
    """Questions to the oracle: equal answers to a prompt are one."""


@dataclass(frozen=True)
class Rollout:
    """What the updates of an iteration work on: per token `(M,)` float64, answers end to end as in `rows`."""

    rows: Rows
    old_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    """Whitened."""
    returns: Tensor
    kl: float
    """KL(policy ‖ reference), nats per answer, by k1."""
    difference: float
    """Between sampler and trainer, nats per token in the mean."""
    metrics: dict[str, float]

    def on(self, device: torch.device) -> "Rollout":
        """The rollout with its tensors on `device`; those that `make_rollout` returns lie on the CPU."""
        names = ("old_logps", "old_values", "advantages", "returns")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class PromptOrder:
    """The prompts of each iteration: consecutive pieces of one seeded shuffle per pass."""

    def __init__(self, plan: SamplingPlan, draws: Draws, size: int) -> None:
        self._plan, self._draws, self._size = plan, draws, size

    @property
    def k(self) -> int:
        """Answers per prompt."""
        return self._draws.k

    def draws(self, iteration: int) -> tuple[list[int], list[Request]]:
        """Rows of the plan, and the requests, of an iteration counted from 0 over all rounds that have this order.

        A prompt that comes again in a later pass gets draws of its own, numbered on.
        """
        plan, k = self._plan, self._draws.k
        piece = shuffled_piece(len(plan.prompt_ids), self._size, iteration, self._draws.seed, PROMPTS)
        numbered = [(row, turn * k + i) for turn, row in piece for i in range(k)]
        requests = [
            Request(plan.prompt_tokens[row], self._draws.seed_of(plan.prompt_ids[row], number), plan.room[row])
            for row, number in numbered
        ]
        return [row for row, _ in numbered], requests


@dataclass(frozen=True)
class Sampler:
    """What answers are sampled and scored with."""

    engine: Engine
    scorer: Scorer
    plan: SamplingPlan
    order: PromptOrder
    options: Options


def plan_for(
    policy: Policy, prompts: Prompts, readers: dict[str, Model], max_tokens: int | None, work: Workspace
) -> SamplingPlan:
    """The prompts, where all models can read them and their answers. Raises DataError if one cannot."""
    for port, model in readers.items():
        check_tokens(policy, model, port)
    plan = sampling_plan(policy, prompts, max_tokens, work)
    if not plan.prompt_ids:
        raise DataError("there are no prompts to draw answers to")
    longest = max(len(t) + room for t, room in zip(plan.prompt_tokens, plan.room, strict=True))
    check_room(longest, readers)
    return plan


def sample_scored(
    sampler: Sampler, iteration: int, journals: Path, on_progress: Callable[[float], None], work: Workspace
) -> ScoredAnswers:
    """Sample an iteration's answers and score them. Raises DataError if the oracle scores fewer than two.

    iteration: counted over all rounds with this order of prompts. journals: folder in which scores are stored as they
    arrive, so that a kill loses one shard of questions at most. on_progress: receives the share of the answers so far.
    Of several ranks each samples the answers to a share of the prompts, queries the oracle for a share of the
    questions, and receives all of both.
    """
    rows, requests = sampler.order.draws(iteration)
    answers = _answers(sampler, requests, on_progress)
    prompts = sampler.plan.prompts.take(pa.array(rows, pa.int64()))
    texts = [a.text for a in answers]
    questions = Questions(prompts.append_column("completion", pa.array(texts, pa.string())))
    journals.mkdir(parents=True, exist_ok=True)
    # An engine need not sample the same again: then the questions are others, and so is the name of their journal.
    file = journals / f"{digest(json.dumps([rows, texts]))}.jsonl"
    with Journal(file, work, sampler.scorer, shared=this_rank().world > 1) as journal:
        scores = questions.scores(sampler.scorer, journal)
    good = np.flatnonzero(~np.isnan(scores)).tolist()
    if len(good) < 2:
        raise DataError(f"the oracle scored {len(good)} of {len(answers)} answers: there is nothing to learn from")
    answers = [answers[i] for i in good]
    return ScoredAnswers(
        rows_of_answers([requests[i] for i in good], answers), torch.from_numpy(scores[good]),
        torch.tensor([a.finish_reason == "stop" for a in answers]),
        torch.tensor([x for a in answers for x in a.token_logps]), len(scores) - len(good), journal.queries,
    )  # fmt: skip


def _answers(
    sampler: Sampler, requests: Sequence[Request], on_progress: Callable[[float], None]
) -> list[SampledAnswer]:
    """The answers to all requests, in their order. Those to a prompt are one rank's, whose engine reads it once."""
    ranks, k = this_rank(), sampler.order.k
    mine = [i for i in range(len(requests)) if i // k % ranks.world == ranks.rank]
    own = sampler.engine.generate([requests[i] for i in mine], sampler.options, lambda n: on_progress(n / len(mine)))
    found = {i: answer for part in gather_all(dict(zip(mine, own, strict=True))) for i, answer in part.items()}
    return [found[i] for i in range(len(requests))]


def rows_of_answers(requests: Sequence[Request], answers: Sequence[SampledAnswer]) -> Rows:
    """The sampled ids as training reads them."""
    return rows_of_ids([r.prompt_tokens for r in requests], [a.tokens for a in answers])


def make_rollout(
    networks: Networks, answers: ScoredAnswers, coefficient: float, reward: RewardConfig, first: float | None = None
) -> Rollout:
    """Rewards, values and advantages of sampled answers. Raises DataError where the sampler is another policy.

    first: the difference between sampler and trainer in the training's first iteration; None in that one.
    """
    rows = answers.rows
    which: dict[str, Any] = {"old": networks.policy, "ref": networks.ref, "values": networks.value}
    if networks.plain is not networks.policy:
        which["plain"] = networks.plain
    read = read_tokens(networks, rows, which)
    differences = (read.get("plain", read["old"]) - answers.sampler_logps).abs()
    difference = float(differences.mean())
    check_sampler(difference, first)
    lengths = torch.from_numpy(rows.answers.lengths)
    mask = mask_of(lengths)
    old, values, log_ratios = (x.double() for x in (read["old"], read["values"], read["old"] - read["ref"]))
    scores = answers.scores - reward.missing_eos_penalty * ~answers.finished
    rewards = token_rewards(as_table(log_ratios, lengths), scores, mask, coefficient)
    advantages = gae(rewards, as_table(values, lengths), mask, gamma=reward.gamma, lam=reward.lam)[mask]
    returns = advantages + values
    kl = float(log_ratios.sum()) / len(rows)
    metrics = {
        "objective/kl": kl,
        "objective/kl_k3": float(k3(log_ratios).sum()) / len(rows),
        "objective/entropy": -float(old.sum()) / len(rows),
        "objective/scores": float(answers.scores.mean()),
        "objective/scores_std": float(answers.scores.std()),
        "objective/non_score_reward": -coefficient * kl,
        "objective/rlhf_reward": float(scores.mean()) - coefficient * kl,
        "objective/unanswered": float(answers.unanswered),
        "val/explained_variance": explained_variance(values, returns),
        "val/finished": float(answers.finished.double().mean()),
        "val/length": float(lengths.double().mean()),
        "sampler/logp_difference": difference,
        "sampler/logp_difference_max": float(differences.max()),
    }
    return Rollout(rows, old, values, whitened(advantages), returns, kl, difference, metrics)


def check_sampler(difference: float, first: float | None) -> None:
    """Refuse answers of another policy than the one that trains. Raises DataError.

    In the first iteration (`first` None) both have the same weights from one checkpoint; what they differ by then is
    the number types' and the kernels' doing, and is what later iterations are held against.
    """
    if not math.isfinite(difference):
        raise DataError(
            f"sampler and trainer differ by {difference} nats per token: log-probabilities are not finite. "
            "Likely causes: weights of the policy that are NaN or infinite, from its files or from an lr too high"
        )
    bound = ALIKE if first is None else max(NOISE, GROWTH * first)
    if difference <= bound:
        return
    what = f"sampler and trainer differ by {difference:.3g} nats per token in the mean (allowed: {bound:.3g})"
    cause = (
        "a temperature or stop token that one of them leaves out, another number type, a model that one of them "
        "loads wrongly"
        if first is None
        else "the engine still has old weights after an update, or only some of the new ones"
    )
    raise DataError(f"{what}, so the answers are not the policy's own. Likely causes: {cause}")
