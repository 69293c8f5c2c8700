"""Farthest accurate KL: how far from the base a reward model still knows which of two answers is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from tasks.contract import Bounds, DataError, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

accuracy_at_kl_metrics = {
    "eval/farthest_accurate_kl": Metric(
        "accurate to KL\n(nats, 95% CI)", ".2f", interval=True, ranks=True, role="farthest", axis="farthest accurate KL"
    ),
    "eval/accuracy_at_kl": Metric(role="accuracy_at"),
    "eval/kl_at": Metric(role="distance_at", higher_is_better=False),
    "eval/accuracy_bound": Metric(role="accuracy_bound"),
}


def accuracy_at_kl_wiring(step: StepView) -> None:
    """Refuse lists of different lengths: each accuracy needs the KL of the policy that sampled its pairs."""
    accuracies, distances = (len(step.inputs.get(port, ())) for port in ("accuracies", "distances"))
    if accuracies != distances:
        raise SpecError(
            f"`accuracies` has {accuracies} Reports and `distances` {distances}: give one of each per policy"
        )


def accuracy_at_kl_evaluation(step: StepView) -> Evaluation | None:
    """That of all pairs whose accuracies are given."""
    from dataclasses import replace

    from tasks.agree import implicit_accuracy_evaluation, reward_accuracy_evaluation

    known = {"implicit_accuracy": implicit_accuracy_evaluation, "reward_accuracy": reward_accuracy_evaluation}
    each = [known[inner.task](inner) for inner in step.inputs.get("accuracies", ()) if inner.task in known]
    if not each:
        return None
    measured = [table for one in each for table in one.measured]
    return replace(each[-1], title="accuracy of an oracle by distance of the policy", measured=measured,
                   settings={"least accuracy": step.params.get("least_accuracy")},
                   allow_seen=any(e.allow_seen for e in each))  # fmt: skip


def accuracy_at_kl(
    accuracies: list[Report], distances: list[Report], work: Workspace, *,
    least_accuracy: Annotated[float, Bounds(min=0, max=1)] = 0.6,
) -> Report:  # fmt: skip
    """Accuracy of an oracle on pairs of answers of policies at growing KL from the base, and how far it stays good.

    `accuracies` are Reports with eval/accuracy on pairs that one policy each sampled and a better oracle labelled
    (`sample`, `compare`, `pairs`, then `reward_accuracy`, also of an `implicit_reward`); `distances` are Reports with
    eval/kl of the same policies in the same order (`evaluate`). A policy is a bin, numbered from 1 by rising KL.

    eval/accuracy_at_kl/<bin>: its accuracy with its interval · eval/kl_at/<bin>: its KL, nats ·
    eval/farthest_accurate_kl: the largest KL to which the accuracy is at least `least_accuracy`, in this bin and all
    before it; null where it never is. The ends of its interval are the same by the lower and by the upper ends of the
    accuracies' intervals (0 where these never reach the bound) · eval/accuracy_bound: the bound. Nothing is
    interpolated: more policies make it finer. `per_prompt` contains the accuracies of each prompt by bin.

    A reward model that learned from the base's answers is asked about others the farther the policy moves, and where it
    no longer knows the better answer, more reward is no longer better: the KL to train to lies below.

    Raises DataError where a Report lacks its metric, or the lists have different lengths.

    Source: the over-optimisation of Gao et al., arXiv 2210.10760, by its cause, the error of the reward model on what
    the policy samples.

    Args:
        least_accuracy: accuracy that is good enough; labels that are sampled with noise bound the accuracy from above.
    """
    import polars as pl

    if len(accuracies) != len(distances):
        raise DataError(
            f"`accuracies` has {len(accuracies)} Reports and `distances` {len(distances)}: one of each per policy"
        )
    policies = [
        (_row(distance, "eval/kl", "distances", i), _row(accuracy, "eval/accuracy", "accuracies", i), accuracy)
        for i, (accuracy, distance) in enumerate(zip(accuracies, distances, strict=True), 1)
    ]
    policies.sort(key=lambda policy: policy[0]["value"])
    kl = [distance["value"] for distance, _, _ in policies]
    bins = [accuracy for _, accuracy, _ in policies]
    ends = [_farthest(kl, [row[end] for row in bins], least_accuracy) for end in ("value", "ci_low", "ci_high")]
    if ends[0] is None:
        work.notice(
            f"no policy has pairs on which the accuracy is {least_accuracy:g}: it is {bins[0]['value']:.3f} at "
            f"{kl[0]:.2f} nats"
        )
    n = min(row["n"] for row in bins)
    known = all(row["ci_low"] is not None for row in bins)
    low, high = ((end or 0.0) if known else None for end in ends[1:])
    found = [_metric("farthest_accurate_kl", ends[0], low, high, n, "nats")]
    for i, (distance, accuracy, _) in enumerate(policies, 1):
        found.append({**accuracy, "name": f"eval/accuracy_at_kl/{i}"})
        found.append({**distance, "name": f"eval/kl_at/{i}"})
    found.append(_metric("accuracy_bound", least_accuracy, None, None, n, "probability"))
    table = pl.DataFrame(found, schema_overrides={"value": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64})
    report = Report.of(table)
    by_prompt = _by_prompt([accuracy for _, _, accuracy in policies])
    return report if by_prompt is None else report.with_per_prompt(by_prompt)


def _row(report: Report, name: str, port: str, number: int) -> dict[str, Any]:
    rows = {row["name"]: row for row in report.table.to_pylist()}
    if name not in rows or rows[name]["value"] is None:
        raise DataError(f"Report {number} of `{port}` has no value of {name}; it has {sorted(rows)}")
    return rows[name]


def _farthest(kl: Sequence[float], values: Sequence[float | None], bound: float) -> float | None:
    """The KL of the last bin before the first whose value is below the bound, or unknown; None where the first is."""
    found = None
    for distance, value in zip(kl, values, strict=True):
        if value is None or value < bound:
            break
        found = distance
    return found


def _metric(name: str, value: float | None, low: float | None, high: float | None, n: int, unit: str) -> dict[str, Any]:
    return {"name": f"eval/{name}", "value": value, "ci_low": low, "ci_high": high, "n": n, "unit": unit}


def _by_prompt(accuracies: Sequence[Report]) -> pl.DataFrame | None:
    """prompt_id and accuracy_at_kl/<bin> of each prompt of any bin; None where a Report has no values by prompt."""
    import polars as pl

    tables = [report.per_prompt for report in accuracies]
    if any(table is None or "accuracy" not in table.column_names for table in tables):
        return None
    long = pl.concat([
        pl.DataFrame(pl.from_arrow(table.select(["prompt_id", "accuracy"]))).with_columns(
            bin=pl.lit(f"accuracy_at_kl/{i}")
        )
        for i, table in enumerate(tables, 1) if table is not None
    ])  # fmt: skip
    return long.pivot("bin", index="prompt_id", values="accuracy", maintain_order=True)
