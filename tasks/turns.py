"""Conversations of several turns: the prompts of the next turn, and ratings of the answers by turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.contract import DataError, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, Size, StepView
from tasks.kinds import AnyTable, Completions, Prompts, Report, Scores

if TYPE_CHECKING:
    import polars as pl

turn_ratings_metrics = {
    "eval/rating": Metric("rating\n(95% CI)", ".2f", interval=True, ranks=True, axis="mean rating"),
    "eval/rating/1": Metric("turn 1", ".2f"),
    "eval/rating/2": Metric("turn 2", ".2f"),
    "eval/rating_by_group": Metric(role="group"),
    "eval/unrated": Metric("unrated", ".1%", higher_is_better=False),
}


take_groups_size = Size()  # as many as are of the groups


def take_groups(table: AnyTable, *, groups: list[str], others: list[str] = []) -> AnyTable:
    """The rows of a table whose prompts are of some groups, in their order, for settings that depend on the group.

    Raises DataError where one of the groups has no row, or a row is of a group that is in neither list.

    Args:
        groups: whose rows are taken.
        others: whose rows are left out.
    """
    import polars as pl

    frame = table.frame
    there = frame["group"].unique(maintain_order=True).to_list()
    if missing := [group for group in groups if group not in there]:
        raise DataError(f"no prompt is of the groups {missing}; the groups are {there}")
    if unknown := [group for group in there if group not in (*groups, *others)]:
        raise DataError(f"prompts are of the groups {unknown}, for which nothing is set; set it for all of {there}")
    return type(table).of(frame.filter(pl.col("group").is_in(groups)).to_arrow(), table.metadata)


def next_turn_size(step: StepView) -> Size:
    return Size(step.rows_of("completions"))


def next_turn_wiring(step: StepView) -> None:
    """Refuse several answers per prompt: their conversations may be equal, and a prompt occurs once."""
    for table in step.inputs.get("completions", ()):
        if table.k > 1 and table.task != "concat":  # which may be of tables of different prompts
            raise SpecError(
                f"`completions` has {table.k:g} answers per prompt, and a conversation goes on with one: k = 1"
            )


def next_turn(completions: Completions, work: Workspace) -> Prompts:
    """The prompts of the next turn: each conversation with its answer and what the user says then.

    What the user says is the next text in `turns` of the column `truth`, which `load_prompts` fills from files in
    MT-bench's layout (question_id, category, turns, reference); `truth` and `group` stay. An answer that was cut at its
    length is kept as it is. Conversations without a further turn are left out, with a notice. Raises DataError if none
    has one, or a prompt has several answers.

    Source: FastChat, `gen_model_answer.py`: the answer to the first turn stays in the conversation.
    """
    from tasks.ids import prompt_id
    from tasks.judging.turns import following_question

    rows = completions.table.select(["prompt_id", "prompt", "completion", "truth", "group", "weight"]).to_pylist()
    if len({row["prompt_id"] for row in rows}) < len(rows):
        raise DataError("a prompt has several answers, and a conversation goes on with one: sample with k = 1")
    made = []
    for row in rows:
        question = following_question(row["truth"], row["prompt"])
        if question is not None:
            more = [{"role": "assistant", "content": row["completion"]}, {"role": "user", "content": question}]
            prompt = [*row["prompt"], *more]
            made.append({"prompt_id": prompt_id(prompt), "prompt": prompt,
                         **{name: row[name] for name in ("truth", "group", "weight")}})  # fmt: skip
    if not made:
        raise DataError(
            f"none of {len(rows)} conversations has a further turn; files with `turns`, as MT-bench's, have them"
        )
    if len(made) < len(rows):
        work.notice(f"{len(rows) - len(made)} of {len(rows)} conversations have no further turn and end here")
    import pyarrow as pa

    return Prompts.of(pa.Table.from_pylist(made, Prompts.SCHEMA))


def turn_ratings_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, policies_of, settings_of

    scores = [*step.inputs.get("scores", ())]
    sampled = behind(step, "scores", "completions")
    first = behind(step, "scores", "completions", "tables") or sampled
    return Evaluation(
        "ratings by turn", measured_tables(scores[:1]), next(iter(policies_of(scores[0])), None) if scores else None,
        behind(first, "prompts") if first else None, oracle=behind(step, "scores", "oracle"), scores=scores,
        settings=settings_of(first),
    )  # fmt: skip


def turn_ratings(scores: list[Scores], work: Workspace) -> Report:
    """Ratings of the answers to each turn, and their mean: MT-bench's numbers, where a rater from 1 to 10 scored them.

    `scores` has a table for each turn, in order, whose conversations are those of the first with further turns
    (`next_turn`). An answer whose rating could not be read is dropped and counted.

    eval/rating: mean over all rated answers of all turns · eval/rating/<turn>, from 1: those of a turn ·
    eval/rating_by_group/<group>: those of the prompts of a group (MT-bench's categories) · eval/unrated: share of
    answers without a rating. Intervals are 95%, over conversations (ratio of sums, Student's t). `per_prompt` has
    `rating`, the mean over a conversation's rated turns, and each turn's, by the id of the first turn's prompt.

    Raises DataError if a turn has answers to other conversations, or none is rated.

    Source: Zheng et al., arXiv 2306.05685, section 3.2; FastChat, `show_result.py` (score −1 is dropped; mean over
    turns).
    """
    import polars as pl

    from tasks.judging.intervals import interval

    long = pl.concat([_by_conversation(table, turn) for turn, table in enumerate(scores, 1)])
    first = long.filter(pl.col("turn") == 1)
    foreign = long.join(first, on="prompt_id", how="anti")
    if len(foreign) or first["prompt_id"].is_duplicated().any():
        raise DataError(
            f"{len(foreign)} answers of later turns are to conversations that do not begin with a prompt of the first "
            "turn, or a conversation has several answers: sample each turn with k = 1, from `next_turn`"
        )
    rated = long.drop_nulls("rating")
    if rated.is_empty():
        raise DataError(f"none of {len(long)} answers has a rating")
    if missing := len(long) - len(rated):
        work.notice(f"{missing} of {len(long)} answers have no rating that could be read, and are dropped")

    def row(name: str, part: pl.DataFrame, column: str = "rating", unit: str = "points") -> dict[str, object]:
        sums = part.group_by("prompt_id", maintain_order=True).agg(pl.col(column).mean(), turns=pl.len())
        mean = interval(sums[column].to_numpy(), sums["turns"].to_numpy(), share=unit == "share")
        return mean.report_row(name, unit)

    found = [row("rating", rated)]
    found += [row(f"rating/{turn}", part) for (turn,), part in rated.group_by("turn", maintain_order=True)]
    groups = rated.drop_nulls("group").sort("group", maintain_order=True).group_by("group", maintain_order=True)
    found += [row(f"rating_by_group/{group}", part) for (group,), part in groups]
    missed = long.with_columns(unrated=pl.col("rating").is_null().cast(pl.Float64))
    found.append(row("unrated", missed, "unrated", "share"))
    by_turn = long.with_columns(turn=pl.format("rating/{}", "turn")).pivot("turn", index="prompt_id", values="rating")
    means = long.group_by("prompt_id", maintain_order=True).agg(pl.col("rating").mean())
    return Report.of(pl.DataFrame(found, infer_schema_length=None)).with_per_prompt(
        means.join(by_turn, on="prompt_id", how="left", maintain_order="left")
    )


def _by_conversation(table: Scores, turn: int) -> pl.DataFrame:
    """prompt_id of the conversation's first turn, group, turn and rating of each answer."""
    import polars as pl

    from tasks.ids import prompt_id

    rows = table.table.select(["prompt", "group", "score"]).to_pylist()
    earlier = 2 * (turn - 1)
    return pl.DataFrame(
        [
            {"prompt_id": prompt_id(row["prompt"][: len(row["prompt"]) - earlier]), "group": row["group"], "turn": turn,
             "rating": row["score"]} for row in rows
        ],
        schema={"prompt_id": pl.String, "group": pl.String, "turn": pl.Int64, "rating": pl.Float64},
    )  # fmt: skip
