"""An iteration's prompts and the answers to them, sampled with the policy's current weights."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.kinds import Model, Policy, Prompts
from tasks.ranks import gather_all, this_rank
from tasks.rollouts.answers import Answers
from tasks.rollouts.networks import check_room, check_tokens
from tasks.rollouts.noise import OTHER_PROMPTS, PROMPTS, shuffled, shuffled_piece
from tasks.sampling.mixture import MixtureSampler
from tasks.sampling.plan import Draws, SamplingPlan, sampling_plan
from tasks.sampling.requests import Engine, Options, Request, SampledAnswer


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
        return self._requests(iteration, self._draws)

    def opponents_draws(self, iteration: int, k: int) -> tuple[list[int], list[Request]]:
        """The same of an opponent who answers the same prompts `k` times each, with noise of its own."""
        seed = int(digest(str(self._draws.seed), "opponent")[:16], 16) >> 1
        return self._requests(iteration, replace(self._draws, k=k, seed=seed))

    def _requests(self, iteration: int, draws: Draws) -> tuple[list[int], list[Request]]:
        plan, k = self._plan, draws.k
        piece = shuffled_piece(len(plan.prompt_ids), self._size, iteration, self._draws.seed, PROMPTS)
        numbered = [(row, turn * k + i) for turn, row in piece for i in range(k)]
        requests = [
            Request(plan.prompt_tokens[row], draws.seed_of(plan.prompt_ids[row], number), plan.room[row])
            for row, number in numbered
        ]
        return [row for row, _ in numbered], requests

    def others(
        self, iteration: int, attempt: int, count: int, taken: Collection[str]
    ) -> tuple[list[int], list[Request]]:
        """As many other prompts, as far as there are, with draws that nothing else has. taken: ids of the others."""
        plan, seed = self._plan, self._draws.seed
        order = shuffled(len(plan.prompt_ids), seed, OTHER_PROMPTS, iteration, attempt).tolist()
        rows = [row for row in order if plan.prompt_ids[row] not in taken][:count]
        key = digest(str(seed), "other prompts", str(iteration), str(attempt))
        draws = replace(self._draws, seed=int(key[:16], 16) >> 1)
        requests = [
            Request(plan.prompt_tokens[row], draws.seed_of(plan.prompt_ids[row], i), plan.room[row])
            for row in rows
            for i in range(self.k)
        ]
        return [row for row in rows for _ in range(self.k)], requests


class OpponentSampler(NamedTuple):
    """Samples `k` answers of an opponent to each prompt."""

    sampler: MixtureSampler
    k: int


@dataclass(frozen=True)
class Sampler:
    """What answers are sampled with."""

    engine: Engine
    plan: SamplingPlan
    order: PromptOrder
    options: Options
    opponent: OpponentSampler | None = None

    def sample(self, iteration: int, on_progress: Callable[[float], None]) -> Answers:
        """An iteration's answers, k to each prompt, those to a prompt one after the other; the opponent's come last.

        iteration: counted over all rounds with this order of prompts. on_progress: receives the share of the answers so
        far. Of several ranks each samples the answers to a share of the prompts, and receives all of them.
        """
        rows, requests = self.order.draws(iteration)
        if self.opponent is None:
            return self.sample_draws(rows, requests, on_progress)
        more, theirs = self.order.opponents_draws(iteration, self.opponent.k)
        share = len(rows) / (len(rows) + len(more))
        own = self.sample_draws(rows, requests, lambda done: on_progress(share * done))
        others = _sample(
            self.opponent.sampler.generate, theirs, self.opponent.k, self.options,
            lambda done: on_progress(share + (1 - share) * done),
        )  # fmt: skip
        return self._answers([*rows, *more], [*requests, *theirs], [*own.sampled, *others], len(own))

    def sample_draws(
        self,
        rows: Sequence[int],
        requests: Sequence[Request],
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> Answers:
        """The policy's answers to the requests; rows: those of the plan that they are of."""
        sampled = _sample(self.engine.generate, requests, self.order.k, self.options, on_progress)
        return self._answers(rows, requests, sampled, len(requests))

    def _answers(
        self, rows: Sequence[int], requests: Sequence[Request], sampled: Sequence[SampledAnswer], own: int
    ) -> Answers:
        """Answers of which the first `own` are the policy's."""
        prompts = self.plan.prompts.take(pa.array(rows, pa.int64()))
        texts = pa.array([a.text for a in sampled], pa.string())
        numbers: dict[int, int] = {}
        groups = np.array([numbers.setdefault(row, len(numbers)) for row in rows])
        table = prompts.append_column("completion", texts)
        return Answers(requests, sampled, table, groups, np.arange(len(requests)) >= own)


def _sample(
    generate: Callable[..., list[SampledAnswer]],
    requests: Sequence[Request],
    k: int,
    options: Options,
    on_progress: Callable[[float], None],
) -> list[SampledAnswer]:
    """The answers to all requests, in their order. Those to a prompt, `k` in a row, are of one rank, whose engine reads
    it once."""
    ranks = this_rank()
    mine = [i for i in range(len(requests)) if i // k % ranks.world == ranks.rank]
    own = generate([requests[i] for i in mine], options, lambda n: on_progress(n / len(mine))) if mine else []
    found = {i: answer for part in gather_all(dict(zip(mine, own, strict=True))) for i, answer in part.items()}
    return [found[i] for i in range(len(requests))]


def plan_for(
    policy: Policy, prompts: Prompts, readers: Mapping[str, Model], max_tokens: int | None, work: Workspace
) -> SamplingPlan:
    """The prompts, where all models can read them and their answers. Raises DataError if one cannot."""
    for port, model in readers.items():
        check_tokens(policy, model, port)
    plan = sampling_plan(policy, prompts, max_tokens, work)
    if not plan.prompt_ids:
        raise DataError("there are no prompts to draw answers to")
    check_room(longest_of(plan), readers)
    return plan


def longest_of(plan: SamplingPlan) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(len(tokens) + room for tokens, room in zip(plan.prompt_tokens, plan.room, strict=True))
