"""Pairs among an iteration's answers: which of them are compared, which are learnt from, and who wins each.

S answers to the iteration's prompts, N pairs of their numbers, a and b. `p` is P(a beats b).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tasks.judging.noise import uniform
from tasks.judging.oriented import TIE
from tasks.training.rows import Ints

WhichPairs = Literal["all", "best_and_worst"]
PairLabels = Literal["sampled", "soft", "hard"]


def pairs_of_groups(groups: Ints) -> tuple[Ints, Ints]:
    """Every two answers to a prompt, a < b, in the order of a. groups: `(S,)`, number of each answer's prompt."""
    a, b = np.triu_indices(len(groups), k=1)
    same = groups[a] == groups[b]
    return a[same], b[same]


def pairs_against(groups: Ints, by_opponent: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Every answer of the policy (a) with every one of its opponent (b) to the same prompt.

    groups, by_opponent: `(S,)`.
    """
    own, others = np.flatnonzero(~by_opponent), np.flatnonzero(by_opponent)
    first, second = np.nonzero(groups[own][:, None] == groups[others][None, :])
    return own[first], others[second]


def best_against_worst(a: Ints, b: Ints, p: Tensor, groups: Ints) -> Ints:
    """Numbers of the pairs of each prompt's best and worst answer, by the mean P of winning over its pairs.

    Of equal ones the first is taken. A prompt gives none where all win equally often, or where its two were not
    compared.
    """
    wins = np.concatenate([p.numpy(), 1 - p.numpy()])
    row = np.concatenate([a, b])
    sums, counts = (np.bincount(row, weights, len(groups)) for weights in (wins, np.ones(len(wins))))
    rates = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    ends = {}
    for group in np.unique(groups[row]):
        rows = np.flatnonzero((groups == group) & ~np.isnan(rates))
        best, worst = rows[rates[rows].argmax()], rows[rates[rows].argmin()]
        if rates[best] > rates[worst] + TIE:
            ends[min(best, worst), max(best, worst)] = True
    return np.flatnonzero([(min(i, j), max(i, j)) in ends for i, j in zip(a.tolist(), b.tolist(), strict=True)])


def wins_of(labels: PairLabels, p: Tensor, a: Sequence[int], b: Sequence[int], seed: int) -> Tensor:
    """How much of each pair is a win of a, `(N,)`; the rest is a win of b.

        sampled   1 with probability p, else 0: as a noisy annotator decides
        soft      p: both orientations of the pair are learnt, each with its probability
        hard      1 where p > ½, 0 where p < ½, ½ for a tie

    Sampled and soft labels have the same expected loss, and so the optimum of the method whose loss it is (DPO:
    π_ref·exp(r/β)). Hard labels never contradict each other, so that a loss like DPO's has no finite optimum: the
    policy moves on for as long as it trains.

    a, b: the seeds that drew the two answers of each pair. They key the noise of sampled labels, under `seed`.

    Source: Guo et al., arXiv 2402.04792 (labels from an online annotator).
    """
    if labels == "soft":
        return p
    if labels == "hard":
        return torch.where((p - 0.5).abs() <= TIE, 0.5, (p > 0.5).double())
    first, second = (pa.array([str(one) for one in seeds], pa.string()) for seeds in (a, b))
    return (torch.from_numpy(uniform(seed, first, second)) < p).double()
