"""An iteration's answers, and what an oracle said of them.

Axis letters: S answers, M their tokens, end to end in the order of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tasks.sampling.requests import Request, SampledAnswer
from tasks.training.rows import Ints, Rows, rows_of_ids


@dataclass(frozen=True)
class Answers:
    """An iteration's answers as they were sampled."""

    requests: Sequence[Request]
    sampled: Sequence[SampledAnswer]
    table: pa.Table
    """What an oracle reads of each: prompt_id, prompt, truth, completion."""
    groups: Ints
    """`(S,)`: number of each answer's prompt among those of the iteration."""
    by_opponent: npt.NDArray[np.bool_]
    """`(S,)`: sampled by the opponent; such answers come last."""

    def __len__(self) -> int:
        return len(self.sampled)

    def take(self, which: Ints) -> Answers:
        """Those of these numbers."""
        requests, sampled = ([several[i] for i in which] for several in (self.requests, self.sampled))
        table = self.table.take(pa.array(which, pa.int64()))
        return Answers(requests, sampled, table, self.groups[which], self.by_opponent[which])

    def followed_by(self, others: Answers) -> Answers:
        """These answers, then others, whose group numbers are of the same prompts."""
        return Answers(
            [*self.requests, *others.requests], [*self.sampled, *others.sampled],
            pa.concat_tables([self.table, others.table]), np.concatenate([self.groups, others.groups]),
            np.concatenate([self.by_opponent, others.by_opponent]),
        )  # fmt: skip

    @property
    def tokens_of_opponent(self) -> int:
        """Tokens of the opponent's answers together."""
        return sum(len(a.tokens) for a, other in zip(self.sampled, self.by_opponent, strict=True) if other)

    @property
    def prompt_ids(self) -> list[str]:
        """`(S,)`: id of each answer's prompt."""
        return cast(list[str], self.table.column("prompt_id").to_pylist())

    @cached_property
    def rows(self) -> Rows:
        """The sampled ids as training reads them."""
        return rows_of_answers(self.requests, self.sampled)

    @cached_property
    def lengths(self) -> Tensor:
        """`(S,)` int64, tokens of each answer."""
        return torch.from_numpy(self.rows.answers.lengths)

    @cached_property
    def finished(self) -> Tensor:
        """`(S,)` bool: ended by itself, not cut."""
        return torch.tensor([a.finish_reason == "stop" for a in self.sampled], dtype=torch.bool)

    @cached_property
    def sampler_logps(self) -> Tensor:
        """`(M,)`: the engine's log-probabilities of its tokens, at temperature 1."""
        return torch.tensor([x for a in self.sampled for x in a.token_logps]).double()


def rows_of_answers(requests: Sequence[Request], answers: Sequence[SampledAnswer]) -> Rows:
    """The sampled ids as training reads them."""
    return rows_of_ids([r.prompt_tokens for r in requests], [a.tokens for a in answers])


class ComparedPairs(NamedTuple):
    """N pairs of answers that the oracle compared."""

    a: Ints
    """`(N,)`: number of the first answer."""
    b: Ints
    """`(N,)`: number of the second. An opponent that is not learnt from has numbers behind those of all answers."""
    p: Tensor
    """`(N,)` float64: P(a beats b)."""

    def take(self, which: Ints) -> ComparedPairs:
        """Those of these numbers."""
        return ComparedPairs(self.a[which], self.b[which], self.p[torch.from_numpy(which)])


class Feedback(NamedTuple):
    """What an oracle answered about an iteration's answers."""

    answers: Answers
    """Those that can be learnt from."""
    scores: Tensor | None
    """`(S,)`, as the oracle gave them; None for a method that asks for no scores."""
    unanswered: int
    """Answers of the policy that the oracle gave no score, or did not compare; they train nothing."""
    queries: int
    """Questions to the oracle: equal answers to a prompt are one."""
    discarded: int = 0
    """Scored answers that train nothing, because a better one was there, or other prompts were drawn in their place."""
    tokens: int = 0
    """Of all answers that were sampled."""
    members: Mapping[str, Tensor] = {}
    """`(S,)` each: the scores by the members of an ensemble, by name."""
    pairs: ComparedPairs | None = None
    """For a method that asks for comparisons."""
    by_opponent: int = 0
    """Answers that the opponent sampled."""
