"""Saving what a step selects of the answers to each prompt, with a notice of the prompts that are left out."""

from collections import Counter
from collections.abc import Callable

import pyarrow as pa

from tasks.contract import DataError, Workspace
from tasks.judging.grouping import Grouped, Selection, by_blocks
from tasks.kinds import AnyTable, Scores, Table

SCALE = "scale"
"""Metadata of Scores: P(a beats b) = σ(scale · (score(a) − score(b))), by the oracle that scored."""


def save_selected(
    kind: type[AnyTable], rows: Grouped, select: Callable[[int, int], Selection], source: Table, work: Workspace
) -> AnyTable:
    """What `select` makes of blocks of prompts, saved with the metadata of `source`.

    A notice counts the prompts that are left out. Raises DataError if none is left.
    """
    totals = save_selections(kind, rows, select, source, work)
    prompts = totals["prompts"]
    left_out = {name: n for name, n in totals.items() if name.startswith("prompts_") and n}
    reasons = ", ".join(f"{n} {_LEFT_OUT[name]}" for name, n in left_out.items())
    if sum(left_out.values()) == prompts:
        raise DataError(f"none of {prompts} prompts is left: {reasons or 'the table is empty'}")
    if reasons:
        work.notice(f"{sum(left_out.values())} of {prompts} prompts left out: {reasons}")
    return kind(work.output)


_LEFT_OUT = {
    "prompts_unanswered": "with an answer that has no answered opponent",
    "prompts_without_extra": "whose extra samples have no answered opponent",
    "prompts_tied": "whose answers all have the same win rate",
    "prompts_without_pair": "without a pair by the rule (ties, or no answer from the oracle)",
    "prompts_short": "with fewer than two scored answers",
    "prompts_level": "whose answers all have the same score",
    "prompts_without_answer": "without an answer that is scored and not empty",
    "prompts_unscored": "without a scored answer",
}


def save_selections(
    kind: type[Table],
    rows: Grouped,
    select: Callable[[int, int], Selection],
    source: Table,
    work: Workspace,
    unit: str = "answers",
) -> Counter[str]:
    """Save what `select` makes of blocks of prompts. Returns the totals, which the record has too."""
    totals: Counter[str] = Counter()

    def selected(first: int, last: int) -> pa.Table:
        block = select(first, last)
        totals.update({name: int(n) for name, n in block.totals.items()})
        return block.rows

    metadata = {name: text for name, text in source.metadata.items() if name != SCALE or issubclass(kind, Scores)}
    kind.of(by_blocks(rows, selected, work, unit), metadata).save(work.output)
    work.count(**totals)
    return totals
