"""From scored answers to rankings and best answers of a block of prompts."""

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.judging.grouping import Ints, Selection, indices
from tasks.kinds import Completions


def rankings_of(block: pa.Table, sizes: Ints, *, tokens: bool) -> Selection:
    """Rows of Rankings: the scored answers to each prompt, in order. sizes: `(G,)` answers per prompt.

    tokens: whether every answer has its tokens.
    """
    answers = pl.DataFrame(pl.from_arrow(block.drop_columns(["token_logps"])))
    scored = answers.filter(pl.col("score").is_not_null())
    prompts = scored.group_by("prompt_id", maintain_order=True).agg(
        pl.col("prompt", "truth", "group", "weight", "prompt_tokens").first(),
        completion_ids="completion_id", completions="completion", scores="score",
        completions_tokens="completion_tokens", completions_ended=pl.col("finish_reason") != "length",
    )  # fmt: skip
    several = prompts.filter(pl.col("scores").list.len() > 1)
    ranked = several.filter(pl.col("scores").list.min() < pl.col("scores").list.max())
    return Selection((ranked if tokens else ranked.drop("completions_tokens")).to_arrow(), {
        "prompts": len(sizes), "prompts_short": len(sizes) - len(several), "prompts_level": len(several) - len(ranked),
        "answers_unscored": len(answers) - len(scored),
    })  # fmt: skip


def rankings_by_wins(pairs: pa.Table, sizes: Ints) -> Selection:
    """Rows of Rankings from rows of Preferences: each answer's score is the share of its pairs that it won.

    sizes: `(G,)` pairs per prompt. Tokens are left out where an answer has none.
    """
    frame = pl.DataFrame(pl.from_arrow(pairs))
    shared = ("prompt", "truth", "group", "weight", "prompt_tokens")
    sides = [
        frame.select(
            "prompt_id", *shared, id=f"{side}_id", text=side, tokens=f"{side}_tokens", ended=f"{side}_ended",
            won=pl.lit(won),
        )
        for side, won in (("chosen", 1.0), ("rejected", 0.0))
    ]  # fmt: skip
    answers = pl.concat(sides).group_by("prompt_id", "id", maintain_order=True).agg(
        pl.col(*shared, "text", "tokens").first(), pl.col("ended").first().fill_null(value=True), pl.col("won").mean()
    )  # fmt: skip
    prompts = answers.sort("id", maintain_order=True).group_by("prompt_id", maintain_order=True).agg(
        pl.col(shared).first(), completion_ids="id", completions="text", scores="won", completions_tokens="tokens",
        completions_ended="ended",
    )  # fmt: skip
    order = frame.select("prompt_id").unique(maintain_order=True).join(prompts, on="prompt_id", maintain_order="left")
    ranked = order.filter(pl.col("scores").list.max() > pl.col("scores").list.min())
    complete = not answers["tokens"].null_count() and not answers["prompt_tokens"].null_count()
    return Selection((ranked if complete else ranked.drop("completions_tokens")).to_arrow(), {
        "prompts": len(sizes), "prompts_level": len(order) - len(ranked),
    })  # fmt: skip


def best_answers(block: pa.Table, sizes: Ints, n: int) -> Selection:
    """The n best answers to each prompt, best first; the first row of equal scores or equal texts.

    sizes: `(G,)` answers per prompt.
    """
    answers = pl.DataFrame({
        "prompt": np.repeat(np.arange(len(sizes)), sizes), "text": pl.Series(block.column("completion")),
        "score": pl.Series(block.column("score")),
    }).with_row_index("row")  # fmt: skip
    usable = answers.filter(pl.col("score").is_not_null() & (pl.col("text").str.strip_chars() != ""))
    ordered = usable.sort("prompt", "score", descending=[False, True], maintain_order=True)
    distinct = ordered.unique(["prompt", "text"], keep="first", maintain_order=True)
    best = distinct.group_by("prompt", maintain_order=True).head(n)
    rows = block.select(Completions.SCHEMA.names).take(indices(best["row"].to_numpy().astype(np.int64)))
    without = len(sizes) - usable["prompt"].n_unique()
    return Selection(rows, {"prompts": len(sizes), "prompts_without_answer": without, "answers": len(best)})
