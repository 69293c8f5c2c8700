"""Several annotators of the same pairs, people or oracles: how far they agree, and the verdict of most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, DataError, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Report, WinProbs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from tasks.judging.agreement import Agreement
    from tasks.judging.intervals import Interval
    from tasks.judging.verdicts import JointVerdicts

agreement_metrics = {
    "eval/alpha": Metric("Krippendorff's alpha\n(95% CI)", ".3f", interval=True, of_run=True),
    "eval/fleiss_kappa": Metric("Fleiss' kappa\n(95% CI)", ".3f", interval=True, of_run=True),
    "eval/accuracy": Metric(role="same_verdict"),
    "eval/kappa": Metric(role="kappa"),
}  # fmt: skip


def agreement_wiring(step: StepView) -> None:
    tables, names = len(step.inputs["win_probs"]), step.params["names"]
    reference = step.params["reference_name"] if step.inputs.get("reference") else None
    if len(names) != tables:
        raise SpecError(f"names = {names}; there must be one for each of the {tables} tables of `win_probs`")
    check_names([*names, *([reference] if reference else [])])


def check_names(names: list[str]) -> None:
    """Raise SpecError for names of annotators that are empty, equal, or hold a slash."""
    wrong = [name for name in names if not name.strip() or "/" in name]
    if wrong or len(set(names)) < len(names):
        raise SpecError(f"names = {names}; they must differ, and must not be empty or contain a slash")


def agreement_evaluation(step: StepView) -> Evaluation:
    judgements = [*step.inputs["win_probs"], *step.inputs.get("reference", ())]
    by_oracle = [(table, [one for one in (table.first("oracle"),) if one]) for table in judgements]
    measured = [
        (answers, oracles)
        for table, oracles in by_oracle for port in ("completions", "others", "pairs")
        for answers in table.inputs.get(port, ())
    ]  # fmt: skip
    reference = step.first("reference")
    return Evaluation(
        "agreement of annotators", measured, data=measured[0][0] if measured else judgements[0],
        oracle=reference.first("oracle") if reference else None,
        settings={"width of a tie": step.params["tie_within"], "annotators": step.params["names"]},
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def agreement(
    win_probs: list[WinProbs],
    work: Workspace,
    reference: WinProbs | None = None,
    *,
    names: list[str],
    reference_name: str = "reference",
    tie_within: Annotated[float, Bounds(min=0, max=0.5)] = 0.0,
    allow_seen: bool = False,
) -> Report:
    """How far annotators agree: people and oracles that judged the same pairs, each by a table of its own.

    A table is what `compare`, `compare_pairs` or `load_judgements` makes; one in which several people answered has a
    verdict of each. A verdict is that the one answer wins, that the other does, or a tie, which counts as a third; of a
    pair in both orders it is that of the mean P. Pairs that an annotator did not answer count where others did. Kappas
    depend on which answer of a pair counts as the first (it is that of the first table that has the pair, the reference
    before all others), because annotators who favour one side agree more often by chance.

    eval/accuracy/A/B: share of the pairs that both A and B answered on which their verdict is the same, which is the
    accuracy of one as a prediction of the other · eval/kappa/A/B: Cohen's kappa, the same beyond chance: 0 for
    independent annotators, 1 where they always agree · eval/fleiss_kappa: Fleiss' kappa of all, on the pairs that all
    answered · eval/alpha: Krippendorff's alpha of all, on every pair that two or more answered. `reference` has a row
    in the matrix of accuracies and kappas and does not count in Fleiss' kappa and alpha. Intervals are 95%, over
    prompts: Wilson's for accuracies, else the quantiles of 2,000 resamples of the prompts. There is no value where
    kappas are undefined (all verdicts are equal). `per_prompt` contains each accuracy by prompt.

    Raises DataError if no pair was answered by two annotators, or the reference has several annotators.

    Source: Cohen (1960), Fleiss (1971), Krippendorff (2011), as in `tasks/judging/agreement.py`.

    Args:
        names: of the tables, in their order.
        reference: what the others are measured by: people's majority, a gold oracle, the labels of a data set.
        reference_name: its name.
        tie_within: |P − ½| up to which an answer counts as a tie.
        allow_seen: permit prompts that may have trained an oracle; a notice says so.
    """
    import numpy as np
    import polars as pl

    from tasks.judging.agreement import agreement_of
    from tasks.judging.verdicts import verdicts_of

    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained an oracle")
    tables = [*([reference] if reference else []), *win_probs]
    made = verdicts_of(tables, [*([reference_name] if reference else []), *names], tie_within)
    if len(made.names) < 2:
        raise DataError(f"agreement needs two annotators with answers, and the tables have {len(made.names)}")
    referees = _referees(made, reference, reference_name)
    _report_missing(made, work)
    prompts = made.prompts
    whole = agreement_of(made.verdicts, prompts)
    if referees:
        ours = agreement_of(made.verdicts[:, referees:], prompts)
        whole = whole._replace(fleiss=ours.fleiss, alpha=ours.alpha)
    if not any(interval.n for interval in whole.accuracy.values()):
        raise DataError(f"no pair was answered by two of {', '.join(made.names)}: they must judge the same answers")
    report = Report.of(pl.DataFrame(list(_rows(whole, made.names)), infer_schema_length=None))
    return report.with_per_prompt(_by_prompt(made, np.array(list(whole.accuracy))))


def majority(win_probs: list[WinProbs], work: Workspace) -> WinProbs:
    """The verdict that most annotators gave of each pair: of several people, or of a jury of oracles.

    p is 1 or 0 where most called the one or the other answer better, ½ where most called it a tie, and null where two
    verdicts are the most frequent or nobody answered. Each annotator of each table has one vote. Totals: `pairs`,
    `pairs_without_majority`.

    Source: the jury of Verga et al., arXiv 2404.18796, whose members vote.
    """
    import numpy as np
    import polars as pl

    from tasks.judging.agreement import most_frequent_verdict
    from tasks.judging.verdicts import verdicts_of

    made = verdicts_of(win_probs, [str(n) for n in range(1, len(win_probs) + 1)])
    won = most_frequent_verdict(made.verdicts)
    work.count(pairs=len(won), pairs_without_majority=int(np.isnan(won).sum()))
    return WinProbs.of(made.pairs.with_columns(p=pl.Series((won + 1) / 2).fill_nan(None)))


def _referees(made: JointVerdicts, reference: WinProbs | None, name: str) -> int:
    """How many of the annotators are the reference: 0 or 1."""
    if reference is None:
        return 0
    several = reference.table.column("annotator").unique()
    if len(several) > 1:
        raise DataError(f"`reference` has {len(several)} annotators; make one verdict of theirs by `majority`")
    made.names[0] = name
    return 1


def _report_missing(made: JointVerdicts, work: Workspace) -> None:
    import numpy as np

    answered = (~np.isnan(made.verdicts)).sum(axis=0)
    few = [f"{name} {n:,}" for name, n in zip(made.names, answered, strict=True) if n < len(made.pairs)]
    if few:
        work.notice(f"of {len(made.pairs):,} pairs these annotators answered fewer: {', '.join(few)}")


def _rows(made: Agreement, names: list[str]) -> Iterator[dict[str, object]]:
    """The rows of the Report: the summaries, then both matrices."""
    summaries: dict[str, Interval] = {"alpha": made.alpha, "fleiss_kappa": made.fleiss}
    for name, value in summaries.items():
        yield value.report_row(name, "kappa")
    for what, matrix, unit in (("accuracy", made.accuracy, "probability"), ("kappa", made.kappa, "kappa")):
        for (i, j), value in matrix.items():
            yield value.report_row(f"{what}/{names[i]}/{names[j]}", unit)


def _by_prompt(made: JointVerdicts, couples: object) -> pl.DataFrame:
    """prompt_id and the share of its pairs on which each two annotators agree; null where they share none."""
    import numpy as np
    import polars as pl

    columns = {}
    for i, j in np.asarray(couples).reshape(-1, 2).tolist():
        a, b = made.verdicts[:, i], made.verdicts[:, j]
        same = np.where(np.isnan(a) | np.isnan(b), np.nan, a == b)
        columns[f"accuracy/{made.names[i]}/{made.names[j]}"] = pl.Series(same).fill_nan(None)
    rows = made.pairs.select("prompt_id").with_columns(**columns)
    return rows.group_by("prompt_id", maintain_order=True).agg(pl.all().mean())
