"""A preference as a game between policies: an unbiased estimate of how far the best known answer beats each policy.

Axis letters: R draws of one prompt, T measured policies. Draws have an even or an odd number `k`: the best response is
chosen on the draws of one half and measured on those of the other, so selection does not bias the estimate.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.aggregation import AnsweredPairs
from tasks.judging.grouping import Grouped, Ints, grouped, grouped_like
from tasks.judging.rates import block_of
from tasks.kinds import Completions, WinProbs

Floats = npt.NDArray[np.float64]


class PromptGame(NamedTuple):
    """The game of one prompt; NaN where too few questions were answered."""

    alone: Floats
    """`(T,)`: 2·P − 1 of the best response to each policy."""
    mixtures: Floats
    """`(T,)`: the same to the uniform mixture of the first 1, 2, … T policies."""
    beats: Floats
    """`(T, T)`: P(an answer of the row's policy beats one of the column's)."""


class AnswerPool(NamedTuple):
    """The draws of all policies, grouped by prompt."""

    rows: Grouped
    """prompt_id, completion_id, k, odd, policy (its index in the list; those from `measured` on only respond)"""
    measured: int


def answer_pool(policies: Sequence[Completions], responders: Sequence[Completions]) -> AnswerPool:
    """The answers of several policies to the same prompts.

    Raises DataError if a draw occurs twice, or if a policy has no draw of even or of odd k for a prompt.
    """
    tables = [_draws(c, i) for i, c in enumerate((*policies, *responders))]
    rows = grouped(pa.concat_tables(tables))
    ids = rows.table.column("completion_id")
    repeated = len(ids) - len(ids.unique())
    if repeated:
        raise DataError(f"{repeated} of {len(ids)} draws occur twice: a policy can be measured or respond, not both")
    policy, odd = (rows.table.column(name).to_numpy() for name in ("policy", "odd"))
    prompt = np.repeat(np.arange(len(rows.prompts)), np.diff(rows.starts))
    present = np.zeros((len(tables), 2, len(rows.prompts)), np.bool_)
    present[policy, odd, prompt] = True
    for i, half, missing in ((i, h, int((~present[i, h]).sum())) for i in range(len(tables)) for h in range(2)):
        if missing:
            raise DataError(
                f"policy {i + 1} of {len(tables)} has for {missing} of {len(rows.prompts)} prompts no answer with "
                f"{'odd' if half else 'even'} k; sample all policies on the same prompts with k of 2 or more"
            )
    return AnswerPool(rows, len(policies))


def _draws(completions: Completions, place: int) -> pa.Table:
    table = completions.table.select(["prompt_id", "completion_id", "k"]).replace_schema_metadata(None)
    table = table.append_column("odd", pa.array(table.column("k").to_numpy() % 2))
    return table.append_column("policy", pa.array(np.full(len(table), place)))


def prompt_games(pool: AnswerPool, win_probs: WinProbs) -> Iterator[tuple[str, PromptGame]]:
    """(prompt_id, game) of every prompt, in order. Raises DataError if the questions are about other answers."""
    questions = grouped_like(pool.rows, win_probs.table, "win_probs")
    for first, last in pool.rows.blocks():
        block, sizes, pairs = block_of(pool.rows, questions, first, last)
        ids, policy, odd = (block.column(n).to_numpy(zero_copy_only=False) for n in ("prompt_id", "policy", "odd"))
        ends = np.cumsum(sizes)
        of_prompt = np.searchsorted(ends, pairs.a, side="right")
        bounds = np.searchsorted(of_prompt, np.arange(len(sizes) + 1))
        for g, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
            of_this_prompt = slice(int(bounds[g]), int(bounds[g + 1]))
            p = _matrix(pairs, of_this_prompt, int(start), int(end - start))
            yield str(ids[start]), prompt_game(p, policy[start:end], odd[start:end] > 0, pool.measured)


def _matrix(pairs: AnsweredPairs, part: slice, start: int, size: int) -> Floats:
    """`(R, R)` P(row beats column) of one prompt, ½ on the diagonal, NaN for unanswered pairs."""
    p = np.full((size, size), np.nan)
    np.fill_diagonal(p, 0.5)
    a, b = pairs.a[part] - start, pairs.b[part] - start
    p[a, b], p[b, a] = pairs.p[part], 1 - pairs.p[part]
    return p


def prompt_game(p: Floats, policy: Ints, odd: npt.NDArray[np.bool_], measured: int) -> PromptGame:
    """The game of one prompt.

    p: `(R, R)` P(row beats column); policy: `(R,)` policy of each draw; odd: `(R,)` its half; measured: T.
    """
    halves = [win_rates_against(p, policy, odd == half, measured) for half in (False, True)]
    each = np.arange(1, measured + 1)
    alone, mixtures, beats = [], [], []
    for half, (chosen_on, measured_on) in enumerate((halves, halves[::-1])):
        responders = odd == bool(half)
        chosen, fresh = chosen_on[responders], measured_on[responders]
        alone.append(response_gaps(chosen, fresh))
        mixtures.append(response_gaps(chosen.cumsum(axis=1) / each, fresh.cumsum(axis=1) / each))
        beats.append(_means(measured_on, policy, responders, measured))
    return PromptGame(*((x[0] + x[1]) / 2 for x in (alone, mixtures, beats)))


def win_rates_against(p: Floats, policy: Ints, half: npt.NDArray[np.bool_], measured: int) -> Floats:
    """`(R, T)` mean P of each draw against the draws of each policy in this half; NaN if none was answered."""
    opponents = ((policy[:, None] == np.arange(measured)) & half[:, None]).astype(np.float64)
    known = ~np.isnan(p)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, p, 0) @ opponents / (known @ opponents), np.float64)


def response_gaps(chosen_on: Floats, measured_on: Floats) -> Floats:
    """2·P − 1 by opponent, where P is the win rate in `measured_on` of the responder with the highest in `chosen_on`.

    Both `(responders, opponents)`; the first of equal ones is chosen. If both are equal and all answers are responders,
    this is the duality gap max_π′ P(π′ ≻ π) − min_π′ P(π ≻ π′) itself. NaN if there is no responder to choose.
    """
    known = ~np.isnan(chosen_on)
    best = np.where(known, chosen_on, -np.inf).argmax(axis=0)
    columns = np.arange(chosen_on.shape[1])
    return np.asarray(np.where(known[best, columns], 2 * measured_on[best, columns] - 1, np.nan), np.float64)


def _means(rates: Floats, policy: Ints, half: npt.NDArray[np.bool_], measured: int) -> Floats:
    """`(T, T)` mean of the rates over the draws of each policy in this half."""
    return np.stack([rates[half & (policy == t)].mean(axis=0) for t in range(measured)])
