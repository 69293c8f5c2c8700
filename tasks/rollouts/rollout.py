"""An iteration's answers: which prompts, the draws, their scores, and what the networks say of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.journal import Floats, Journal
from tasks.judging.pairing import Questions
from tasks.kinds import Model, Policy, Prompts, Scorer
from tasks.rollouts.advantages import as_table, explained_variance, gae, k3, mask_of, token_rewards, whitened
from tasks.rollouts.networks import Networks, check_room, check_tokens, read_tokens
from tasks.rollouts.noise import PROMPTS, shuffled
from tasks.rollouts.settings import RewardConfig
from tasks.sampling.plan import Draws, SamplingPlan, sampling_plan
from tasks.sampling.requests import Answer, Engine, Options, Request
from tasks.training.rows import Ints, Rows, rows_of_ids

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
    """`(M,)`: what the engine says of its tokens, at temperature 1."""
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


class PromptOrder:
    """Which prompts an iteration draws answers to: consecutive pieces of one seeded shuffle per pass."""

    def __init__(self, plan: SamplingPlan, draws: Draws, size: int) -> None:
        self._plan, self._draws, self._size = plan, draws, size

    def draws(self, iteration: int) -> tuple[list[int], list[Request]]:
        """Rows of the plan, and the requests, of an iteration counted from 0, over all rounds that have this course.

        A prompt that comes again in a later pass gets draws of its own, numbered on.
        """
        n = len(self._plan.prompt_ids)
        orders: dict[int, Ints] = {}
        rows: list[int] = []
        requests: list[Request] = []
        for place in range(iteration * self._size, (iteration + 1) * self._size):
            turn = place // n
            if turn not in orders:
                orders[turn] = shuffled(n, self._draws.seed, PROMPTS, turn)
            row = int(orders[turn][place % n])
            tokens, room = self._plan.prompt_tokens[row], self._plan.room[row]
            for number in range(turn * self._draws.k, (turn + 1) * self._draws.k):
                rows.append(row)
                requests.append(Request(tokens, self._draws.seed_of(self._plan.prompt_ids[row], number), room))
        return rows, requests


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
    engine: Engine,
    scorer: Scorer,
    plan: SamplingPlan,
    course: tuple[list[int], list[Request]],
    options: Options,
    kept: Path,
    on_progress: Callable[[int], None],
    work: Workspace,
) -> ScoredAnswers:
    """Draw an iteration's answers and have them scored. Raises DataError if the oracle scores fewer than two.

    Scores are kept below the folder `kept` as they come: a kill loses one shard of questions at most.
    """
    places, requests = course
    answers = engine.generate(requests, options, on_progress)
    scores, queries = _scores(scorer, plan, places, [a.text for a in answers], kept, work)
    good = np.flatnonzero(~np.isnan(scores)).tolist()
    if len(good) < 2:
        raise DataError(f"the oracle scored {len(good)} of {len(answers)} answers: there is nothing to learn from")
    answers = [answers[i] for i in good]
    return ScoredAnswers(
        rows_of_answers([requests[i] for i in good], answers), torch.from_numpy(scores[good]),
        torch.tensor([a.finish_reason == "stop" for a in answers]),
        torch.tensor([x for a in answers for x in a.token_logps]), len(scores) - len(good), queries,
    )  # fmt: skip


def _scores(
    scorer: Scorer, plan: SamplingPlan, places: list[int], texts: list[str], kept: Path, work: Workspace
) -> tuple[Floats, int]:
    """`(S,)` float64, NaN where there is none, and the number of questions, answers from an earlier attempt included.

    Those belong to the very questions: an engine need not draw the same again, and then the file has another name.
    """
    asked = plan.prompts.take(pa.array(places, pa.int64())).append_column("completion", pa.array(texts, pa.string()))
    questions = Questions(asked)
    kept.mkdir(parents=True, exist_ok=True)
    with Journal(kept / f"{digest(json.dumps([places, texts]))}.jsonl", work) as journal:
        return questions.scores(scorer, journal), journal.queries


def rows_of_answers(requests: Sequence[Request], answers: Sequence[Answer]) -> Rows:
    """The drawn ids as training reads them: what was sampled is what is trained on."""
    return rows_of_ids([r.prompt_tokens for r in requests], [a.tokens for a in answers])


def make_rollout(
    networks: Networks, drawn: ScoredAnswers, coefficient: float, reward: RewardConfig, first: float | None = None
) -> Rollout:
    """Rewards, values and advantages of what was drawn. Raises DataError where the sampler is another policy.

    first: the difference between sampler and trainer in the training's first iteration; None in that one.
    """
    rows = drawn.rows
    which: dict[str, Any] = {"old": networks.policy, "ref": networks.ref, "values": networks.value}
    if networks.plain is not networks.policy:
        which["plain"] = networks.plain
    said = read_tokens(networks, rows, which)
    differences = (said.get("plain", said["old"]) - drawn.sampler_logps).abs()
    difference = float(differences.mean())
    check_sampler(difference, first)
    lengths = torch.from_numpy(rows.answers.lengths)
    mask = mask_of(lengths)
    old, values, log_ratios = (x.double() for x in (said["old"], said["values"], said["old"] - said["ref"]))
    scores = drawn.scores - reward.missing_eos_penalty * ~drawn.finished
    rewards = token_rewards(as_table(log_ratios, lengths), scores, mask, coefficient)
    advantages = gae(rewards, as_table(values, lengths), mask, gamma=reward.gamma, lam=reward.lam)[mask]
    returns = advantages + values
    kl = float(log_ratios.sum()) / len(rows)
    metrics = {
        "objective/kl": kl,
        "objective/kl_k3": float(k3(log_ratios).sum()) / len(rows),
        "objective/entropy": -float(old.sum()) / len(rows),
        "objective/scores": float(drawn.scores.mean()),
        "objective/scores_std": float(drawn.scores.std()),
        "objective/non_score_reward": -coefficient * kl,
        "objective/rlhf_reward": float(scores.mean()) - coefficient * kl,
        "objective/unanswered": float(drawn.unanswered),
        "val/explained_variance": explained_variance(values, returns),
        "val/finished": float(drawn.finished.double().mean()),
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
            f"sampler and trainer differ by {difference} nats per token: log-probabilities are no numbers any more. "
            "Likely causes: weights of the policy that are NaN or infinite, from its files or from an lr too high"
        )
    bound = ALIKE if first is None else max(NOISE, GROWTH * first)
    if difference <= bound:
        return
    told = f"sampler and trainer differ by {difference:.3g} nats per token in the mean (allowed: {bound:.3g})"
    cause = (
        "a temperature or stop token that one of them leaves out, another number type, a model that one of them "
        "loads wrongly"
        if first is None
        else "the engine still has old weights after an update, or only some of the new ones"
    )
    raise DataError(f"{told}, so the answers are not the policy's own. Likely causes: {cause}")
