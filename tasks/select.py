"""Selection and combination of rows: pieces, concatenation, win rates, pairs, rankings, best answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, DataError, SpecError, Workspace
from tasks.declarations import Size, StepView
from tasks.kinds import (
    AnyTable,
    Completions,
    Demonstrations,
    Preferences,
    Rankings,
    Scores,
    WinProbs,
    WinRates,
)

if TYPE_CHECKING:
    from tasks.judging.grouping import Selection


def check_comparable(step: StepView) -> None:
    """Refuse one answer per prompt: it has nothing to be compared with, unless another table's answers were."""
    against_others = any(compare.inputs.get("others") for compare in step.inputs.get("win_probs", ()))
    for port in ("completions", "scores"):
        if any(table.k == 1 for table in step.inputs.get(port, ())) and not against_others:
            raise SpecError(f"`{port}` has 1 answer per prompt, but a comparison needs 2: sample with k ≥ 2")


pairs_wiring = check_comparable
rankings_wiring = check_comparable


def take_batch_size(step: StepView) -> Size:
    table = step.inputs["table"][0]
    return Size(min(step.params["size"], table.rows), table.k)


def take_batch(
    table: AnyTable,
    work: Workspace,
    *,
    index: Annotated[int, Bounds(min=1)],
    size: Annotated[int, Bounds(min=1)],
    wrap: bool = False,
) -> AnyTable:
    """Piece number `index` of a table: consecutive rows in the table's order; pieces do not overlap.

    The last piece may be shorter. With `wrap`, pieces continue at the first row after the end and all have `size` rows
    (at most the whole table), with a notice. Without it, raises DataError after the last piece.

    Args:
        index: number of the piece, from 1.
        size: rows of a piece.
        wrap: start again at the first row after the end of the table.
    """
    import pyarrow as pa

    total, start = len(table), (index - 1) * size
    if not total:
        raise DataError(f"the {type(table).__name__} has no rows to take a piece from")
    pieces = -(-total // size)
    if start >= total and not wrap:
        raise DataError(
            f"the {type(table).__name__} is used up: its {total} rows make {pieces} pieces of {size}, so there is no "
            f"piece {index}; use smaller pieces, a larger table, or `wrap: true`"
        )
    if start + size <= total or not wrap:
        if start + size > total:
            work.notice(f"the last piece of {total} rows has {total - start} instead of {size}")
        return type(table).of(table.table.slice(start, size), table.metadata)
    size, start = min(size, total), start % total
    work.notice(f"piece {index} wraps around: the {total} rows make {pieces} pieces, so rows are used again")
    rows = pa.concat_tables([table.table.slice(start, size), table.table.slice(0, max(0, start + size - total))])
    return type(table).of(rows, table.metadata)


def concat_size(step: StepView) -> Size:
    return Size(sum(t.rows for t in step.inputs["tables"]), sum(t.k for t in step.inputs["tables"]))


def concat_wiring(step: StepView) -> None:
    """Rows that are the same draw would count twice."""
    from itertools import combinations

    def drawing(sampling: StepView) -> tuple[object, object]:
        inputs = {port: [id(s) for s in steps] for port, steps in sampling.inputs.items()}
        return inputs, {name: value for name, value in sampling.params.items() if name != "k"}

    for one, other in combinations(step.inputs.get("tables", ()), 2):
        if one is other:
            raise SpecError("two of its `tables` are the same step (or equal steps), so their rows would count twice")
        if one.task == other.task == "sample" and drawing(one) == drawing(other):
            raise SpecError(
                "two of its `tables` are the same draws (policy, prompts, seed, stream and sampling): set another "
                "`stream` for one"
            )


def concat(tables: list[AnyTable], work: Workspace) -> AnyTable:
    """The rows of all tables, in the order of the list. Raises DataError if two rows are the same draw, prompt or pair.

    Rows keep their tokens; `tokenize` renders those without (human pairs beside sampled ones). Tokens of several
    templates are left out, with a notice: `tokenize` renders their texts again, and truncated answers stay truncated.
    """
    from tasks.judging.joining import check_ids, common_metadata, without_tokens

    if not tables:
        raise DataError("there is no table to concatenate: every entry of `tables` is empty in this round")
    check_ids(tables)
    metadata, mixed = common_metadata(tables)
    if mixed:
        work.notice(
            f"the tables have tokens of {mixed} templates; they are left out, and `tokenize` renders the texts again"
        )
    batches = (b for t in tables for b in t.batches())
    return type(tables[0]).of(without_tokens(batches) if mixed else batches, metadata)


def win_rates_wiring(step: StepView) -> None:
    """Refuse questions that are not about the extra samples, where there are any."""
    extra = step.first("extra")
    if extra is None:
        check_comparable(step)
        return
    _check_settings_with_extra(count_self=step.params["count_self"], aggregation=step.params["aggregation"])
    if any(compare.first("others") is not extra for compare in step.inputs["win_probs"] if compare.task == "compare"):
        raise SpecError("`win_probs` must compare `completions` with `extra`: give its `compare` `others: extra`")


def _check_settings_with_extra(*, count_self: bool, aggregation: str) -> None:
    """Raise SpecError for settings of win rates that extra samples exclude."""
    if count_self:
        raise SpecError("with `extra` no answer is its own opponent: set `count_self: false`")
    if aggregation == "scores":
        raise SpecError("`aggregation: scores` needs every two answers of one table compared, and with `extra` only "
                        "answers of different tables are: use `probabilities` or `logits`")  # fmt: skip


def win_rates_size(step: StepView) -> Size:
    answers = step.inputs["completions"][0]
    return Size(answers.rows, answers.k)


def win_rates(
    win_probs: WinProbs,
    completions: Completions,
    work: Workspace,
    extra: Completions | None = None,
    *,
    keep: Literal["all", "best_and_worst"] = "all",
    count_self: bool = True,
    aggregation: Literal["probabilities", "logits", "scores"] = "probabilities",
) -> WinRates:
    """Win rate of each answer: the mean of P over its answered opponents of the same prompt.

    SPPO's P̂(y ≻ π) (arXiv 2405.00675, eq. 4.5; `scripts/compute_prob.py`). The opponents are the other answers; with
    `extra`, B further samples of the same policy, they are these: K·B questions, from `compare` with `others: extra`.
    Then `prompt_win_rates` are the win rates of the extra samples against the K answers, so that P̂ and the log Ẑ of
    the loss `sppo` come from independent samples, and none is compared with itself: set `count_self: false`.

    Prompts in which an answer, or every extra sample, has no answered opponent are left out. Totals: `prompts`,
    `prompts_unanswered`, `prompts_without_extra`, `prompts_tied`. Raises DataError if the ids do not match, a p is
    outside [0, 1], a prompt has no extra sample, or no prompt is left; with `count_self` also where prompts have
    different numbers of answers.

    Args:
        keep: which answers become rows; best_and_worst: the highest and the lowest win rate of each prompt, of equal
            ones the lowest k as best and the highest as worst; prompts whose win rates are all equal are left out.
        count_self: an answer counts as its own opponent, at ½, as in SPPO's code; shrinks P − ½ by (1 − 1/K).
        aggregation: P of two answers from both orders. probabilities: the mean of p. logits: σ of the mean log-odds,
            as PairRM compares. scores: σ(s_i − s_j) with s_i = mean_j (L_ij − L_ji) over all K answers, as SPPO's code
            does with PairRM; prompts that lack an answer are left out.
    """
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.rated import check_extra, check_k, rated_block, select_rated
    from tasks.judging.selection import save_selected

    rows = grouped(completions.table)
    questions = grouped_like(rows, win_probs.table, "win_probs")
    others = None if extra is None else grouped_like(rows, extra.table, "`extra`")
    if others is None:
        check_k(rows, count_self=count_self)
    else:
        _check_settings_with_extra(count_self=count_self, aggregation=aggregation)
        check_extra(others)

    def rated(first: int, last: int) -> Selection:
        block = rated_block(rows, others, questions, first, last, count_self=count_self, aggregation=aggregation)
        return select_rated(block, keep)

    return save_selected(WinRates, rows, rated, completions, work)


def pairs(
    completions: Completions,
    win_probs: WinProbs,
    work: Workspace,
    scores: Scores | None = None,
    *,
    rule: Annotated[Chosen, Choice("pair_rules")],
) -> Preferences:
    """Training pairs from answered questions.

    p = P(chosen beats rejected), the mean over both orders; source = the rule. margin: with `scores`, the score of the
    chosen answer minus that of the other, null where one has none; without, 2p − 1 (P of winning minus P of losing).
    Totals: `prompts`, `prompts_without_pair`, `pairs`. Raises DataError if the ids do not match or no pair is left.

    Args:
        rule: selects answered pairs and the chosen side of each.
    """
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.pair_frames import pairs_by_rule
    from tasks.judging.rates import block_of
    from tasks.judging.selection import save_selected

    rows = grouped(completions.table)
    questions = grouped_like(rows, win_probs.table, "win_probs")
    scored = None if scores is None else grouped_like(rows, scores.table, "scores")

    def kept(first: int, last: int) -> Selection:
        block = block_of(rows, questions, first, last)
        return pairs_by_rule(*block, rule, None if scored is None else scored.rows(first, last))

    return save_selected(Preferences, rows, kept, completions, work)


def gold_pairs_size(step: StepView) -> Size:
    return Size(step.rows_of("completions"))


def gold_pairs(
    demonstrations: Demonstrations,
    completions: Completions,
    work: Workspace,
    *,
    weight: Annotated[float, Bounds(above=0)],
) -> Preferences:
    """Pairs of golden answers and samples to the same prompts: the policy is the reward model's adversary.

    Every sample makes one pair: sample j is paired with golden answer j mod G of its prompt. `weight` is the factor of
    each pair's loss, so that the mean over these and human pairs (weight 1) is the two-stream loss

        (1/n)·[Σ over human pairs −log σ(Δr) + weight·Σ over these −log σ(Δr)],   n = all pairs of both streams

    of Adversarial Preference Optimization, whose weight is coefficient ÷ samples per prompt (0.1 / 4: one of these
    counts as much as 0.025 human pairs). p and margin are unknown; source = gold. Pairs of equal texts are left out,
    and golden answers to prompts without a sample are not used. Totals: `prompts`, `prompts_unsampled`, `pairs`,
    `pairs_identical`. Raises DataError if a sample's prompt has no golden answer, or no pair is left.

    Source: Cheng et al., arXiv 2311.08045, eq. 17; the authors' `tools/apo_data_converter.py` and `ranking_loss`.

    Args:
        weight: factor of each pair's loss: the stream's coefficient ÷ samples per prompt.
    """
    from tasks.judging.grouping import grouped, grouped_like
    from tasks.judging.pair_frames import golden_pairs
    from tasks.judging.selection import save_selections

    template = completions.metadata.get("template")
    gold = grouped(demonstrations.table)
    same_template = template is not None and demonstrations.metadata.get("template") == template
    samples = grouped_like(gold, completions.table, "`completions`")
    make = partial(golden_pairs, gold, samples, weight=weight, gold_tokens=same_template)
    totals = save_selections(Preferences, gold, make, completions, work, "golden answers")
    identical = totals["pairs_identical"]
    text = f"{identical} of {len(completions)} samples equal their golden answer and make no pair"
    if not totals["pairs"]:
        raise DataError(f"no pair is left: {text}")
    if identical:
        work.notice(text)
    return Preferences(work.output)


def rankings_size(step: StepView) -> Size:
    table = step.inputs["scores"][0]
    return Size(table.rows / table.k)


def rankings(scores: Scores, work: Workspace) -> Rankings:
    """The scored answers to each prompt in one row, in sampling order: training data of listwise losses.

    Equal scores are ties, which the loss handles. Answers without a score are left out, and
    prompts with fewer than two scored answers or with one score for all, which have no order. Totals: `prompts`,
    `prompts_short`, `prompts_level`, `answers_unscored`. Raises DataError if no prompt is left.
    """
    from tasks.judging.grouping import grouped
    from tasks.judging.ranking import rankings_of
    from tasks.judging.selection import save_selected

    rows = grouped(scores.table)
    tokens = not any(rows.table.column(f"{t}_tokens").null_count for t in ("prompt", "completion"))
    return save_selected(
        Rankings, rows, lambda *prompts: rankings_of(rows.rows(*prompts), rows.sizes(*prompts), tokens=tokens), scores,
        work,
    )  # fmt: skip


def best_size(step: StepView) -> Size:
    table, n = step.inputs["scores"][0], step.params["n"]
    return Size(table.rows / table.k * min(n, table.k), min(n, table.k))


def best(scores: Scores, work: Workspace, *, n: Annotated[int, Bounds(min=1)] = 1) -> Completions:
    """The n answers to each prompt with the highest scores, best first: training data of rejection sampling.

    Of equal scores the answer that comes first in the table (the lowest k of a sampling) is the better one. Empty
    answers and those without a score are skipped; a text that was sampled several times counts once. A prompt with
    fewer answers gives what it has. Totals: `prompts`, `prompts_without_answer`, `answers`. Raises DataError if no
    prompt has an answer left.

    The distribution of the best of K answers is at most log K − (K − 1)/K nats away from the policy (KL).

    Source: RAFT, Dong et al., arXiv 2304.06767, Algorithm 1 (with its best answer of each prompt).

    Args:
        n: answers kept per prompt.
    """
    from tasks.judging.grouping import grouped
    from tasks.judging.ranking import best_answers
    from tasks.judging.selection import save_selected

    rows = grouped(scores.table)
    return save_selected(
        Completions, rows, lambda *prompts: best_answers(rows.rows(*prompts), rows.sizes(*prompts), n), scores, work
    )
