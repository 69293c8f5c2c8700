"""Pairs as comparisons: which answer comes first, and how probable it is that the chosen one is better."""

from typing import NamedTuple

import polars as pl

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.noise import uniform
from tasks.kinds import Preferences
from tasks.message import uses_tools
from tasks.skipped import RowLog

SHOWN = ("prompt_id", "prompt", "truth", "group", "weight")
"""Columns of a pair that its comparison has too."""


class Comparisons(NamedTuple):
    """Usable pairs in the order in which their answers are shown."""

    rows: pl.DataFrame
    """prompt_id, prompt, truth, group, weight, comparison_id, first, second (texts), chosen_first, p, source."""
    log: RowLog
    """The pairs that were read and skipped."""


def comparisons(
    pairs: Preferences, work: Workspace, labels: str, max_skipped: float, seed: int, *, tools: bool = True
) -> Comparisons:
    """The pairs, each in an order that depends on its ids and the seed alone.

    tools: whether prompts that use tools can be shown. Raises DataError for a p that is missing or outside [0, 1].
    """
    frame = pairs.frame
    log = RowLog(work, max_skipped, type(pairs).__name__, read=len(frame))
    rows = frame.select("prompt", "chosen", "rejected").iter_rows()
    reasons = [_reason(prompt, chosen, rejected, tools) for prompt, chosen, rejected in rows]
    for number, (reason, *ids) in enumerate(zip(reasons, frame["chosen_id"], frame["rejected_id"], strict=True), 1):
        if reason:
            log.skip(number, reason, chosen_id=ids[0], rejected_id=ids[1])
    usable = frame.filter(pl.Series(reasons, dtype=pl.String).is_null())
    if labels == "hard":
        usable = usable.with_columns(p=pl.lit(1.0))
    else:
        _check_p(usable["p"])
    chosen_first = pl.Series(uniform(seed, usable["chosen_id"], usable["rejected_id"]) < 0.5)
    ids = [digest("comparison", *two) for two in usable.select("chosen_id", "rejected_id").iter_rows()]
    return Comparisons(usable.select(
        *SHOWN, "p", "source",
        chosen_first=chosen_first, comparison_id=pl.Series(ids, dtype=pl.String),
        first=pl.when(chosen_first).then("chosen").otherwise("rejected"),
        second=pl.when(chosen_first).then("rejected").otherwise("chosen"),
    ), log)  # fmt: skip


def _reason(prompt: list[dict[str, str]], chosen: str, rejected: str, tools: bool) -> str | None:
    """Why a pair cannot be compared, None where it can."""
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            return f"empty {side}"
    if chosen.strip() == rejected.strip():
        return "identical sides"
    return None if tools or not uses_tools(prompt) else "the layout of a comparison cannot show tools"


def _check_p(p: pl.Series) -> None:
    if p.null_count() or p.is_nan().any():
        missing = p.null_count() + p.is_nan().sum()
        raise DataError(
            f"{missing} of {len(p)} pairs have no p, which `labels: soft` trains on: use `labels: hard`, or pairs of "
            "an oracle that gives P(chosen beats rejected)"
        )
    wrong = p.filter((p < 0) | (p > 1))
    if len(wrong):
        raise DataError(f"{len(wrong)} of {len(p)} pairs have a p outside [0, 1], the first is {wrong[0]:g}")
