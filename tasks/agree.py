"""How often a policy prefers what people preferred: an evaluation that needs pairs and no oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.contract import DataError, Workspace
from tasks.kinds import Logps, Preferences, Report

if TYPE_CHECKING:
    import polars as pl


def agreement(
    pairs: Preferences, logps: Logps, ref_logps: Logps, work: Workspace, *, allow_seen: bool = False
) -> Report:
    """Accuracy of the implicit reward log π(y) − log π_ref(y) on held-out pairs.

        delta = [log π(chosen) − log π_ref(chosen)] − [log π(rejected) − log π_ref(rejected)]

    eval/accuracy: share of pairs with delta > 0; delta = 0 counts one half, so a policy has 0.5 against itself.
    eval/margin: mean delta, nats (DPO's beta is not in it). eval/chosen_longer: share of pairs whose chosen answer has
    more tokens (equal: one half), which is the accuracy of preferring length. Intervals are 95%, over prompts: pairs
    of one prompt are no independent units. Labels that are drawn from p bound the accuracy by the mean of
    max(p, 1 − p). Raises DataError if a pair's ids are missing in one of the two tables of log-probabilities.

    Source: rewards/accuracies of Rafailov et al., arXiv 2305.18290, section 4 (the implicit reward of equation 5).

    Args:
        allow_seen: the prompts may have trained the policy; shown beside the numbers.
    """
    import polars as pl

    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    rows = pairs.frame.select("prompt_id", "chosen_id", "rejected_id")
    for side in ("chosen", "rejected"):
        for name, table in (("policy", logps), ("ref", ref_logps)):
            rows = _joined(rows, table.frame, side, name)
    delta = pl.col("policy_chosen") - pl.col("ref_chosen") - pl.col("policy_rejected") + pl.col("ref_rejected")
    longer = pl.col("policy_chosen_length") - pl.col("policy_rejected_length")
    by_prompt = (
        rows.select("prompt_id", margin=delta, accuracy=_half_at_zero(delta), chosen_longer=_half_at_zero(longer))
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.col("accuracy", "margin", "chosen_longer").mean(), pairs=pl.len())
    )
    units = {"accuracy": "probability", "margin": "nats", "chosen_longer": "probability"}
    report = Report.of(pl.DataFrame([_estimate(by_prompt, name, unit) for name, unit in units.items()]))
    return report.with_per_prompt(by_prompt)


def _joined(rows: pl.DataFrame, logps: pl.DataFrame, side: str, name: str) -> pl.DataFrame:
    """`rows` with `{name}_{side}` and its length, found by prompt and answer."""
    import polars as pl

    found = logps.unique(["prompt_id", "completion_id"]).select(
        "prompt_id",
        pl.col("completion_id").alias(f"{side}_id"),
        pl.col("logps").alias(f"{name}_{side}"),
        pl.col("lengths").cast(pl.Int64).alias(f"{name}_{side}_length"),
    )
    joined = rows.join(found, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    missing = joined[f"{name}_{side}"].null_count()
    if missing:
        raise DataError(f"{missing} {side} answers of {len(rows)} pairs have no log-probability under the {name}")
    return joined


def _half_at_zero(expression: pl.Expr) -> pl.Expr:
    """1 above zero, 0 below, one half at zero."""
    return (expression.sign() + 1) / 2


def _estimate(by_prompt: pl.DataFrame, name: str, unit: str) -> dict[str, object]:
    """Mean over pairs; its standard error from the prompts' totals (a ratio of sums over independent prompts)."""
    pairs, total = by_prompt["pairs"].to_numpy(), (by_prompt[name] * by_prompt["pairs"]).to_numpy()
    n, value = len(pairs), float(total.sum() / pairs.sum())
    half = None
    if n > 1:
        spread = ((total - value * pairs) ** 2).sum() * n / (n - 1)
        half = 1.96 * float(spread) ** 0.5 / float(pairs.sum())
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"name": f"eval/{name}", "value": value, "ci_low": low, "ci_high": high, "n": n, "unit": unit}
