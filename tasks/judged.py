"""Judged pairs in other forms: as labels of single answers, and as rankings."""

from __future__ import annotations

from tasks.contract import DataError, Workspace
from tasks.declarations import Size, StepView
from tasks.kinds import Labels, Preferences, Rankings


def labels_size(step: StepView) -> Size:
    return Size(2 * step.rows_of("pairs"))


def labels(pairs: Preferences, work: Workspace) -> Labels:
    """Both answers of each pair on their own: the chosen one is desirable, the other is not.

    One row per judgement: an answer that occurs in several pairs has a row for each, and may be desirable in some and
    undesirable in others. So the mean over an answer's rows is its P(desirable), which a loss of labels learns from and
    which merged rows would lose. Each row has a completion_id of its own, made of the pair's ids. p and margin are not
    used. Pairs of equal texts are left out, with a notice. Totals: `pairs`, `pairs_identical`. Raises DataError if no
    pair is left.
    """
    from tasks.judging.labelling import labels_of

    rows, identical = labels_of(pairs.table)
    text = f"{identical} of {len(pairs)} pairs have two equal answers and give no label"
    if not rows.num_rows:
        raise DataError(f"no label is left: {text}")
    if identical:
        work.notice(text)
    work.count(pairs=len(pairs), pairs_identical=identical)
    return Labels.of(rows, pairs.metadata)


def rankings_of_pairs(pairs: Preferences, work: Workspace) -> Rankings:
    """The answers to each prompt that people compared, ranked by the share of its pairs that each won.

    Training data of listwise losses where people judged pairs, not lists; one pair per prompt gives rankings of two.
    Answers of a prompt come in order of their ids. p and margin are not used; a row's weight is that of the prompt's
    first pair. Prompts in which every answer won an equal share have no order and are left out. Totals: `prompts`,
    `prompts_level`. Raises DataError if no prompt is left.
    """
    from tasks.judging.grouping import grouped
    from tasks.judging.ranking import rankings_by_wins
    from tasks.judging.selection import save_selected

    rows = grouped(pairs.table)
    return save_selected(
        Rankings, rows, lambda *prompts: rankings_by_wins(rows.rows(*prompts), rows.sizes(*prompts)), pairs, work
    )
