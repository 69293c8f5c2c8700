"""Which rows go on: pieces of tables, tables put together, win rates and their selection, pairs, rankings, the best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tasks.contract import Bounds, Choice, Chosen, DataError, Workspace
from tasks.kinds import (
    AnyTable,
    Completions,
    Demonstrations,
    Preferences,
    Rankings,
    Scores,
    WinProbs,
    WinRates,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.judging.grouping import Ints
    from tasks.judging.rates import Rates


def part(
    table: AnyTable,
    work: Workspace,
    *,
    index: Annotated[int, Bounds(min=1)],
    size: Annotated[int, Bounds(min=1)],
    wrap: bool = False,
) -> AnyTable:
    """Piece number `index` of a table: consecutive rows in the table's order; two pieces share none.

    The last piece may be shorter. With `wrap`, pieces go on over the end from the first row again and are all of
    `size` rows (of the whole table, if it is smaller), and a notice says so. Raises DataError if the table is used up.

    Args:
        index: number of the piece, from 1.
        size: rows of a piece.
        wrap: begin again when the table is used up.
    """
    import pyarrow as pa

    total, start = len(table), (index - 1) * size
    if not total:
        raise DataError(f"the {type(table).__name__} has no rows to take a piece from")
    pieces = -(-total // size)
    if start >= total and not wrap:
        raise DataError(
            f"the {type(table).__name__} is used up: its {total} rows make {pieces} pieces of {size}, and piece "
            f"{index} was asked for; take smaller pieces, a larger table, or `wrap: true`"
        )
    if start + size <= total or not wrap:
        if start + size > total:
            work.notice(f"the last piece of {total} rows has {total - start} instead of {size}")
        return type(table).of(table.table.slice(start, size), table.metadata)
    size, start = min(size, total), start % total
    work.notice(f"piece {index} begins again: the {total} rows make {pieces} pieces, so rows are used another time")
    rows = pa.concat_tables([table.table.slice(start, size), table.table.slice(0, max(0, start + size - total))])
    return type(table).of(rows, table.metadata)


def concat(tables: list[AnyTable], work: Workspace) -> AnyTable:
    """The rows of all tables, in the order of the list. Raises DataError if two rows are the same draw, prompt or pair.

    Rows keep the tokens they have; those without (people's pairs beside sampled ones) are rendered by `tokenize`.
    Tokens made with different templates are left out, with a notice: `tokenize` renders their texts again, and answers
    that were cut by their length stay cut.
    """
    from tasks.judging.joining import check_ids, common_metadata, plain_tokens

    if not tables:
        raise DataError("there is no table to put together: every entry of `tables` is nothing yet")
    check_ids(tables)
    metadata, mixed = common_metadata(tables)
    if mixed:
        work.notice(f"tokens of {mixed} templates meet, so they are left out: `tokenize` renders the texts again")
    batches = (b for t in tables for b in t.batches())
    return type(tables[0]).of(plain_tokens(batches) if mixed else batches, metadata)


def win_rates(
    win_probs: WinProbs,
    completions: Completions,
    work: Workspace,
    *,
    keep: Literal["all", "best_and_worst"] = "all",
    count_self: bool = True,
) -> WinRates:
    """How often each answer wins: the mean of P over the answered opponents of its prompt.

    SPPO's P̂(y ≻ π) (arXiv 2405.00675, eq. 4.5; `scripts/compute_prob.py`). Prompts in which an answer has no answered
    opponent are left out, never filled in. Totals: `prompts`, `prompts_unanswered`, `prompts_tied`. Raises DataError
    if the ids do not match or no prompt is left.

    Args:
        keep: which answers become rows; best_and_worst: the highest and the lowest win rate of each prompt, of equal
            ones the lowest k as best and the highest as worst; where all win equally often, the prompt is left out.
        count_self: an answer counts as its own opponent, at ½, as in SPPO's code; shrinks P − ½ by (1 − 1/K).
    """
    import numpy as np
    import pyarrow as pa

    from tasks.judging import rates as r
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.oriented import TIE

    rows = grouped(completions.table)
    questions = grouped_like(rows, win_probs.table, "win_probs")
    counts = {"prompts": 0, "prompts_unanswered": 0, "prompts_tied": 0}

    def rated() -> Iterator[pa.RecordBatch]:
        for first, last in rows.blocks():
            block, sizes, pairs = r.block_of(rows, questions, first, last)
            found = r.win_rates_of_block(pairs, block.num_rows, count_self=count_self)
            k = block.column("k").to_numpy()
            unanswered = r.any_of_prompt(np.isnan(found.win_rate), sizes)
            tied = (r.spread(found.win_rate, sizes) <= TIE) & ~unanswered if keep != "all" else unanswered & False
            kept = np.repeat(~unanswered & ~tied, sizes)
            if keep != "all":
                place = r.places(found.win_rate, k, sizes)
                kept &= (place == 0) | (place == np.repeat(sizes - 1, sizes))
            for name, n in zip(counts, (len(sizes), unanswered.sum(), tied.sum()), strict=True):
                counts[name] += int(n)
            yield from _rated(block, sizes, found, k).filter(pa.array(kept)).to_batches()
            work.progress(int(rows.starts[last]), len(completions), "answers")

    WinRates.of(rated(), completions.metadata).save(work.output)
    _tell(work, counts)
    return WinRates(work.output)


def pairs(
    completions: Completions,
    win_probs: WinProbs,
    work: Workspace,
    *,
    rule: Annotated[Chosen, Choice("pair_rules")],
) -> Preferences:
    """Pairs to train on, out of answered questions.

    p = P(chosen beats rejected), the mean over both orders; margin = 2p − 1 (P of winning minus P of losing);
    source = the rule. Totals: `prompts`, `prompts_without_pair`, `pairs`. Raises DataError if the ids do not match or
    no pair is left.

    Args:
        rule: which answered pairs are kept, and which side of each is chosen.
    """
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.pair_frames import Pairs

    rows = grouped(completions.table)
    found = Pairs(rows, grouped_like(rows, win_probs.table, "win_probs"), rule)

    def paired() -> Iterator[pa.RecordBatch]:
        for first, last in rows.blocks():
            yield from found.preferences(first, last).to_batches()
            work.progress(int(rows.starts[last]), len(completions), "answers")

    Preferences.of(paired(), completions.metadata).save(work.output)
    _tell(work, found.counts)
    return Preferences(work.output)


def gold_pairs(
    demonstrations: Demonstrations,
    completions: Completions,
    work: Workspace,
    *,
    weight: Annotated[float, Bounds(above=0)],
) -> Preferences:
    """Golden answers preferred to sampled ones of the same prompts: the policy as the reward model's adversary.

    Every sample makes one pair; of several golden answers to a prompt, sample number j meets number j mod G. `weight`
    is the factor of each pair's loss, so that the mean over these and people's pairs (weight 1) is the two-stream loss

        (1/n)·[Σ over people's −log σ(Δr) + weight·Σ over these −log σ(Δr)],   n = all pairs of both streams

    of Adversarial Preference Optimization, whose weight is coefficient ÷ samples per prompt (0.1 / 4: one of these
    counts as much as 0.025 of a person's). p and margin are unknown; source = gold. Pairs of equal texts are left
    out, and golden answers to prompts without a sample are not used. Totals: `prompts`, `prompts_unsampled`, `pairs`,
    `pairs_identical`. Raises DataError if a sample's prompt has no golden answer, or no pair is left.

    Source: Cheng et al., arXiv 2311.08045, eq. 17; the authors' `tools/apo_data_converter.py` and `ranking_loss`.

    Args:
        weight: factor of each pair's loss: the stream's coefficient ÷ samples per prompt.
    """
    from tasks.judging.golden import GoldPairs
    from tasks.judging.grouping import grouped, grouped_like

    template = completions.metadata.get("template")
    gold = grouped(demonstrations.table)
    same_template = template is not None and demonstrations.metadata.get("template") == template
    samples = grouped_like(gold, completions.table, "`completions`")
    found = GoldPairs(gold, samples, weight, gold_tokens=same_template)

    def paired() -> Iterator[pa.RecordBatch]:
        for first, last in gold.blocks():
            yield from found.preferences(first, last).to_batches()
            work.progress(int(gold.starts[last]), len(demonstrations), "golden answers")

    Preferences.of(paired(), completions.metadata).save(work.output)
    work.count(**found.counts)
    told = f"{found.counts['pairs_identical']} of {len(completions)} samples equal their golden answer and make no pair"
    if not found.counts["pairs"]:
        raise DataError(f"no pair is left: {told}")
    if found.counts["pairs_identical"]:
        work.notice(told)
    return Preferences(work.output)


def rankings(scores: Scores, work: Workspace) -> Rankings:
    """The scored answers to each prompt in one row, in the order of their draws: what listwise losses train on.

    Equal scores stay equal: they are ties, for the loss to treat as such. Answers without a score are left out, and
    prompts with fewer than two scored answers or with one score for all, which have no order. Totals: `prompts`,
    `prompts_short`, `prompts_level`, `answers_unscored`. Raises DataError if no prompt is left.
    """
    from tasks.judging.grouping import grouped
    from tasks.judging.ranking import BlockRankings

    rows = grouped(scores.table)
    found = BlockRankings(tokens=not any(rows.table.column(f"{t}_tokens").null_count for t in ("prompt", "completion")))

    def ranked() -> Iterator[pa.RecordBatch]:
        for first, last in rows.blocks():
            yield from found.rankings(rows.rows(first, last), rows.sizes(first, last)).to_batches()
            work.progress(int(rows.starts[last]), len(scores), "answers")

    Rankings.of(ranked(), scores.metadata).save(work.output)
    _tell(work, found.counts)
    return Rankings(work.output)


def best(scores: Scores, work: Workspace, *, n: Annotated[int, Bounds(min=1)] = 1) -> Completions:
    """The n answers to each prompt with the highest scores, best first: what rejection sampling trains on.

    Of equal scores the answer that comes first in the table (the lowest k of a sampling) is the better one. Empty
    answers and those without a score are skipped; a text that was drawn several times counts once. A prompt with
    fewer answers gives what it has. Totals: `prompts`, `prompts_without_answer`, `answers`. Raises DataError if no
    prompt has an answer left.

    Against the policy that drew them, the best of K answers lie at most log K − (K − 1)/K nats away.

    Source: RAFT, Dong et al., arXiv 2304.06767, Algorithm 1 (with its best answer of each prompt).

    Args:
        n: answers kept per prompt.
    """
    from tasks.judging.grouping import grouped, indices
    from tasks.judging.ranking import BlockBest

    rows, found = grouped(scores.table), BlockBest(n)

    def chosen() -> Iterator[pa.RecordBatch]:
        for first, last in rows.blocks():
            block = rows.rows(first, last)
            kept = indices(found.rows(block, rows.sizes(first, last)))
            yield from block.select(Completions.SCHEMA.names).take(kept).to_batches()
            work.progress(int(rows.starts[last]), len(scores), "answers")

    Completions.of(chosen(), scores.metadata).save(work.output)
    _tell(work, found.counts)
    return Completions(work.output)


def _rated(block: pa.Table, sizes: Ints, found: Rates, k: Ints) -> pa.Table:
    """The block with win_rate, opponents, and the win rates of all answers to the prompt by k, repeated in its rows."""
    import numpy as np
    import pyarrow as pa

    from tasks.judging.grouping import indices

    prompt = np.repeat(np.arange(len(sizes)), sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(cast(Any, pa.array(offsets)), pa.array(found.win_rate[np.lexsort((k, prompt))]))
    block = block.select(Completions.SCHEMA.names)
    block = block.append_column("win_rate", pa.array(found.win_rate))
    block = block.append_column("opponents", pa.array(found.opponents.astype(np.int32)))
    return block.append_column("prompt_win_rates", lists.take(indices(prompt)))


def _tell(work: Workspace, counts: dict[str, int]) -> None:
    """Record the totals, tell which prompts were left out. Raises DataError if none is left."""
    work.count(**counts)
    prompts = counts["prompts"]
    left_out = {name: n for name, n in counts.items() if name.startswith("prompts_") and n}
    told = ", ".join(f"{n} {_LEFT_OUT[name]}" for name, n in left_out.items())
    if sum(left_out.values()) == prompts:
        raise DataError(f"none of {prompts} prompts is left: {told or 'the table is empty'}")
    if told:
        work.notice(f"{sum(left_out.values())} of {prompts} prompts left out: {told}")


_LEFT_OUT = {
    "prompts_unanswered": "with an answer that has no answered opponent",
    "prompts_tied": "whose answers all win equally often",
    "prompts_without_pair": "in which the rule keeps no pair (ties, or no answer by the oracle)",
    "prompts_short": "with fewer than two scored answers",
    "prompts_level": "whose answers all have one score",
    "prompts_without_answer": "without an answer that is scored and not empty",
}
