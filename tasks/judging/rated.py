"""Win rates of the answers to each prompt, against each other or against extra samples.

Axis letters: G prompts, R answers, S extra samples, M pairs.
"""

from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.aggregation import Aggregation
from tasks.judging.grouping import Grouped, Ints, Selection, Strings
from tasks.judging.oriented import TIE
from tasks.judging.rates import (
    Flags,
    Floats,
    Rates,
    answered_pairs,
    any_of_prompt,
    block_of,
    places,
    win_rates_of_block,
)
from tasks.kinds import Completions


class RatedBlock(NamedTuple):
    """The answers to some prompts with their win rates."""

    rows: pa.Table
    sizes: Ints
    """`(G,)` answers per prompt."""
    rates: Rates
    of_prompt: Any
    """`(G,)`, an Arrow array of lists: the win rates that log Z is estimated from."""
    without_extra: Flags
    """`(G,)`: whether no extra sample of the prompt has an answered question."""


def rated_block(
    rows: Grouped, extra: Grouped | None, questions: Grouped, first: int, last: int, *, count_self: bool,
    aggregation: Aggregation = "probabilities",
) -> RatedBlock:  # fmt: skip
    """Win rates of the answers to the prompts `first:last`. Raises DataError where questions do not fit the answers."""
    if extra is None:
        block, sizes, pairs = block_of(rows, questions, first, last, aggregation)
        rates = win_rates_of_block(pairs, block.num_rows, count_self=count_self)
        by_k = np.lexsort((block.column("k").to_numpy(), _prompts(sizes)))
        return RatedBlock(block, sizes, rates, _lists(rates.win_rate[by_k], sizes), np.zeros(len(sizes), bool))
    block, sizes = rows.rows(first, last), rows.sizes(first, last)
    others, counts = extra.rows(first, last), extra.sizes(first, last)
    ids = pa.chunked_array([*block.column("completion_id").chunks, *others.column("completion_id").chunks])
    own_questions = questions.rows(first, last), questions.sizes(first, last)
    rates = _rates_across(ids, sizes, counts, *own_questions, aggregation)
    own, theirs = (
        Rates(rates.win_rate[part], rates.opponents[part])
        for part in (slice(block.num_rows), slice(block.num_rows, None))
    )
    answered = ~np.isnan(theirs.win_rate)
    left = np.bincount(_prompts(counts)[answered], minlength=len(counts))
    return RatedBlock(block, sizes, own, _lists(theirs.win_rate[answered], left), left == 0)


def _rates_across(
    ids: Strings, sizes: Ints, counts: Ints, questions: pa.Table, of_prompt: Ints, aggregation: Aggregation
) -> Rates:
    """`(R + S,)`: win rates of answers against extra samples, then of those against the answers.

    sizes, counts, of_prompt: `(G,)` answers, extra samples and questions per prompt.
    """
    pairs = answered_pairs(ids, np.concatenate([_prompts(sizes), _prompts(counts)]), questions, of_prompt, aggregation)
    answers = int(sizes.sum())
    within = int(((pairs.a < answers) == (pairs.b < answers)).sum())
    if within:
        raise DataError(
            f"{within} of {len(pairs.a)} answered pairs of win_probs are of one table; with `extra` each answer is "
            "compared with extra samples alone: `compare` with `others: extra`"
        )
    return win_rates_of_block(pairs, len(ids), count_self=False)


def select_rated(rated: RatedBlock, keep: Literal["all", "best_and_worst"]) -> Selection:
    """The rows that are kept, with win_rate, opponents and prompt_win_rates, and the totals of prompts left out."""
    block, sizes, rates = rated.rows, rated.sizes, rated.rates
    unanswered = any_of_prompt(np.isnan(rates.win_rate), sizes)
    without_extra = rated.without_extra & ~unanswered
    left = ~unanswered & ~without_extra
    tied = (_spread(rates.win_rate, sizes) <= TIE) & left if keep != "all" else left & False
    selected = np.repeat(left & ~tied, sizes)
    if keep != "all":
        place = places(rates.win_rate, block.column("k").to_numpy(), sizes)
        selected &= (place == 0) | (place == np.repeat(sizes - 1, sizes))
    table = block.select(Completions.SCHEMA.names)
    table = table.append_column("win_rate", pa.array(rates.win_rate))
    table = table.append_column("opponents", pa.array(rates.opponents.astype(np.int32)))
    table = table.append_column("prompt_win_rates", rated.of_prompt.take(pa.array(_prompts(sizes))))
    totals = {
        "prompts": len(sizes), "prompts_unanswered": int(unanswered.sum()),
        "prompts_without_extra": int(without_extra.sum()), "prompts_tied": int(tied.sum()),
    }  # fmt: skip
    return Selection(table.filter(pa.array(selected)), totals)


def check_k(rows: Grouped, *, count_self: bool) -> None:
    """Raise DataError where the self-comparison would shrink the win rates of some prompts more than of others."""
    sizes = np.diff(rows.starts)
    if count_self and len(sizes) and sizes.min() != sizes.max():
        raise DataError(
            f"prompts have {sizes.min()} to {sizes.max()} answers, and the self-comparison shrinks each P − ½ by "
            "(1 − 1/K): sample the same k for every prompt, or set `count_self: false`"
        )


def check_extra(extra: Grouped) -> None:
    """Raise DataError where a prompt has no extra sample."""
    missing = int((np.diff(extra.starts) == 0).sum())
    if missing:
        raise DataError(f"{missing} of {len(extra.prompts)} prompts have no sample in `extra`: sample the same prompts "
                        "for both")  # fmt: skip


def _prompts(sizes: Ints) -> Ints:
    """The prompt of each row, from 0."""
    return np.repeat(np.arange(len(sizes)), sizes)


def _lists(values: Floats, sizes: Ints) -> Any:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(cast(Any, pa.array(offsets)), pa.array(values))


def _spread(values: Floats, sizes: Ints) -> Floats:
    """`(G,)`: highest minus lowest value of each prompt."""
    starts = np.cumsum(sizes) - sizes
    return np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts)
