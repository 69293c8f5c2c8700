"""A preference as a game between policies: how far the best answer known beats one, without flattery.

Axis letters: R draws of one prompt, T policies that are measured. Draws have an even or an odd number `k`; a responder
is chosen on the draws of one half and measured on those of the other, so the luck of a choice is never counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.grouping import Grouped, Ints, grouped, grouped_like
from tasks.judging.rates import AnsweredPairs, block_of
from tasks.kinds import Completions, WinProbs

Floats = npt.NDArray[np.float64]


class PromptGame(NamedTuple):
    """One prompt; NaN where the oracle did not answer what would be needed."""

    alone: Floats
    """`(T,)`: 2·P − 1 of the best response to each policy."""
    mixtures: Floats
    """`(T,)`: the same to the uniform mixture of the first 1, 2, … T policies."""
    beats: Floats
    """`(T, T)`: P(an answer of the row's policy beats one of the column's)."""


class Players(NamedTuple):
    """The draws of all policies, by prompt."""

    rows: Grouped
    """prompt_id, completion_id, k, policy: its place in the list; those from `measured` on only respond."""
    measured: int


def players(policies: Sequence[Completions], responders: Sequence[Completions]) -> Players:
    """The answers of several policies to the same prompts.

    Raises DataError if a draw is there twice, or if a policy lacks a draw of even or of odd k for some prompt.
    """
    tables = [_draws(c, i) for i, c in enumerate((*policies, *responders))]
    rows = grouped(pa.concat_tables(tables))
    ids = rows.table.column("completion_id")
    repeated = len(ids) - len(ids.unique())
    if repeated:
        raise DataError(f"{repeated} of {len(ids)} draws are listed twice: a policy is measured or responds, not both")
    policy, odd = (rows.table.column(name).to_numpy() for name in ("policy", "odd"))
    prompt = np.repeat(np.arange(len(rows.prompts)), np.diff(rows.starts))
    present = np.zeros((len(tables), 2, len(rows.prompts)), np.bool_)
    present[policy, odd, prompt] = True
    for i, half, missing in ((i, h, int((~present[i, h]).sum())) for i in range(len(tables)) for h in range(2)):
        if missing:
            raise DataError(
                f"answers of policy {i + 1} of {len(tables)}: {missing} of {len(rows.prompts)} prompts have none of "
                f"{'odd' if half else 'even'} k; sample all policies on the same prompts with k of 2 or more"
            )
    return Players(rows, len(policies))


def _draws(completions: Completions, place: int) -> pa.Table:
    table = completions.table.select(["prompt_id", "completion_id", "k"]).replace_schema_metadata(None)
    table = table.append_column("odd", pa.array(table.column("k").to_numpy() % 2))
    return table.append_column("policy", pa.array(np.full(len(table), place)))


def play_games(found: Players, win_probs: WinProbs) -> Iterator[tuple[str, PromptGame]]:
    """Every prompt's game, in order. Raises DataError if the questions are about other answers."""
    questions = grouped_like(found.rows, win_probs.table, "win_probs")
    for first, last in found.rows.blocks():
        block, sizes, pairs = block_of(found.rows, questions, first, last)
        ids, policy, odd = (block.column(n).to_numpy(zero_copy_only=False) for n in ("prompt_id", "policy", "odd"))
        ends = np.cumsum(sizes)
        of_prompt = np.searchsorted(ends, pairs.a, side="right")
        bounds = np.searchsorted(of_prompt, np.arange(len(sizes) + 1))
        for g, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
            mine = slice(int(bounds[g]), int(bounds[g + 1]))
            p = _matrix(pairs, mine, int(start), int(end - start))
            yield str(ids[start]), prompt_game(p, policy[start:end], odd[start:end] > 0, found.measured)


def _matrix(pairs: AnsweredPairs, mine: slice, start: int, size: int) -> Floats:
    """`(R, R)` P(row beats column) of one prompt, ½ on the diagonal, NaN where there is no answer."""
    p = np.full((size, size), np.nan)
    np.fill_diagonal(p, 0.5)
    a, b = pairs.a[mine] - start, pairs.b[mine] - start
    p[a, b], p[b, a] = pairs.p[mine], 1 - pairs.p[mine]
    return p


def prompt_game(p: Floats, policy: Ints, odd: npt.NDArray[np.bool_], measured: int) -> PromptGame:
    """The game of one prompt.

    p: `(R, R)` P(row beats column); policy: `(R,)` whose draw it is; odd: `(R,)` its half; measured: T.
    """
    halves = [win_rates_against(p, policy, odd == half, measured) for half in (False, True)]
    each = np.arange(1, measured + 1)
    alone, mixtures, beats = [], [], []
    for half, (chosen_on, measured_on) in enumerate((halves, halves[::-1])):
        responders = odd == bool(half)
        chosen, fresh = chosen_on[responders], measured_on[responders]
        alone.append(gaps(chosen, fresh))
        mixtures.append(gaps(chosen.cumsum(axis=1) / each, fresh.cumsum(axis=1) / each))
        beats.append(_means(measured_on, policy, responders, measured))
    return PromptGame(*((x[0] + x[1]) / 2 for x in (alone, mixtures, beats)))


def win_rates_against(p: Floats, policy: Ints, half: npt.NDArray[np.bool_], measured: int) -> Floats:
    """`(R, T)` mean P of each draw against the half's draws of each policy; NaN where none was answered."""
    drawn = ((policy[:, None] == np.arange(measured)) & half[:, None]).astype(np.float64)
    known = ~np.isnan(p)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, p, 0) @ drawn / (known @ drawn), np.float64)


def gaps(chosen_on: Floats, measured_on: Floats) -> Floats:
    """2·P − 1 by opponent, P the win rate on `measured_on` of the responder that wins most on `chosen_on`.

    Both `(responders, opponents)`; of equal ones the first responds. With both equal and all answers among the
    responders this is the duality gap max_π′ P(π′ ≻ π) − min_π′ P(π ≻ π′) itself. NaN where nobody can be chosen.
    """
    known = ~np.isnan(chosen_on)
    best = np.where(known, chosen_on, -np.inf).argmax(axis=0)
    columns = np.arange(chosen_on.shape[1])
    return np.asarray(np.where(known[best, columns], 2 * measured_on[best, columns] - 1, np.nan), np.float64)


def _means(rates: Floats, policy: Ints, half: npt.NDArray[np.bool_], measured: int) -> Floats:
    """`(T, T)` mean of the rates over the draws of each policy that belong to the half."""
    return np.stack([rates[half & (policy == t)].mean(axis=0) for t in range(measured)])
