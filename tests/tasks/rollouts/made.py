"""Rollouts made by hand, for methods' credit and losses."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.rollouts.answers import Answers
from tasks.rollouts.method import Rollout
from tasks.sampling.requests import Request, SampledAnswer


def made_answers(groups: list[int], lengths: list[int], cut: frozenset[int] = frozenset()) -> Answers:
    """Answers to prompts p0, p1, … of these numbers; those of the numbers `cut` did not end."""
    sampled = [
        SampledAnswer(f"answer {i}", [5] * n, [-1.0] * n, "length" if i in cut else "stop")
        for i, n in enumerate(lengths)
    ]
    table = pa.table({"prompt_id": [f"p{g}" for g in groups], "completion": [a.text for a in sampled]})
    return Answers(
        [Request([1, 2], i, 9) for i in range(len(groups))],
        sampled,
        table,
        np.array(groups),
        np.zeros(len(groups), bool),
    )


def made_rollout(
    scores: list[float], groups: list[int], lengths: list[int], log_ratios: list[float] | None = None,
    cut: frozenset[int] = frozenset(),
) -> Rollout:  # fmt: skip
    """A rollout whose tokens have log-probability −1; log_ratios: to the reference, the same at all tokens of an
    answer; None: there is no reference."""
    answers = made_answers(groups, lengths, cut)
    logps = torch.full((sum(lengths),), -1.0, dtype=torch.float64)
    ref: Tensor | None = None
    if log_ratios is not None:
        ref = logps - torch.tensor(log_ratios).double().repeat_interleave(torch.tensor(lengths))
    return Rollout(answers, torch.tensor(scores).double(), logps, ref, None)
