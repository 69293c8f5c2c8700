"""A probe of fine-tuning: what else becomes likelier while a policy learns the golden answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, Seed, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, Size, StepView
from tasks.kinds import Demonstrations, Logps, Preferences, Report

if TYPE_CHECKING:
    import polars as pl

KINDS = ("gold", "paraphrase", "rejected", "other prompt's", "random words")
"""Kinds of probe answers, in the order of `tasks.judging.probing.probe_rows`, tables and figures."""


def probe_answers_size(step: StepView) -> Size:
    return Size(len(KINDS) * step.params["size"])


def probe_answers(
    demonstrations: Demonstrations,
    pairs: Preferences,
    work: Workspace,
    *,
    size: Annotated[int, Bounds(min=2)] = 128,
    seed: Seed = 0,
) -> Demonstrations:
    """Five answers to each prompt, of which a policy may learn the first, to see what happens to the others.

    gold: the prompt's first demonstration · paraphrase: the next one with another text · rejected: the rejected side
    of the prompt's first pair · other prompt's: the golden answer to another prompt, each used once · random words: as
    many as the golden answer has, drawn from all golden answers. The kind is the row's `group`, so that `take_groups`
    takes the golden ones for the training. Prompts are those of both tables with two different demonstrations, in
    order. Totals: `prompts`. Raises DataError for fewer than two of them.

    Source: the probing data set of Ren and Sutherland, arXiv 2407.10490, section 4.

    Args:
        size: prompts, at most.
        seed: other prompts and random words.
    """
    from tasks.judging.probing import probe_rows

    rows = probe_rows(demonstrations.frame, pairs.frame, KINDS, size, seed)
    work.count(prompts=len(rows) // len(KINDS))
    return Demonstrations.of(rows)


probe_metrics = {
    **{f"eval/probe_gain/{kind}": Metric(f"{kind}\n(nats)", "+.2f", of_run=True) for kind in KINDS},
    "eval/probe": Metric(role="probe"),
    "eval/probe_change": Metric(role="probe_change"),
}  # fmt: skip


def probe_wiring(step: StepView) -> None:
    tables, at = len(step.inputs["logps"]), step.params["at"]
    if at != sorted({*at}) or not at or at[0] < 1:
        raise SpecError(f"at = {at}; it must name steps from 1 on, in rising order")
    if tables != len(at) + 1:
        raise SpecError(f"`logps` has {tables} tables and at = {at}; there must be one before the training, then one "
                        "for each of these steps")  # fmt: skip


def probe_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    policies = [p for logps in step.inputs.get("logps", ()) for p in logps.inputs.get("policy", ())]
    return Evaluation(
        "log-probabilities of a probe", [], policies[-1] if policies else None, behind(step, "probes", "data"),
        policies[0] if policies else None, settings={"steps": step.params["at"]},
    )  # fmt: skip


def probe(probes: Demonstrations, logps: list[Logps], *, at: list[int]) -> Report:
    """Log-probabilities of five kinds of answers along a training.

    `logps` are of the same tokenized `probes` (`probe_answers`): first of the policy that the training starts from,
    then of the policies after `at` steps of it.

    eval/probe/STEP/KIND: nats per token, Σ log-probabilities / Σ tokens of a kind's answers ·
    eval/probe_change/STEP/KIND: how much log π of an answer changed since the start, nats per answer, the mean over
    prompts of paired differences · eval/probe_gain/KIND: the latter at the last step. Intervals are 95%, over prompts.
    `per_prompt` contains the gains. Learning that stays with the golden answers leaves the others where they are; where
    answers to other prompts and rejected ones rise with them, the policy learns their form, and where even random words
    rise, it forgets the language. Raises DataError where a table lacks a probe.

    Source: Ren and Sutherland, arXiv 2407.10490, section 4.1 (fine-tuning also raises answers to other prompts).

    Args:
        at: optimizer steps of the tables after the first, in rising order.
    """
    import polars as pl

    from tasks.judging.probing import changes, joined_logps, levels

    answers = joined_logps(probes.frame, [table.frame for table in logps], [0, *at])
    rows = [
        *(row for step in (0, *at) for row in levels(answers, step, KINDS)),
        *(row for step in at for row in changes(answers, step, KINDS, f"probe_change/{step}")),
        *changes(answers, at[-1], KINDS, "probe_gain"),
    ]
    return Report.of(pl.DataFrame(rows, infer_schema_length=None)).with_per_prompt(_gains(answers, at[-1]))


def _gains(answers: pl.DataFrame, last: int) -> pl.DataFrame:
    """prompt_id and the change of each kind."""
    import polars as pl

    gains = answers.select("prompt_id", "group", gain=pl.col(f"logps_{last}") - pl.col("logps_0"))
    table = gains.pivot("group", index="prompt_id", values="gain", maintain_order=True)
    return table.rename({kind: f"probe_gain/{kind}" for kind in KINDS})
