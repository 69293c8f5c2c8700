"""Preferences: pairs that a rule keeps of answered pairs, and pairs of golden answers and samples."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.calls import PAIR_COLUMNS
from tasks.columns import TOKENS
from tasks.contract import Chosen
from tasks.judging.aggregation import AnsweredPairs
from tasks.judging.grouping import Grouped, Ints, Selection, ended_by_itself, indices, row_indices
from tasks.judging.rates import places, win_rates_of_block


def pairs_by_rule(
    block: pa.Table, sizes: Ints, answered: AnsweredPairs, rule: Chosen, scores: pa.Table | None = None
) -> Selection:
    """Preferences of a block of answers: the answered pairs that the rule keeps.

    scores: rows of Scores with the same answers, whose differences are the margins; without, margin = 2p − 1.
    """
    kept = rule(_frame_for_rules(block, sizes, answered))
    margin = 2 * kept["p"] - 1 if scores is None else _differences(block, kept, scores)
    answers = block.drop_columns(["token_logps"])
    chosen, rejected = (answers.take(kept[side].to_arrow()) for side in ("a", "b"))
    rows = _preferences(
        chosen, chosen, rejected, weight=chosen.column("weight"), p=kept["p"].to_arrow(),
        margin=margin.to_arrow(), source=pa.repeat(pa.scalar(rule.name), len(kept)),
    )  # fmt: skip
    prompts = np.repeat(np.arange(len(sizes)), sizes)[kept["a"].to_numpy()]
    without = len(sizes) - len(np.unique(prompts))
    return Selection(rows, {"prompts": len(sizes), "prompts_without_pair": without, "pairs": len(kept)})


def _differences(block: pa.Table, kept: pl.DataFrame, scores: pa.Table) -> pl.Series:
    """`(M,)`: the score of each chosen answer minus that of the rejected one; null where one has no score."""
    own = row_indices(scores.column("completion_id"), block.column("completion_id"), "the completions, in `scores`,")
    by_row = pl.Series(scores.column("score")).gather(own)
    return by_row.gather(kept["a"]) - by_row.gather(kept["b"])


def _frame_for_rules(block: pa.Table, sizes: Ints, answered: AnsweredPairs) -> pl.DataFrame:
    """The input of a pair rule: see `tasks.calls.PAIR_COLUMNS`."""
    win_rate = win_rates_of_block(answered, block.num_rows, count_self=False).win_rate
    place = places(win_rate, block.column("k").to_numpy(), sizes)
    prompt = np.repeat(np.arange(len(sizes)), sizes)[answered.a]
    ids = pl.Series(block.column("completion_id"))
    columns: dict[str, Any] = {
        "prompt": prompt, "answers": sizes[prompt], "a": answered.a, "b": answered.b, "p": answered.p,
        "uncertainty": pl.Series(answered.uncertainty).fill_nan(None),
    }  # fmt: skip
    for side, rows in (("a", answered.a), ("b", answered.b)):
        columns |= {f"{side}_id": ids.gather(rows), f"{side}_win_rate": win_rate[rows], f"{side}_place": place[rows]}
    return pl.DataFrame({name: columns[name] for name in PAIR_COLUMNS})


def golden_pairs(
    gold: Grouped, samples: Grouped, first: int, last: int, *, weight: float, gold_tokens: bool
) -> Selection:
    """Preferences of the prompts `first:last`: sample j is paired with golden answer j mod G.

    gold_tokens: whether the golden answers' tokens are of the samples' template; otherwise they are left out.
    """
    golden, sampled = gold.sizes(first, last), samples.sizes(first, last)
    own, other = _golden_indices(golden, sampled)
    chosen, rejected = gold.rows(first, last).take(indices(own)), samples.rows(first, last).take(indices(other))
    rows = _preferences(
        rejected, chosen, rejected, weight=pa.repeat(pa.scalar(weight), len(own)),
        source=pa.repeat(pa.scalar("gold"), len(own)),
        **({} if gold_tokens else {"chosen_tokens": pa.nulls(len(own), TOKENS)}),
    )  # fmt: skip
    differ = _texts(chosen) != _texts(rejected)
    return Selection(rows.filter(pa.array(differ)), {
        "prompts": len(sampled), "prompts_unsampled": (sampled == 0).sum(), "pairs": differ.sum(),
        "pairs_identical": (~differ).sum(),
    })  # fmt: skip


def _golden_indices(golden: Ints, sampled: Ints) -> tuple[Ints, Ints]:
    """Rows of the golden answer and the sample of each pair; golden, sampled: `(G,)` their numbers per prompt."""
    prompt = np.repeat(np.arange(len(sampled)), sampled)
    samples = np.arange(len(prompt))
    place = samples - (np.cumsum(sampled) - sampled)[prompt]
    return (np.cumsum(golden) - golden)[prompt] + place % np.maximum(golden, 1)[prompt], samples


def _texts(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array([text.strip() for text in rows.column("completion").to_pylist()], object)


def _preferences(prompts: pa.Table, chosen: pa.Table, rejected: pa.Table, **more: Any) -> pa.Table:
    """Rows of Preferences from rows of equal number: the prompt, its two answers and `more` columns."""
    shared = ("prompt_id", "prompt", "truth", "group", "prompt_tokens")
    columns: dict[str, Any] = {name: prompts.column(name) for name in shared}
    for side, rows in (("chosen", chosen), ("rejected", rejected)):
        columns |= {
            f"{side}_id": rows.column("completion_id"), side: rows.column("completion"),
            f"{side}_tokens": rows.column("completion_tokens"),
        }  # fmt: skip
        if "finish_reason" in rows.column_names:
            columns[f"{side}_ended"] = ended_by_itself(rows.column("finish_reason"))
    return pa.table({**columns, **more})
