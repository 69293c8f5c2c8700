"""The plan of an optimizer batch for all ranks: which rows each reads, and in which passes.

Every rank makes the whole plan, which needs no exchange: it depends on the rows' lengths alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tasks.ranks import Ranks
from tasks.training.packing import PackingConfig, PlannedBatch, cost_of_rows, plan_batch, prompt_groups
from tasks.training.rows import Ints, Rows


class RankPlan(NamedTuple):
    """The passes of one rank in an optimizer step."""

    passes: list[PlannedBatch]
    empty: PlannedBatch
    """A pass for a rank that has nothing left to read; its loss counts 0."""
    most: int
    """Passes of the rank that has the most."""

    def in_step(self) -> Iterator[tuple[PlannedBatch, bool]]:
        """As many passes as every other rank has, and whether their losses count."""
        yield from ((planned, True) for planned in self.passes)
        yield from [(self.empty, False)] * (self.most - len(self.passes))


def plan_of_rank(rows: Rows, batch: Ints, packing: PackingConfig, ranks: Ranks) -> RankPlan:
    """The part of a rank in the rows of `batch`; of a process alone, the cheapest passes over all of them."""
    if ranks.world == 1:
        passes = plan_batch(rows, batch, packing)
        return RankPlan(passes, passes[0], len(passes))
    parts = split_rows(rows, batch, packing, ranks.world)
    plans = [plan_batch(rows, part, packing) if len(part) else [] for part in parts]
    shortest = batch[[int(rows.tokens[batch].argmin())]]
    return RankPlan(plans[ranks.rank], plan_batch(rows, shortest, packing)[0], max(map(len, plans)))


def split_rows(rows: Rows, batch: Ints, packing: PackingConfig, world: int) -> list[Ints]:
    """The rows of `batch` in `world` parts of similar cost, some of which may be empty.

    Rows that share a prompt stay together, unless parts become more equal without that.
    """
    together = [np.array(group.rows, np.int64) for group in prompt_groups(rows, batch, packing)]
    ways = [_balanced(rows, units, packing, world) for units in (together, list(batch[:, None]))]
    return min(ways, key=lambda parts: max(cost_of_rows(rows, part, packing) for part in parts))


def _balanced(rows: Rows, units: Sequence[Ints], packing: PackingConfig, world: int) -> list[Ints]:
    """The costliest unit first, each to the part that costs least so far."""
    costs = [cost_of_rows(rows, unit, packing) for unit in units]
    parts: list[list[Ints]] = [[] for _ in range(world)]
    loads = [(0.0, number) for number in range(world)]
    for i in sorted(range(len(units)), key=lambda i: (-costs[i], int(units[i][0]))):
        load, number = heapq.heappop(loads)
        parts[number].append(units[i])
        heapq.heappush(loads, (load + costs[i], number))
    return [np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts]
