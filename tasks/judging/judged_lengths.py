"""Judged pairs with the lengths of their answers, of our own tables and of files of annotations."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from tasks.contract import DataError
from tasks.judging.length_control import LengthRows, in_deviations
from tasks.judging.quantities import Quantity, mean_by_prompt
from tasks.kinds import Completions, Report, WinProbs


def lengths_of(completions: Completions) -> pl.DataFrame:
    """prompt_id, completion_id and characters of each answer."""
    frame = pl.DataFrame(pl.from_arrow(completions.table.select(["prompt_id", "completion_id", "completion"])))
    if frame.is_empty() or frame["completion_id"].n_unique() != len(frame):
        raise DataError("the table of answers is empty or contains a draw twice")
    return frame.select("prompt_id", "completion_id", characters=pl.col("completion").str.len_chars().cast(pl.Float64))


def difficulties(report: Report, quantity: str) -> pl.DataFrame:
    """prompt_id and difficulty. Raises DataError where the Report has no such metric by prompt."""
    if report.per_prompt is None or quantity not in report.per_prompt.column_names:
        raise DataError(f"`difficulty` has no values of '{quantity}' by prompt")
    table = pl.DataFrame(pl.from_arrow(report.per_prompt))
    return table.select("prompt_id", difficulty=pl.col(quantity).cast(pl.Float64))


def length_rows_of(
    win_probs: WinProbs, answers: pl.DataFrame, baseline: pl.DataFrame, difficulty: pl.DataFrame | None
) -> tuple[LengthRows, int]:
    """The answered pairs, P averaged over both orders, and the number of prompts without any.

    Raises DataError for questions about other answers, and for a prompt without a difficulty.
    """
    pairs = win_probs.frame.group_by("prompt_id", "a_id", "b_id", maintain_order=True).agg(pl.col("p").mean())
    sides = {"a_id": ("answer", answers), "b_id": ("baseline", baseline)}
    for ids, (name, table) in sides.items():
        lengths = table.rename({"completion_id": ids, "characters": name})
        joined = pairs.join(lengths, on=["prompt_id", ids], how="inner", maintain_order="left")
        if len(joined) < len(pairs):
            raise DataError(f"{len(pairs) - len(joined)} of {len(pairs)} pairs have an {ids} that is not an answer of "
                            f"its side ({name})")  # fmt: skip
        pairs = joined
    known = pairs.drop_nulls("p")
    missing = answers["prompt_id"].n_unique() - known["prompt_id"].n_unique()
    hard = None
    if difficulty is not None:
        known = known.join(difficulty, on="prompt_id", how="left", maintain_order="left")
        if lacking := known["difficulty"].null_count():
            raise DataError(f"{lacking} of {len(known)} pairs are of prompts without a difficulty")
        hard = known["difficulty"].to_numpy()
    lengths_apart = in_deviations((known["baseline"] - known["answer"]).to_numpy())
    return LengthRows(known["prompt_id"].to_list(), known["p"].to_numpy(), lengths_apart, hard), missing


def annotated_lengths(table: pl.DataFrame, difficulty: Sequence[float] | None) -> LengthRows:
    """The annotated rows of `annotation_frame`; lengths are standardised over all rows, as AlpacaEval does."""
    lengths = in_deviations((table["baseline_characters"] - table["characters"]).to_numpy())
    answered = table["p"].is_not_null().to_numpy()
    hard = None if difficulty is None else np.array(difficulty, np.float64)[answered]
    prompts = table.filter(answered)["prompt_id"].to_list()
    return LengthRows(prompts, table["p"].drop_nulls().to_numpy(), lengths[answered], hard)


def annotation_frame(rows: Sequence[tuple[str, str, str, float | None]]) -> pl.DataFrame:
    """prompt_id, p, characters and baseline_characters of rows (prompt_id, baseline's answer, answer, p)."""
    ids, baseline, answers, p = zip(*rows, strict=True)
    return pl.DataFrame(
        {
            "prompt_id": ids, "p": p, "characters": [float(len(a)) for a in answers],
            "baseline_characters": [float(len(b)) for b in baseline],
        },
        schema_overrides={"p": pl.Float64},
    )  # fmt: skip


def annotated_quantities(table: pl.DataFrame) -> Mapping[str, Quantity]:
    """Raw win rate, its wins, ties and losses, and the lengths, by prompt."""
    half = pl.col("p").is_not_null()
    shares = table.select(
        "prompt_id", win_rate="p",
        **{name: pl.when(half).then(won.cast(pl.Float64)) for name, won in (
            ("wins", pl.col("p") > 0.5), ("ties", pl.col("p") == 0.5), ("losses", pl.col("p") < 0.5))},
    )  # fmt: skip
    units = {"win_rate": "probability", "wins": "share", "ties": "share", "losses": "share"}
    found = {name: mean_by_prompt(shares, name, unit) for name, unit in units.items()}
    both = ("characters", "baseline_characters")
    return found | {name: mean_by_prompt(table, name, "characters") for name in both}
