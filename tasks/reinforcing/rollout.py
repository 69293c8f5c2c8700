"""An iteration's answers: which prompts, the draws, their scores, and what the networks say of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.ids import digest
from tasks.kinds import Scorer
from tasks.reinforcing.estimates import as_table, explained_variance, gae, k3, mask_of, token_rewards, whitened
from tasks.reinforcing.networks import Networks, read_tokens
from tasks.sampling.plan import Draws, Plan
from tasks.sampling.requests import Answer, Engine, Options, Request
from tasks.training.rows import Ragged, Rows

STALE = 0.25
"""Nats per token by which sampler and trainer may differ in the mean: bfloat16 engines stay below a tenth of it."""


@dataclass(frozen=True)
class Shaping:
    """How scores become advantages; fields as the parameters of `ppo`."""

    gamma: float
    lam: float
    missing_eos_penalty: float


@dataclass(frozen=True)
class Drawn:
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
    metrics: dict[str, float]


class Course:
    """Which prompts an iteration draws answers to: consecutive pieces of one seeded shuffle per pass."""

    def __init__(self, plan: Plan, draws: Draws, size: int) -> None:
        self._plan, self._draws, self._size = plan, draws, size

    def draws(self, iteration: int) -> tuple[list[int], list[Request]]:
        """Rows of the plan, and the requests, of an iteration counted from 0 over all rounds.

        A prompt that comes again in a later pass gets draws of its own, numbered on.
        """
        n = len(self._plan.prompt_ids)
        orders: dict[int, Any] = {}
        rows: list[int] = []
        requests: list[Request] = []
        for place in range(iteration * self._size, (iteration + 1) * self._size):
            turn = place // n
            if turn not in orders:
                orders[turn] = np.random.default_rng([self._draws.seed, turn]).permutation(n)
            row = int(orders[turn][place % n])
            tokens, room = self._plan.prompt_tokens[row], self._plan.room[row]
            for number in range(turn * self._draws.k, (turn + 1) * self._draws.k):
                rows.append(row)
                requests.append(Request(tokens, self._draws.seed_of(self._plan.prompt_ids[row], number), room))
        return rows, requests


def draw(
    engine: Engine,
    scorer: Scorer,
    plan: Plan,
    course: Course,
    iteration: int,
    options: Options,
    kept: Path,
    tell: Callable[[int], None],
) -> Drawn:
    """Draw an iteration's answers and have them scored. Raises DataError if the oracle scores fewer than two.

    Scores are kept in the file `kept`: an iteration that a kill made undone asks nothing twice, if it draws the same.
    """
    places, requests = course.draws(iteration)
    answers = engine.generate(requests, options, tell)
    prompts, truths = (plan.prompts.column(name).to_pylist() for name in ("prompt", "truth"))
    asked = [prompts[i] for i in places], [a.text for a in answers], [truths[i] for i in places]
    scores = _scores(scorer, asked, kept)
    good = [i for i, score in enumerate(scores) if score is not None]
    if len(good) < 2:
        raise DataError(f"the oracle scored {len(good)} of {len(answers)} answers: there is nothing to learn from")
    answers = [answers[i] for i in good]
    return Drawn(
        rows_of_answers([requests[i] for i in good], answers), torch.tensor([scores[i] for i in good]).double(),
        torch.tensor([a.finish_reason == "stop" for a in answers]),
        torch.tensor([x for a in answers for x in a.token_logps]), len(scores) - len(good),
    )  # fmt: skip


def _scores(scorer: Scorer, asked: tuple[Any, list[str], Any], kept: Path) -> list[float | None]:
    question = digest(json.dumps(asked))
    if kept.exists():
        told = json.loads(kept.read_text())
        if told["question"] == question:
            return list(told["scores"])
    scores = _finite(scorer.score(*asked), len(asked[1]))
    kept.parent.mkdir(exist_ok=True)
    fresh = kept.with_suffix(".new")
    fresh.write_text(json.dumps({"question": question, "scores": scores}))
    fresh.replace(kept)
    return scores


def _finite(scores: Sequence[float | None], count: int) -> list[float | None]:
    found = [None if s is None else float(s) for s in scores]
    if len(found) != count:
        raise DataError(f"the oracle gave {len(found)} scores for {count} answers")
    wrong = [s for s in found if s is not None and not math.isfinite(s)]
    if wrong:
        raise DataError(f"the oracle scored {len(wrong)} of {count} answers {wrong[0]}; no score is None")
    return found


def rows_of_answers(requests: Sequence[Request], answers: Sequence[Answer]) -> Rows:
    """The drawn ids as training reads them: what was sampled is what is trained on."""
    names = [str(i) for i in range(len(answers))]
    asked, told = [list(r.prompt_tokens) for r in requests], [a.tokens for a in answers]
    return Rows(_ragged(asked), _ragged(told), np.arange(len(answers) + 1), names, names)


def _ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    values = np.fromiter((i for ids in lists for i in ids), np.int32)
    return Ragged(values, np.cumsum([0, *map(len, lists)], dtype=np.int64))


def rolled_out(networks: Networks, drawn: Drawn, coefficient: float, shaping: Shaping) -> Rollout:
    """Rewards, values and advantages of what was drawn. Raises DataError where the sampler is another policy."""
    rows = drawn.rows
    which: dict[str, Any] = {"old": networks.policy, "ref": networks.ref, "values": networks.value}
    if networks.plain is not networks.policy:
        which["plain"] = networks.plain
    said = read_tokens(networks, rows, which)
    differences = (said.get("plain", said["old"]) - drawn.sampler_logps).abs()
    _check_sampler(float(differences.mean()))
    lengths = torch.from_numpy(rows.answers.lengths)
    mask = mask_of(lengths)
    old, values, log_ratios = (x.double() for x in (said["old"], said["values"], said["old"] - said["ref"]))
    scores = drawn.scores - shaping.missing_eos_penalty * ~drawn.finished
    rewards = token_rewards(as_table(log_ratios, lengths), scores, mask, coefficient)
    advantages = gae(rewards, as_table(values, lengths), mask, gamma=shaping.gamma, lam=shaping.lam)[mask]
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
        "sampler/logp_difference": float(differences.mean()),
        "sampler/logp_difference_max": float(differences.max()),
    }
    return Rollout(rows, old, values, whitened(advantages), returns, kl, metrics)


def _check_sampler(difference: float) -> None:
    if not difference <= STALE:
        raise DataError(
            f"sampler and trainer differ by {difference:.3g} nats per token in the mean, so the answers are not the "
            "policy's own. Likely causes: the engine still has old weights after an update, another template or "
            "tokenizer, another number type"
        )
