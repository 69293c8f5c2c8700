"""Pairs whose sides an oracle decides anew."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.judging.grouping import Selection, indices
from tasks.judging.noise import uniform
from tasks.judging.oriented import TIE
from tasks.judging.pairing import Floats
from tasks.kinds import Preferences

SIDES = ("chosen", "rejected")


def answers_of(block: pa.Table) -> pa.Table:
    """The answers of M pairs as rows of questions: the chosen ones, then the rejected ones."""
    shared = block.select(["prompt_id", "prompt", "truth"])
    sides = [
        shared.append_column("completion", block.column(side)).append_column(
            "completion_id", block.column(f"{side}_id")
        )
        for side in SIDES
    ]
    return pa.concat_tables([side.replace_schema_metadata(None) for side in sides])


def relabelled(block: pa.Table, p: Floats, labels: str, seed: int) -> Selection:
    """The pairs with the side that wins as the chosen one; those without p, or without a winner, are left out.

    labels: drawn: the first side wins with probability p; likelier: where p > ½.
    """
    swap, tied = _swapped(block, p, labels, seed)
    columns: dict[str, Any] = {name: block.column(name) for name in block.column_names}
    for name in ("{}", "{}_id", "{}_tokens", "{}_ended"):
        both = [block.column(name.format(side)) for side in SIDES]
        for side, values in zip(SIDES, _exchanged(both, swap), strict=True):
            columns[name.format(side)] = values
    won = np.where(swap, 1 - p, p)
    columns |= {
        "p": pa.array(won, mask=np.isnan(won)), "margin": pa.array(2 * won - 1, mask=np.isnan(won)),
        "source": pa.repeat(pa.scalar("judged"), len(p)),
    }  # fmt: skip
    rows = pa.table(columns).select(Preferences.SCHEMA.names).filter(pa.array(~np.isnan(p) & ~tied))
    return Selection(rows, {"pairs_judged": len(p), "pairs_unanswered": np.isnan(p).sum(), "pairs_tied": tied.sum(),
                            "pairs_turned": (swap & ~np.isnan(p)).sum()})  # fmt: skip


def _swapped(block: pa.Table, p: Floats, labels: str, seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether the rejected side of each pair wins, and whether neither does."""
    if labels == "likelier":
        return p < 0.5, np.abs(p - 0.5) <= TIE
    ids = [np.array(block.column(f"{side}_id").to_pylist(), object) for side in SIDES]
    low_first = ids[0] < ids[1]
    low, high = np.where(low_first, ids[0], ids[1]), np.where(low_first, ids[1], ids[0])
    draws = uniform(seed, pa.array(low, pa.string()), pa.array(high, pa.string()))
    low_wins = draws < np.where(low_first, p, 1 - p)
    return low_wins != low_first, np.zeros(len(p), np.bool_)


def _exchanged(both: list[Any], swap: npt.NDArray[np.bool_]) -> list[Any]:
    count, rows = len(swap), np.arange(len(swap))
    column = pa.chunked_array([*both[0].chunks, *both[1].chunks], both[0].type)
    first = np.where(swap, rows + count, rows)
    return [column.take(indices(first)), column.take(indices(np.where(swap, rows, rows + count)))]
