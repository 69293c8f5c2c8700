"""Queries of an oracle: scores of single answers, and comparisons of two."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, Seed, SpecError, Workspace
from tasks.declarations import Cost, Machine, Memory, Resources, Size, StepView
from tasks.judging.oracle_totals import ORACLE_TOTALS, QUERY_TOTALS
from tasks.kinds import Completions, Oracle, Preferences, Scorer, Scores, WinProbs
from tasks.training.passes import memory_of_scoring

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.judging.grouping import Grouped, Strings
    from tasks.judging.journal import Journal
    from tasks.judging.pairing import QuestionPairs


score_totals = ORACLE_TOTALS
compare_totals = ORACLE_TOTALS
compare_pairs_totals = ORACLE_TOTALS
judge_pairs_totals = QUERY_TOTALS
score_resources = Resources(ranks=True)
compare_resources = Resources(ranks=True)
judge_pairs_resources = Resources(ranks=True)
compare_pairs_resources = Resources(ranks=True)


def score_cost(step: StepView) -> Cost:
    return {"queries": step.rows_of("completions")}


def compare_size(step: StepView) -> Size:
    """Every answer against every other of its prompt, or against every one of the other table's."""
    mine, others = step.inputs["completions"][0], step.first("others")
    return Size(mine.rows * (others.k if others else max(mine.k - 1, 0)), mine.k)


def compare_cost(step: StepView) -> Cost:
    return {"queries": step.rows}


def score_memory(step: StepView, machine: Machine) -> Memory | None:
    return memory_of_scoring(step, machine, "oracle")


def compare_memory(step: StepView, machine: Machine) -> Memory | None:
    return memory_of_scoring(step, machine, "oracle")


def score(
    completions: Completions,
    oracle: Scorer,
    work: Workspace,
    *,
    weights: dict[str, float] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Scores:
    """The oracle's score of every answer, null for no answer. Each distinct (prompt, text, truth) is queried once.

    The table's metadata has the oracle's scale, for `compare_scores`. What an oracle with attributes measures of each
    answer is in the column `attributes`.
    A journal stores the answers, so a resumed step repeats no query; answers of models and servers are stored for all
    steps, so that no step asks again what another one asked. Totals: `tasks.judging.oracle_totals`.

    Args:
        weights: of an oracle with attributes: the score is Σ weight · attribute, others count 0; default: their mean.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    import numpy as np
    import pyarrow as pa

    from tasks.judging.attributes import with_attributes
    from tasks.judging.grouping import by_blocks, grouped
    from tasks.judging.journal import Journal
    from tasks.judging.oracle_report import report_paid, report_queries, report_statistics
    from tasks.judging.oracle_statistics import score_statistics
    from tasks.judging.pairing import Questions
    from tasks.judging.selection import SCALE

    live, rows = _scorer(oracle, dtype, weights, work), grouped(completions.table)
    named = {"attributes": json.dumps(live.attributes)} if live.attributes else {}
    with Journal(work.path / "scores.jsonl", work, live, shared=True) as journal:

        def scored(first: int, last: int) -> pa.Table:
            block = rows.rows(first, last)
            questions = Questions(block)
            block = block.select(Completions.SCHEMA.names)
            if live.attributes:
                return with_attributes(block, questions.measures(live, journal), live.weights)
            values = questions.scores(live, journal)
            return block.append_column("score", pa.array(values, mask=np.isnan(values)))

        before = {k: v for k, v in completions.metadata.items() if k != "attributes"}
        metadata = {**before, **named, SCALE: repr(float(live.scale))}
        Scores.of(by_blocks(rows, scored, work), metadata).save(work.output)
        report_queries(work, journal)
        report_paid(work)
    made = Scores(work.output)
    report_statistics(work, score_statistics(made.table))
    return made


def compare(
    completions: Completions,
    oracle: Oracle,
    work: Workspace,
    others: Completions | None = None,
    *,
    orders: Literal["both", "random"] = "both",
    weights: dict[str, float] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> WinProbs:
    """P(a beats b) for all pairs of answers to a prompt: each unordered pair of one table, or each answer × each other.

    A Scorer is queried once per distinct (prompt, text, truth) and compares by P = σ(scale · (score(a) − score(b)));
    an antisymmetric oracle is queried once per unordered pair of texts; any other in both orders, one row each, where
    the column `first` is the answer shown first. p is P(a beats b) in every row, null for no answer. Where the oracle
    knows how uncertain it is (an `ensemble`), the column `uncertainty` says it; else that is null.
    A journal stores the answers, so a resumed step repeats no query; answers of models and servers are stored for all
    steps, so that no step asks again what another one asked. Totals: `tasks.judging.oracle_totals`.
    Raises DataError if the two tables have common draws or different prompts.

    Args:
        orders: for an oracle that is not antisymmetric: query in both orders, or in a random one for each pair.
        weights: of an oracle with attributes: scores are Σ weight · attribute, others count 0; default: their mean.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    from tasks.judging.attributes import weighted
    from tasks.judging.grouping import by_blocks, grouped, grouped_like
    from tasks.judging.journal import Journal
    from tasks.judging.opening import open_oracle
    from tasks.judging.oracle_report import report_paid, report_queries, report_statistics
    from tasks.judging.oracle_statistics import comparison_statistics

    live, rows = weighted(open_oracle(oracle, dtype, work), weights), grouped(completions.table)
    against = None if others is None else grouped_like(rows, others.table, "`others`")
    if against is not None:
        _check_prompts(rows, against)
    with (
        Journal(work.path / "answers.jsonl", work, live, shared=True) as journal,
        Journal(work.path / "uncertainties.jsonl", work, live, shared=True) as uncertainties,
    ):

        def compared(first: int, last: int) -> pa.Table:
            return _compared(rows, against, first, last, live, orders, journal, uncertainties)

        WinProbs.of(by_blocks(rows, compared, work)).save(work.output)
        report_queries(work, journal)
        report_paid(work)
    made = WinProbs(work.output)
    answers = [table.table for table in (completions, others) if table is not None]
    report_statistics(work, comparison_statistics(made.table, *answers))
    return made


def judge_pairs_cost(step: StepView) -> Cost:
    return {"queries": 2 * step.rows_of("pairs")}


def judge_pairs_memory(step: StepView, machine: Machine) -> Memory | None:
    return memory_of_scoring(step, machine, "oracle")


def judge_pairs(
    pairs: Preferences,
    oracle: Oracle,
    work: Workspace,
    *,
    labels: Literal["drawn", "likelier"] = "drawn",
    orders: Literal["both", "random"] = "both",
    seed: Seed = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Preferences:
    """Pairs labelled anew: an oracle decides which side of each is the chosen one.

    So a rule may choose pairs by one oracle (`most_uncertain`), and an expensive one is queried about these pairs
    alone. p = P(chosen beats rejected) by this oracle, the mean over both orders where both are queried;
    margin = 2p − 1; source = judged. Pairs without an answer are left out, and with `likelier` ties. The noise of a
    drawn label belongs to (seed, the two draws). A journal stores the answers, so a resumed step repeats no query.
    Totals: `pairs_judged`, `pairs_unanswered`, `pairs_tied`, `pairs_turned`, `queries`, `unanswered`. Raises DataError
    if none is left.

    Args:
        labels: drawn: as a noisy annotator, with probability P, for which DPO's optimum is that of the reward;
            likelier: the more probable winner.
        orders: for an oracle that is not antisymmetric: query in both orders, or in a random one for each pair.
        seed: the noise of drawn labels.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    from collections import Counter

    import numpy as np

    from tasks.judging.grouping import by_blocks, grouped
    from tasks.judging.journal import Journal
    from tasks.judging.opening import open_oracle
    from tasks.judging.oracle_report import report_paid, report_queries
    from tasks.judging.pairing import Questions, answer_pairs, mean_p
    from tasks.judging.relabelling import answers_of, relabelled

    live, rows = open_oracle(oracle, dtype, work), grouped(pairs.table)
    totals: Counter[str] = Counter()
    with Journal(work.path / "answers.jsonl", work, live, shared=True) as journal:

        def judged(first: int, last: int) -> pa.Table:
            block = rows.rows(first, last)
            answers, a = answers_of(block), np.arange(block.num_rows)
            ids = answers.column("completion_id")
            made = answer_pairs(Questions(answers), ids, a, a + block.num_rows, live, orders, journal)
            selection = relabelled(block, mean_p(made, block.num_rows), labels, seed)
            totals.update({name: int(n) for name, n in selection.totals.items()})
            return selection.rows

        Preferences.of(by_blocks(rows, judged, work, "pairs"), pairs.metadata).save(work.output)
        work.count(**totals)
        report_queries(work, journal)
        report_paid(work)
    if totals["pairs_unanswered"] + totals["pairs_tied"] == len(pairs):
        raise DataError(f"none of {len(pairs)} pairs is left: the oracle answered none, or found all of them equal")
    return Preferences(work.output)


def compare_pairs_size(step: StepView) -> Size:
    return Size(step.rows_of("pairs"))


def compare_pairs_cost(step: StepView) -> Cost:
    return {"queries": 2 * step.rows_of("pairs")}


def compare_pairs_memory(step: StepView, machine: Machine) -> Memory | None:
    return memory_of_scoring(step, machine, "oracle")


def compare_pairs(
    pairs: Preferences,
    oracle: Oracle,
    work: Workspace,
    *,
    orders: Literal["both", "random"] = "both",
    weights: dict[str, float] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> WinProbs:
    """P(a beats b) of the two sides of each pair alone, a the chosen one: what an oracle thinks of labelled pairs.

    Rows, queries and totals are those of `compare`, so that oracles and people can be set beside each other by
    `agreement`; the oracle does not see which side was chosen.

    Args:
        orders: for an oracle that is not antisymmetric: query in both orders, or in a random one for each pair.
        weights: of an oracle with attributes: scores are Σ weight · attribute, others count 0; default: their mean.
        dtype: that an oracle which is a model computes in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    import numpy as np

    from tasks.judging.attributes import weighted
    from tasks.judging.grouping import by_blocks, grouped
    from tasks.judging.journal import Journal
    from tasks.judging.opening import open_oracle
    from tasks.judging.oracle_report import report_paid, report_queries, report_statistics
    from tasks.judging.oracle_statistics import comparison_statistics
    from tasks.judging.pairing import Questions, answer_pairs
    from tasks.judging.relabelling import answers_of

    live, rows = weighted(open_oracle(oracle, dtype, work), weights), grouped(pairs.table)
    with Journal(work.path / "answers.jsonl", work, live, shared=True) as journal:

        def compared(first: int, last: int) -> pa.Table:
            block = rows.rows(first, last)
            answers, a = answers_of(block), np.arange(block.num_rows)
            ids = answers.column("completion_id")
            return _rows(answers, answer_pairs(Questions(answers), ids, a, a + block.num_rows, live, orders, journal))

        WinProbs.of(by_blocks(rows, compared, work, "pairs")).save(work.output)
        report_queries(work, journal)
        report_paid(work)
    made = WinProbs(work.output)
    report_statistics(work, comparison_statistics(made.table, answers_of(rows.table)))
    return made


def _compared(
    rows: Grouped, against: Grouped | None, first: int, last: int, oracle: Oracle, orders: str, journal: Journal,
    uncertainties: Journal,
) -> pa.Table:  # fmt: skip
    """The questions and answers of some prompts. The rows of the other table follow those of the first."""
    import pyarrow as pa

    from tasks.judging.pairing import Questions, answer_pairs, pairs_across, pairs_within

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
    questions = Questions(block)
    pairs = answer_pairs(questions, block.column("completion_id"), a, b, oracle, orders, journal)
    if oracle.knows_uncertainty:
        pairs = pairs._replace(uncertainty=questions.uncertainties(pairs.a, pairs.b, oracle, uncertainties))
    return _rows(block, pairs)


def _rows(block: pa.Table, pairs: QuestionPairs) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tasks.judging.grouping import indices

    a, b = indices(pairs.a), indices(pairs.b)
    ids = block.column("completion_id").combine_chunks()
    first = pa.nulls(len(a), pa.string()) if pairs.a_first is None else pa.array(np.where(pairs.a_first, "a", "b"))
    spread = np.full(len(a), np.nan) if pairs.uncertainty is None else pairs.uncertainty
    return pa.table({
        "prompt_id": block.column("prompt_id").combine_chunks().take(a), "a_id": ids.take(a), "b_id": ids.take(b),
        "p": pa.array(pairs.p, mask=np.isnan(pairs.p)), "first": first,
        "uncertainty": pa.array(spread, mask=np.isnan(spread)),
    })  # fmt: skip


def _scorer(oracle: Scorer, dtype: str, weights: dict[str, float] | None, work: Workspace) -> Scorer:
    from tasks.judging.attributes import weighted
    from tasks.judging.opening import open_oracle

    live = weighted(open_oracle(oracle, dtype, work), weights)
    if not isinstance(live, Scorer):
        raise SpecError(f"`score` needs an oracle that scores single answers; {type(live).__name__} only compares")
    return live


def _check_prompts(rows: Grouped, against: Grouped) -> None:
    import numpy as np

    missing = int((np.diff(against.starts) == 0).sum())
    if missing:
        raise DataError(
            f"{missing} of {len(rows.prompts)} prompts have no answer in `others`: sample the same prompts for both"
        )


def _check_draws(ids: Strings, two_sides: bool) -> None:
    import pyarrow.compute as pc

    repeated = len(ids) - pc.count_distinct(ids).as_py()
    if repeated:
        where = "on both sides of the comparison" if two_sides else "twice in the table"
        raise DataError(f"{repeated} draws are {where}; sample one table with another `stream`")
