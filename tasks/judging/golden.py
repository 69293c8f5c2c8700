"""Pairs of golden answers and samples, on which a reward model trains as the policy's adversary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tasks.judging.grouping import Grouped, Ints, ended_by_itself, indices
from tasks.kinds import TOKENS, Preferences


class GoldPairs:
    """Preferences of blocks of prompts. `counts` sums over the blocks so far."""

    def __init__(self, gold: Grouped, samples: Grouped, weight: float, *, gold_tokens: bool) -> None:
        self._gold, self._samples, self._weight, self._gold_tokens = gold, samples, weight, gold_tokens
        self.counts = {"prompts": 0, "prompts_unsampled": 0, "pairs": 0, "pairs_identical": 0}

    def preferences(self, first: int, last: int) -> pa.Table:
        """Rows of Preferences for the prompts `first:last`: sample j is paired with golden answer j mod G."""
        golden, sampled = self._gold.sizes(first, last), self._samples.sizes(first, last)
        own, other = pair_indices(golden, sampled)
        gold = self._gold.rows(first, last).take(indices(own))
        samples = self._samples.rows(first, last).take(indices(other))
        same = _texts(gold) == _texts(samples)
        block = len(sampled), (sampled == 0).sum(), (~same).sum(), same.sum()
        for name, n in zip(self.counts, block, strict=True):
            self.counts[name] += int(n)
        return self._rows(gold, samples).filter(pa.array(~same))

    def _rows(self, gold: pa.Table, samples: pa.Table) -> pa.Table:
        n = len(gold)
        columns: dict[str, Any] = {
            name: samples.column(name) for name in ("prompt_id", "prompt", "truth", "group", "prompt_tokens")
        }
        for side, rows in (("chosen", gold), ("rejected", samples)):
            columns |= {
                f"{side}_id": rows.column("completion_id"), side: rows.column("completion"),
                f"{side}_tokens": rows.column("completion_tokens"),
            }  # fmt: skip
        columns |= {
            "chosen_ended": pa.nulls(n, pa.bool_()),
            "rejected_ended": ended_by_itself(samples.column("finish_reason")),
        }
        if not self._gold_tokens:
            columns["chosen_tokens"] = pa.nulls(n, TOKENS)
        columns |= {"weight": pa.repeat(pa.scalar(self._weight), n), "source": pa.repeat(pa.scalar("gold"), n)}
        columns |= {name: pa.nulls(n, pa.float64()) for name in ("p", "margin")}
        return pa.table({name: columns[name] for name in Preferences.SCHEMA.names})


def pair_indices(golden: Ints, sampled: Ints) -> tuple[Ints, Ints]:
    """Rows of the golden answer and the sample of each pair; golden, sampled: `(G,)` their numbers per prompt."""
    prompt = np.repeat(np.arange(len(sampled)), sampled)
    samples = np.arange(len(prompt))
    place = samples - (np.cumsum(sampled) - sampled)[prompt]
    return (np.cumsum(golden) - golden)[prompt] + place % np.maximum(golden, 1)[prompt], samples


def _texts(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array([text.strip() for text in rows.column("completion").to_pylist()], object)
