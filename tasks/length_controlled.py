"""Length-controlled win rates, as AlpacaEval 2 defines them: of our own tables, and of its files of annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tasks.contract import Choice, Chosen, DataError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Completions, Report, WinProbs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.judging.length_control import LengthRows
    from tasks.judging.quantities import Quantity

length_controlled_metrics = {
    "eval/lc_win_rate": Metric(
        "LC win rate\n(95% CI)", ".3f", interval=True, ranks=True, figure="Length-controlled win rate",
        axis="P(policy beats base) at equal length",
    ),
    "eval/characters": Metric("length\n(characters)", ".0f"),
}  # fmt: skip
alpaca_eval_metrics = {
    **length_controlled_metrics,
    "eval/win_rate": Metric("win rate vs. base\n(95% CI)", ".3f", interval=True, role="win_rate"),
}


def length_controlled_evaluation(step: StepView) -> Evaluation:
    from tasks.measure import measure_evaluation

    return measure_evaluation(step)


def length_controlled(
    win_probs: WinProbs,
    completions: Completions,
    others: Completions,
    work: Workspace,
    difficulty: Report | None = None,
    gamed: list[WinProbs] | None = None,
    gamed_completions: list[Completions] | None = None,
    *,
    quantity: str = "difficulty",
    allow_seen: bool = False,
) -> Report:
    """The win rate that a policy would have if its answers were as long as the baseline's (AlpacaEval 2's LC win rate).

    A logistic regression explains P by the difference in length, in characters, by the difficulty of the prompt and by
    a constant; the win rate is its mean prediction for a difference of 0 (`tasks/judging/length_control.py`). P of both
    orders is averaged, and a prompt's pairs share a weight of 1. A policy against itself has ½, with the roles swapped
    1 − LC up to the penalty, and padding the answers moves it far less than the raw win rate. It is not robust against
    attacks: AlpacaEval's constant answer reached 0.865.

    Difficulty and gamed anchors are optional; a notice states which are missing, because numbers with and without them
    are not comparable. AlpacaEval publishes both for its own 805 instructions alone (`alpaca_eval`).

    eval/lc_win_rate: its interval contains the uncertainty of the fit, by the infinitesimal jackknife over prompts,
    whose values by prompt are in `per_prompt` · eval/lc_standard_error: as AlpacaEval states it, that of the mean of
    the predictions, which is 0 without difficulty · eval/length_coefficient: below 0 where the oracle prefers longer
    answers, per standard deviation · eval/characters, eval/baseline_characters.

    Raises DataError for fewer than 5 prompts with an answer from the oracle, questions about other answers, a Report
    without the difficulty of a prompt, or numbers of `gamed` and `gamed_completions` that differ.

    Source: Dubois et al., arXiv 2404.04475, section 3; alpaca_eval/metrics/glm_winrate.py, `length_controlled_v1`.

    Args:
        quantity: of `difficulty`, the metric by prompt that says how hard a prompt is, without `eval/`.
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    from tasks.judging.judged_lengths import difficulties, length_rows_of, lengths_of
    from tasks.judging.quantities import mean_by_prompt

    if len(gamed or ()) != len(gamed_completions or ()):
        raise DataError("`gamed` needs one table of `gamed_completions` for each of its tables")
    hard = None if difficulty is None else difficulties(difficulty, quantity)
    answers, baseline = lengths_of(completions), lengths_of(others)
    rows, missing = length_rows_of(win_probs, answers, baseline, hard)
    if missing:
        work.notice(f"eval/lc_win_rate: {missing} prompts have no answer from the oracle and are left out")
    anchors = [
        length_rows_of(judged, lengths_of(table), baseline, hard)[0]
        for judged, table in zip(gamed or (), gamed_completions or (), strict=True)
    ]
    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    lengths = {
        name: mean_by_prompt(table, "characters", "characters")
        for name, table in (("characters", answers), ("baseline_characters", baseline))
    }
    return _report(rows, anchors, lengths, work)


def alpaca_eval(
    work: Workspace,
    *,
    annotations: Annotated[Chosen, Choice("sources", other="path")],
    anchors: Annotated[Chosen, Choice("sources", other="path")] | None = None,
) -> Report:
    """AlpacaEval 2's win rate and length-controlled win rate of a file of its annotations.

    A row has `instruction`, `output_1` (the baseline's answer), `output_2` (the model's) and `preference`, 1 + P(the
    model's is better); 0 is a tie, and null no answer. Where `generator_1` and `generator_2` are one model, both win
    rates are ½ by definition. `anchors` is AlpacaEval's `df_gamed.csv` (data set tatsu-lab/alpaca_eval), with the
    difficulty of its 805 instructions in the order of the annotations and the rows of two gamed baselines; without it a
    notice states that both are missing, and numbers are not comparable with the leaderboard's.

    eval/win_rate, eval/wins, eval/ties, eval/losses (P above, at, below ½), and the rows of `length_controlled`; a
    model's percentage on the leaderboard is 100 times its value here. Raises DataError for rows that are not
    annotations, for several models in one file, and for anchors of other instructions.

    Source: as `length_controlled`.

    Args:
        annotations: a file (`annotations.json`, or in another format of rows).
        anchors: the difficulties and gamed rows.
    """
    from tasks.formats.annotations import read_anchors, read_annotations
    from tasks.judging.judged_lengths import annotated_lengths, annotated_quantities, annotation_frame

    read = read_annotations(_file(annotations))
    hard, gamed = (None, []) if anchors is None else read_anchors(_file(anchors), len(read.rows))
    table = annotation_frame(read.rows)
    if missing := table["p"].null_count():
        work.notice(f"{missing} of {len(table)} annotations have no preference and are left out")
    return _report(annotated_lengths(table, hard), gamed, annotated_quantities(table), work, itself=read.itself)


def _file(choice: Chosen) -> Path:
    return Path(str(choice.params["path"])).expanduser()


def _report(
    rows: LengthRows, gamed: Sequence[LengthRows], others: Mapping[str, Quantity], work: Workspace, *,
    itself: bool = False,
) -> Report:  # fmt: skip
    """The Report of a regression. itself: the model is its own baseline, so that P is ½ for every prompt."""
    import polars as pl

    from tasks.judging.intervals import interval
    from tasks.judging.length_control import control_length, length_control_of_itself, mean_over_prompts
    from tasks.judging.quantities import Quantity, number_row, quantities_report

    control = length_control_of_itself(rows) if itself else control_length(rows, gamed)
    values = pl.DataFrame({"prompt_id": control.prompts, "value": control.values})
    if itself:
        work.notice("the model is its own baseline: its length-controlled win rate is ½ by definition")
    elif absent := _absent(rows, gamed):
        work.notice(f"LC win rate ({absent}): comparable only with numbers that were made so, not with a leaderboard's")
    raw, controlled = mean_over_prompts(rows), float(control.at_equal_length.mean())
    if _is_extreme(raw, controlled):
        work.notice(
            f"the length-controlled win rate, {controlled:.3f}, is far from the raw one, {raw:.3f}: the regression may "
            "have failed, so look at the lengths"
        )
    n = len(control.prompts)
    quantities = {"lc_win_rate": Quantity(values, "probability"), **others}
    spread = interval(control.at_equal_length, share=True).error
    further = [
        number_row("lc_standard_error", spread, n, "probability"),
        number_row("length_coefficient", control.length, n, "logits per standard deviation"),
    ]
    prompts = list(dict.fromkeys([*control.prompts, *next(iter(others.values())).values["prompt_id"].to_list()]))
    return quantities_report(quantities, prompts, further)


def _absent(rows: LengthRows, gamed: Sequence[LengthRows]) -> str:
    parts = [(rows.difficulty is None, "no instruction difficulty"), (not gamed, "no gamed anchor")]
    return ", ".join(text for missing, text in parts if missing)


def _is_extreme(raw: float, controlled: float) -> bool:
    """Whether they differ by more than 0.1 and by a quarter of what is left to 0 or 1: AlpacaEval warns so."""
    return controlled < min(raw * 3 / 4, raw - 0.1) or controlled > max(raw + (1 - raw) / 4, raw + 0.1)
