"""Training a model that compares two answers: pairs as comparisons in random order; the trained model as a judge."""

from typing import Annotated, Literal

from tasks.contract import Bounds, Seed, Workspace
from tasks.declarations import Resources
from tasks.kinds import Policy, PreferenceModel, Preferences, RewardModel, Scores
from tasks.ranks import barrier, this_rank

score_comparisons_resources = Resources()
letter_comparisons_resources = Resources()
as_preference_model_resources = Resources()


def score_comparisons(
    pairs: Preferences,
    work: Workspace,
    *,
    labels: Literal["hard", "soft"] = "hard",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
) -> Scores:
    """Pairs as comparisons for a cross-encoder: both answers as one text, whose score is P(the first is better).

    Which answer comes first is random for each pair, by its ids and the seed alone: neither the table's order nor the
    batch changes it. Pairs with an empty side or with equal sides are counted and listed. Raises DataError if `labels:
    soft` lacks a p, if a p lies outside [0, 1], or if too many pairs cannot be used.

    Args:
        labels: hard: the chosen answer is better; soft: it is better with the probability p of the pair.
        max_skipped: largest share of the pairs that may be unusable; above it the step fails and names them.
        seed: the order of each pair's answers.
    """
    import polars as pl

    from tasks.comparison_text import both_answers
    from tasks.judging.comparisons import SHOWN, comparisons

    made = comparisons(pairs, work, labels, max_skipped, seed)
    texts = [both_answers(*two) for two in made.rows.select("first", "second").iter_rows()]
    first_is_better = pl.when("chosen_first").then("p").otherwise(1 - pl.col("p"))
    return made.log.save(Scores.of(made.rows.select(
        *SHOWN, completion=pl.Series(texts, dtype=pl.String), completion_id="comparison_id", score=first_is_better,
        stream=pl.lit(0, pl.Int64), k=pl.lit(0, pl.Int32), token_logps=pl.lit([], dtype=pl.List(pl.Float32)),
        finish_reason=pl.lit("stop"),
    )))  # fmt: skip


def letter_comparisons(
    policy: Policy,
    pairs: Preferences,
    work: Workspace,
    *,
    labels: Literal["hard", "soft"] = "hard",
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
) -> Preferences:
    """Pairs as comparisons for a causal language model: one user message, answered by the letter of the better answer.

    `chosen` is the letter of the pair's chosen answer, `rejected` the other; p is 1 for hard labels. Order, refusals
    and unusable pairs are those of `score_comparisons`; prompts that use tools are unusable too. Raises DataError
    unless the policy's tokenizer has the letters as two single tokens.

    Args:
        labels: hard: the chosen answer is better; soft: it is better with the probability p of the pair.
        max_skipped: largest share of the pairs that may be unusable; above it the step fails and names them.
        seed: the order of each pair's answers.
    """
    import polars as pl

    from tasks.comparison_text import LETTERS, letter_question
    from tasks.judging.comparisons import SHOWN, comparisons
    from tasks.training.letters import check_letters

    check_letters(policy)
    made = comparisons(pairs, work, labels, max_skipped, seed, tools=False)
    asked = [letter_question(*row) for row in made.rows.select("prompt", "first", "second").iter_rows()]
    letter = {
        side: pl.when(pl.col("chosen_first") == (side == "chosen"))
        .then(pl.lit(LETTERS[0]))
        .otherwise(pl.lit(LETTERS[1]))
        for side in ("chosen", "rejected")
    }
    return made.log.save(Preferences.of(made.rows.select(
        *SHOWN, "p", "source", **letter, chosen_ended=pl.lit(False),
        rejected_ended=pl.lit(False), chosen_id=pl.col("comparison_id") + "-chosen",
        rejected_id=pl.col("comparison_id") + "-rejected",
    ).with_columns(prompt=pl.Series(asked, dtype=made.rows.schema["prompt"]))))  # fmt: skip


def as_preference_model(model: Policy | RewardModel, work: Workspace) -> PreferenceModel:
    """A model that was trained on comparisons, as an oracle that compares two answers.

    A reward model gives the log-odds that the first answer is better (trained on `score_comparisons`), a policy answers
    with a letter (on `letter_comparisons`). The files are copied, and config.json states which of the two it is, so
    that the directory alone can be opened as an oracle.
    """
    from shutil import copytree

    from tasks.training.preference_mark import mark_preference

    if this_rank().is_first:
        copytree(model.path, work.output, dirs_exist_ok=True)
        mark_preference(work.output, "log_odds" if isinstance(model, RewardModel) else "letter")
    barrier()
    return PreferenceModel(work.output, base=model.whole if model.adapter is not None else None)
