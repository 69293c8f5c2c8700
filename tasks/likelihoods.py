"""What a policy's log-probabilities say: perplexity on held-out texts, and how far it moved in a round."""

from __future__ import annotations

import math
from typing import Annotated

from tasks.contract import Bounds, DataError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Completions, Demonstrations, Logps, Report

perplexity_metrics = {
    "eval/perplexity": Metric("perplexity\n(95% CI)", ".2f", interval=True, higher_is_better=False),
    "eval/nats_per_token": Metric("", ranks=True, higher_is_better=False),
}
kl_to_previous_metrics = {"eval/kl_previous": Metric("KL to the\nround before", ".2f", higher_is_better=False)}


def perplexity_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    policy = behind(step, "logps", "policy")
    texts = behind(step, "texts", "data") or step.first("texts")  # before `tokenize`, whose policy was trained, too
    measured = [(texts, [policy] if policy else [])] if texts else []
    return Evaluation(
        "perplexity of texts", measured, policy, texts, allow_seen=step.params.get("allow_seen", False)
    )  # fmt: skip


def kl_to_previous_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, settings_of

    return Evaluation(
        "KL to an earlier policy", measured_tables(step.inputs.get("completions", ())),
        behind(step, "completions", "policy"), behind(step, "completions", "prompts"), behind(step, "logps", "policy"),
        settings=settings_of(step.first("completions")), allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def perplexity(texts: Demonstrations, logps: Logps, work: Workspace, *, allow_seen: bool = False) -> Report:
    """How well a policy predicts held-out texts: the answers of a tokenized table, each after its prompt.

        perplexity = exp(−Σ log π(text | prompt) / Σ tokens),   per byte: exp(−Σ log π / Σ bytes of UTF-8)

    eval/perplexity and eval/byte_perplexity: over all texts as one; their intervals are those of the ratio of sums over
    prompts · eval/nats_per_token and eval/bits_per_byte: the same quotients by prompt, averaged over prompts, which are
    what `per_prompt` contains and `compare` pairs. The token that ends a turn counts as a token. Numbers per token are
    comparable between policies of one tokenizer alone, those per byte between all.

    Raises DataError where the log-probabilities are of other texts, or all texts are empty.

    Source: Jelinek et al., J. Acoust. Soc. Am. 62 (1977).

    Args:
        allow_seen: permit texts that may have trained the policy; a notice says so.
    """
    import polars as pl

    from tasks.judging.intervals import interval
    from tasks.judging.quantities import Quantity, quantities_report

    if allow_seen:
        work.notice("allow_seen: texts of this evaluation may have trained the policy")
    table = pl.DataFrame(pl.from_arrow(texts.table.select(["prompt_id", "completion_id", "completion"])))
    own = pl.DataFrame(pl.from_arrow(logps.table.select(["completion_id", "logps", "lengths"])))
    rows = table.join(own, on="completion_id", how="inner", maintain_order="left")
    if not len(rows) == len(own) == len(table):
        raise DataError(f"`logps` has {len(own)} rows, of which {len(rows)} belong to the {len(table)} texts")
    by_prompt = rows.group_by("prompt_id", maintain_order=True).agg(
        nats=-pl.col("logps").sum(), tokens=pl.col("lengths").cast(pl.Float64).sum(),
        bytes=pl.col("completion").str.len_bytes().cast(pl.Float64).sum(),
    ).filter((pl.col("tokens") > 0) & (pl.col("bytes") > 0))  # fmt: skip
    if by_prompt.is_empty():
        raise DataError("all texts are empty: there is nothing to predict")
    quantities, further = {}, []
    for whole, mean, unit, per, scale in (
        ("perplexity", "nats_per_token", "nats per token", "tokens", 1.0),
        ("byte_perplexity", "bits_per_byte", "bits per byte", "bytes", math.log(2)),
    ):
        values = by_prompt.select("prompt_id", value=pl.col("nats") / pl.col(per))
        ratio = interval(values["value"].to_numpy(), by_prompt[per].to_numpy(), share=False)
        ends = [None if x is None else math.exp(x) for x in (ratio.value, ratio.low, ratio.high)]
        row = ratio._replace(value=ends[0], low=ends[1], high=ends[2]).report_row(whole, f"per {per[:-1]}")
        further.append(row)
        quantities[mean] = Quantity(values.with_columns(pl.col("value") / scale), unit)
    return quantities_report(quantities, by_prompt["prompt_id"].to_list(), further)


def kl_to_previous(
    completions: Completions,
    logps: Logps,
    work: Workspace,
    *,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    allow_seen: bool = False,
) -> Report:
    """How far a policy moved in a round: KL(policy ‖ the policy of the round before), from the policy's own answers.

    eval/kl_previous, nats per answer: mean of log π(y) − log π_previous(y), the estimator k1, as eval/kl is to the
    base.

    Raises DataError where `logps`, the previous policy's log-probabilities of the answers, have other ids or lengths.

    Args:
        temperature: sampling temperature of the answers; affects only the notice.
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    from tasks.judging import measuring as m
    from tasks.judging.quantities import mean_by_prompt, quantities_report

    answers = m.measured_answers(completions)
    if temperature != 1:
        work.notice(
            f"the answers were sampled at temperature {temperature:g}: eval/kl_previous is biased, as it assumes 1"
        )
    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    ratios = mean_by_prompt(m.log_ratios(answers, logps), "kl", "nats")
    return quantities_report({"kl_previous": ratios}, answers.prompts)
