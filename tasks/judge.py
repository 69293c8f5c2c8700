"""Asking an oracle: which of two answers is better, or how good one is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, SpecError, Workspace
from tasks.kinds import Completions, Oracle, Scorer, Scores, WinProbs

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.judging.grouping import Grouped, Ints, Strings
    from tasks.judging.journal import Journal
    from tasks.judging.pairing import QuestionPairs


def score(completions: Completions, oracle: Scorer, work: Workspace) -> Scores:
    """The oracle's score of every answer, null where it gave none. Each distinct (prompt, text, truth) is asked once.

    Answers are kept as they come, so a killed step asks nothing twice. Totals: `queries`, `unanswered` (questions).
    """
    import numpy as np
    import pyarrow as pa

    from tasks.judging.grouping import grouped
    from tasks.judging.journal import Journal
    from tasks.judging.pairing import Questions

    live, rows = _scorer(oracle), grouped(completions.table)
    with Journal(work.path / "scores.jsonl", work) as journal:

        def scored() -> Iterator[pa.RecordBatch]:
            for first, last in rows.blocks():
                block = rows.rows(first, last)
                questions = Questions(block)
                found = questions.scores(live, journal)[questions.of_row]
                work.progress(int(rows.starts[last]), len(completions), "answers")
                block = block.select(Completions.SCHEMA.names)
                yield from block.append_column("score", pa.array(found, mask=np.isnan(found))).to_batches()

        Scores.of(scored(), completions.metadata).save(work.output)
        _tell(work, journal)
    return Scores(work.output)


def compare(
    completions: Completions,
    oracle: Oracle,
    work: Workspace,
    others: Completions | None = None,
    *,
    orders: Literal["both", "drawn"] = "both",
) -> WinProbs:
    """P(a beats b) for all pairs of answers to a prompt: each unordered pair of one table, or each answer × each other.

    A Scorer is asked once per distinct (prompt, text, truth) and compares by P = σ(scale · (score(a) − score(b)));
    an antisymmetric oracle is asked once per unordered pair of texts; any other one in both orders, a row each, with
    `first` saying which answer was shown first. p is P(a beats b) in every row, null where there was no answer.
    Answers are kept as they come, so a killed step asks nothing twice. Totals: `queries`, `unanswered` (questions).
    Raises DataError if the two tables hold the same draws or answer different prompts.

    Args:
        orders: for an oracle that is not antisymmetric: ask in both orders, or in one that is drawn for each pair.
    """
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.journal import Journal

    live, rows = oracle.opened(), grouped(completions.table)
    against = None if others is None else grouped_like(rows, others.table, "`others`")
    if against is not None:
        _check_prompts(rows, against)
    with Journal(work.path / "answers.jsonl", work) as journal:

        def asked() -> Iterator[pa.RecordBatch]:
            for first, last in rows.blocks():
                yield from _block(rows, against, first, last, live, orders, journal)
                work.progress(int(rows.starts[last]), len(completions), "answers")

        WinProbs.of(asked()).save(work.output)
        _tell(work, journal)
    return WinProbs(work.output)


def _block(
    rows: Grouped, against: Grouped | None, first: int, last: int, oracle: Oracle, orders: str, journal: Journal
) -> Iterator[pa.RecordBatch]:
    """The questions and answers of some prompts. Rows of the other table count on behind those of the first."""
    import pyarrow as pa

    from tasks.judging.pairing import pairs_across, pairs_within

    columns = ["prompt_id", "prompt", "completion", "truth", "completion_id"]
    block, sizes = rows.rows(first, last).select(columns), rows.sizes(first, last)
    if against is None:
        a, b = pairs_within(sizes)
    else:
        a, b = pairs_across(sizes, against.sizes(first, last))
        b = b + block.num_rows
        block = pa.concat_tables([
            t.replace_schema_metadata(None) for t in (block, against.rows(first, last).select(columns))
        ])  # fmt: skip
    _check_draws(block.column("completion_id"), against is not None)
    yield from _rows(block, _answered(block, a, b, oracle, orders, journal)).to_batches()


def _answered(block: pa.Table, a: Ints, b: Ints, oracle: Oracle, orders: str, journal: Journal) -> QuestionPairs:
    import numpy as np

    from tasks.judging.grouping import indices
    from tasks.judging.noise import uniform
    from tasks.judging.pairing import Questions, by_scores, ordered, unordered

    questions = Questions(block)
    if isinstance(oracle, Scorer):
        return by_scores(oracle, questions, a, b, journal)
    if oracle.antisymmetric:
        return unordered(oracle, questions, a, b, journal)
    if orders == "both":
        a, b = np.repeat(a, 2), np.repeat(b, 2)
        return ordered(oracle, questions, a, b, np.arange(len(a)) % 2 == 0, journal)
    ids = block.column("completion_id").combine_chunks()
    return ordered(oracle, questions, a, b, uniform(0, ids.take(indices(a)), ids.take(indices(b))) < 0.5, journal)


def _rows(block: pa.Table, met: QuestionPairs) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tasks.judging.grouping import indices

    a, b = indices(met.a), indices(met.b)
    ids = block.column("completion_id").combine_chunks()
    first = pa.nulls(len(a), pa.string()) if met.a_first is None else pa.array(np.where(met.a_first, "a", "b"))
    return pa.table({
        "prompt_id": block.column("prompt_id").combine_chunks().take(a), "a_id": ids.take(a), "b_id": ids.take(b),
        "p": pa.array(met.p, mask=np.isnan(met.p)), "first": first,
    })  # fmt: skip


def _scorer(oracle: Scorer) -> Scorer:
    live = oracle.opened()
    if not isinstance(live, Scorer):
        raise SpecError(f"`score` needs an oracle that scores single answers; {type(live).__name__} only compares")
    return live


def _check_prompts(rows: Grouped, against: Grouped) -> None:
    import numpy as np

    missing = int((np.diff(against.starts) == 0).sum())
    if missing:
        raise DataError(f"{missing} of {len(rows.prompts)} prompts have no answer in `others`: sample both alike")


def _check_draws(ids: Strings, two_sides: bool) -> None:
    import pyarrow.compute as pc

    repeated = len(ids) - pc.count_distinct(ids).as_py()
    if repeated:
        where = "on both sides of the comparison" if two_sides else "twice in the table"
        raise DataError(f"{repeated} draws are {where}; another `stream` of `sample` gives draws of their own")


def _tell(work: Workspace, journal: Journal) -> None:
    work.count(queries=journal.asked, unanswered=journal.unanswered)
    if journal.unanswered:
        work.notice(f"{journal.unanswered} of {journal.asked} questions were not answered: null, counted as nothing")
