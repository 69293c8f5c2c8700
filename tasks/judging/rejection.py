"""Statistical rejection sampling from scored answers, over all prompts of a block at once.

Axis letters: G prompts, C candidates.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.contract import DataError
from tasks.judging.grouping import Ints, Selection, indices
from tasks.judging.noise import uniform

Floats = npt.NDArray[np.float64]


def accepted_answers(
    block: pa.Table, sizes: Ints, n: int, beta: float, seed: int, *, dedupe: bool = False
) -> Selection:
    """The rows of Scores that are accepted, at most n per prompt, in order of acceptance. sizes: `(G,)` answers each.

    Raises DataError for infinite scores.
    """
    candidates = _candidates(block, sizes, dedupe=dedupe)
    scores = candidates["score"].to_numpy()
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers")
    prompt = candidates["prompt"].to_numpy().astype(np.int64)
    turns = acceptance_turns(scores, prompt, candidates["id"], n, beta, seed)
    chosen = candidates.with_columns(turn=turns).filter(pl.col("turn") >= 0).sort("prompt", "turn")
    counts = np.bincount(prompt, minlength=len(sizes))
    return Selection(block.take(indices(chosen["row"].to_numpy().astype(np.int64))), {
        "prompts": len(sizes), "prompts_unscored": (counts == 0).sum(), "candidates": len(candidates),
        "answers": len(chosen), "exhausted": ((counts > 0) & (counts <= n)).sum(),
    })  # fmt: skip


def _candidates(block: pa.Table, sizes: Ints, *, dedupe: bool) -> pl.DataFrame:
    """The scored answers by prompt, in order of their ids; with `dedupe` the first of each text."""
    answers = pl.DataFrame({
        "prompt": np.repeat(np.arange(len(sizes)), sizes), "id": pl.Series(block.column("completion_id")),
        "text": pl.Series(block.column("completion")), "score": pl.Series(block.column("score")),
    }).with_row_index("row")  # fmt: skip
    scored = answers.filter(pl.col("score").is_not_null()).sort("prompt", "id", maintain_order=True)
    return scored.unique(["prompt", "text"], keep="first", maintain_order=True) if dedupe else scored


def acceptance_turns(scores: Floats, prompt: Ints, ids: pl.Series, n: int, beta: float, seed: int) -> Ints:
    """`(C,)`: the turn in which each candidate is accepted, from 0, or −1.

    Algorithm 1 of arXiv 2309.06657. Candidates lie in the order in which a pass goes through them; prompt: `(C,)`,
    ascending. Each pass accepts at least the best candidate that remains, so at most n passes are made.
    """
    turn = np.full(len(scores), -1, np.int64)
    have = np.zeros(int(prompt.max(initial=-1)) + 1, np.int64)
    for number in range(n):
        rows = np.flatnonzero((turn < 0) & (have[prompt] < n))
        if not len(rows):
            break
        own, noise = (
            prompt[rows],
            uniform(seed, ids.gather(rows), pl.Series([str(number)]).gather(np.zeros(len(rows), int))),
        )
        first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
        highest = np.repeat(np.maximum.reduceat(scores[rows], first), np.diff(np.r_[first, len(rows)]))
        taken = noise < np.exp((scores[rows] - highest) / beta)
        before = np.cumsum(taken) - taken
        place = have[own] + before - np.repeat(before[first], np.diff(np.r_[first, len(rows)]))
        taken &= place < n
        turn[rows[taken]] = place[taken]
        have += np.bincount(own[taken], minlength=len(have))
    return turn
