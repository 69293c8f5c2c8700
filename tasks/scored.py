"""Answers that have scores: acceptance by statistical rejection, comparison without another query, attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, DataError, Seed, SpecError, Workspace
from tasks.declarations import Size, StepView
from tasks.kinds import Scores, WinProbs
from tasks.select import check_comparable

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.judging.grouping import Selection


def statistical_rejection_wiring(step: StepView) -> None:
    """Refuse to accept as many answers as there are: nothing would be rejected."""
    n = step.params["n"]
    for table in step.inputs.get("scores", ()):
        if table.k <= n:
            raise SpecError(
                f"`scores` has {table.k:g} answers per prompt and n = {n} of them are to be accepted, so nothing would "
                "be rejected: sample more (the paper: 64 for n = 8), or accept fewer"
            )


def statistical_rejection_size(step: StepView) -> Size:
    table, n = step.inputs["scores"][0], step.params["n"]
    return Size(table.rows / table.k * n, n)


def statistical_rejection(
    scores: Scores,
    work: Workspace,
    *,
    n: Annotated[int, Bounds(min=1)] = 8,
    beta: Annotated[float, Bounds(above=0)] = 0.5,
    dedupe: bool = False,
    seed: Seed = 0,
) -> Scores:
    """n of the K answers to each prompt, accepted so that they come from π_ref·exp(score/β)/Z instead of π_ref.

    While fewer than n are accepted: m is the highest score of what remains; each remaining answer in turn is accepted
    if u < exp((score − m)/β), u uniform in [0, 1), until there are n; those accepted in the pass are removed. Small β
    takes the n best, large β the answers as they were sampled. It is exact for many candidates. On worlds of 40 answers
    8 of 64 are 0.001 to 0.009 nats off a target that is 0.5 to 0.7 nats away from π_ref, but 0.01 to 0.24 off one that
    is 1.3 to 1.8 nats away (8 of 256: 0.003 to 0.016), and 0.1 to 2.4 with `dedupe`, where a text has one chance
    however often it was sampled.

    The noise belongs to (seed, draw, pass), and the turn to the draw's id: neither the table's order nor its other
    prompts change what is accepted. Answers come in the order of their acceptance, with their scores. Those without a
    score are skipped; empty ones are answers. A prompt with at most n candidates gives all of them, unselected, and a
    notice counts such prompts. Totals: `prompts`, `prompts_unscored`, `candidates`, `answers`, `exhausted`.
    Raises DataError for infinite scores, or if no prompt is left.

    Source: RSO, Liu et al., arXiv 2309.06657, Algorithm 1 (n 8 of 64, β 0.5).

    Args:
        n: answers accepted per prompt.
        beta: temperature of the target distribution, in units of the score.
        dedupe: each text is one candidate, as in the published code (a dict by text); default: each draw is.
        seed: noise of the acceptance.
    """
    from tasks.judging.grouping import grouped
    from tasks.judging.rejection import accepted_answers
    from tasks.judging.selection import save_selected

    rows = grouped(scores.table)
    exhausted = 0

    def accepted(first: int, last: int) -> Selection:
        nonlocal exhausted
        found = accepted_answers(rows.rows(first, last), rows.sizes(first, last), n, beta, seed, dedupe=dedupe)
        exhausted += found.totals["exhausted"]
        return found

    table = save_selected(Scores, rows, accepted, scores, work)
    if exhausted:
        work.notice(f"{exhausted} prompts have at most n = {n} candidates, which were all accepted: none was rejected")
    return table


compare_scores_wiring = check_comparable


def compare_scores_size(step: StepView) -> Size:
    """Every two answers of a prompt."""
    table = step.inputs["scores"][0]
    return Size(table.rows * max(table.k - 1, 0) / 2, table.k)


def compare_scores(scores: Scores, work: Workspace) -> WinProbs:
    """P(a beats b) for every two answers to a prompt by their scores: σ(scale · (score(a) − score(b))), Bradley-Terry.

    What `compare` answers with the same oracle, but nothing is queried; null where an answer has no score. The scale
    is that of the oracle which scored, and stands in the table's metadata. Raises DataError without it.
    """
    from tasks.judging.grouping import by_blocks, grouped
    from tasks.judging.pairing import scores_compared
    from tasks.judging.selection import SCALE

    if SCALE not in scores.metadata:
        raise DataError("the scores have no scale in their metadata: only those that `score` made can be compared")
    scale, rows = float(scores.metadata[SCALE]), grouped(scores.table)

    def compared(first: int, last: int) -> pa.Table:
        return scores_compared(rows.rows(first, last), rows.sizes(first, last), scale)

    WinProbs.of(by_blocks(rows, compared, work)).save(work.output)
    return WinProbs(work.output)


def join_scores_size(step: StepView) -> Size:
    first = step.inputs["tables"][0]
    return Size(first.rows, first.k)


def join_scores(tables: list[Scores], *, names: list[str]) -> Scores:
    """One table of answers that several scorers scored; what each gave is an attribute, and the score is their mean.

    Raises SpecError unless each table has a name of its own, DataError unless all score the same answers.

    Args:
        names: of the attributes, one for each table.
    """
    from tasks.judging.attributes import as_attributes

    return as_attributes(tables, names)


def drop_unscored(
    scores: Scores, work: Workspace, *, max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1
) -> Scores:
    """The rows that have a score, or at least one of the table's attributes; the others are counted and listed.

    Args:
        max_skipped: largest share of rows without any; above it the step fails and lists them.
    """
    import numpy as np
    import pyarrow as pa

    from tasks.skipped import RowLog
    from tasks.training.attribute_targets import attribute_values

    missing = np.isnan(attribute_values(scores)).all(axis=1)
    log = RowLog(work, max_skipped, "Scores", read=len(scores))
    for row in np.flatnonzero(missing).tolist():
        ids = {name: scores.table.column(name)[row].as_py() for name in ("prompt_id", "completion_id")}
        log.skip(row + 1, "no score", **ids)
    kept = scores.table.filter(pa.array(~missing)) if missing.any() else scores.table
    return log.save(Scores.of(kept, scores.metadata))
