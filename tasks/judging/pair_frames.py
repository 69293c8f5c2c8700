"""From answered pairs to preferences: the frame that a pair rule receives, and the rows of the pairs it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.calls import PAIR_COLUMNS
from tasks.contract import Chosen
from tasks.judging.grouping import Grouped, Ints, ended_by_itself
from tasks.judging.rates import AnsweredPairs, block_of, places, win_rates_of_block
from tasks.kinds import Preferences


class RulePairs:
    """The pairs that a rule keeps, block by block. `counts` sums over the blocks so far."""

    def __init__(self, rows: Grouped, questions: Grouped, rule: Chosen) -> None:
        self._rows, self._questions, self._rule = rows, questions, rule
        self.counts = {"prompts": 0, "prompts_without_pair": 0, "pairs": 0}

    def preferences(self, first: int, last: int) -> pa.Table:
        """Rows of Preferences for the prompts `first:last`."""
        block, sizes, answered = block_of(self._rows, self._questions, first, last)
        selected = self._rule(frame_for_rules(block, sizes, answered))
        prompts = np.repeat(np.arange(len(sizes)), sizes)[selected["a"].to_numpy()]
        for name, n in zip(self.counts, (len(sizes), len(sizes) - len(np.unique(prompts)), len(selected)), strict=True):
            self.counts[name] += n
        return _preferences(block, selected, self._rule.name)


def frame_for_rules(block: pa.Table, sizes: Ints, answered: AnsweredPairs) -> pl.DataFrame:
    """The input of a pair rule: see `tasks.calls.PAIR_COLUMNS`."""
    win_rate = win_rates_of_block(answered, block.num_rows, count_self=False).win_rate
    place = places(win_rate, block.column("k").to_numpy(), sizes)
    prompt = np.repeat(np.arange(len(sizes)), sizes)[answered.a]
    ids = pl.Series(block.column("completion_id"))
    columns: dict[str, Any] = {
        "prompt": prompt, "answers": sizes[prompt], "a": answered.a, "b": answered.b, "p": answered.p,
    }  # fmt: skip
    for side, rows in (("a", answered.a), ("b", answered.b)):
        columns |= {f"{side}_id": ids.gather(rows), f"{side}_win_rate": win_rate[rows], f"{side}_place": place[rows]}
    return pl.DataFrame({name: columns[name] for name in PAIR_COLUMNS})


def _preferences(block: pa.Table, selected: pl.DataFrame, source: str) -> pa.Table:
    chosen, rejected = (selected[side].to_arrow() for side in ("a", "b"))
    shared = ["prompt_id", "prompt", "truth", "group", "weight", "prompt_tokens"]
    columns: dict[str, Any] = {name: block.column(name).take(chosen) for name in shared}
    for side, rows in (("chosen", chosen), ("rejected", rejected)):
        columns |= {
            f"{side}_id": block.column("completion_id").take(rows), side: block.column("completion").take(rows),
            f"{side}_tokens": block.column("completion_tokens").take(rows),
            f"{side}_ended": ended_by_itself(block.column("finish_reason").take(rows)),
        }  # fmt: skip
    columns |= {"p": selected["p"].to_arrow(), "margin": (2 * selected["p"] - 1).to_arrow()}
    columns["source"] = pa.repeat(pa.scalar(source), len(selected))
    return pa.table({name: columns[name] for name in Preferences.SCHEMA.names})
