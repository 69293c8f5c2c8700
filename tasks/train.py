"""Training a policy: rows to token ids, log-probabilities of a reference, the fit itself."""

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import HEAVY, SHARED, Resources
from tasks.kinds import AnyTable, Completions, Demonstrations, Labels, Logps, Policy, Preferences, RewardModel, Table
from tasks.ranks import barrier, this_rank
from tasks.training.learner import check_adapter
from tasks.training.passes import (
    CURVES,
    check_optimizer,
    cost_of_passes,
    forward_passes,
    memory_of_passes,
    memory_of_scoring,
    training_by_loss,
)
from tasks.training.settings import ComputeConfig, OptimConfig, RowsConfig, TrainComputeConfig

tokenize_resources = HEAVY
mismatched_answers_resources = Resources()
logps_resources = SHARED
logps_memory = memory_of_scoring
fit_resources = SHARED


def tokenize(
    policy: Policy | RewardModel,
    data: AnyTable,
    work: Workspace,
    *,
    rows: RowsConfig = RowsConfig(),
) -> AnyTable:
    """Fill a table's token columns with the policy's tokenizer and template; skip rows that cannot be trained on.

    Rows whose tokens are already those of the template keep them: what was sampled is what is trained on. Tokens of
    another template are replaced. Rows with an empty side, with identical sides or too long are counted by reason
    and listed in `skipped.jsonl` beside the table; rows that were cut instead are counted. Raises DataError if none is
    left, or too many were skipped.
    """
    from tasks.template import template_digest
    from tasks.training.pair_texts import longest_row
    from tasks.training.tokens import with_tokens
    from tasks.training.truncation import CUT

    longest = rows.max_length or longest_row(policy)
    done = with_tokens(data, policy, longest, rows.truncation)
    if done.other_template:
        work.notice(f"tokens of another template were replaced: {done.rendered} rows rendered again from their texts")
    if done.shortened_prompts:
        work.notice(
            f"in {done.shortened_prompts} rows the prompt's last tokens differ in the conversation: the answers "
            "begin there, with the template's own tokens"
        )
    if done.truncated:
        work.notice(
            f"{done.truncated} rows were longer than {longest} tokens: {CUT[rows.truncation]} were cut off "
            f"(truncation: {rows.truncation})"
        )
        work.count(rows_truncated=done.truncated)
    work.count(rows=len(data))
    log = done.log(type(data).__name__, work, rows.max_skipped)
    return log.save(type(data).of(done.table, {**data.metadata, "template": template_digest(policy)}))


def mismatched_answers(
    policy: Policy,
    data: Labels,
    work: Workspace,
    *,
    max_length: Annotated[int, Bounds(min=2)] | None = None,
    seed: Seed = 0,
) -> Labels:
    """Every row of a tokenized table with the answer of another row to another prompt.

    KTO estimates on them how far the policy is from its reference (`kl_reference` of `tasks.families`). Each answer is
    used once, unless one prompt has more than half the rows. Raises DataError where all rows have one prompt.

    Args:
        max_length: longest row in tokens; longer ones lose the end of the answer. Default: the model's positions.
        seed: which rows exchange their answers.
    """
    from tasks.training.mismatched import partners, with_answers_of
    from tasks.training.model import positions_of

    prompts = data.table.column("prompt_id").to_pylist()
    table, cut = with_answers_of(data, partners(prompts, seed), max_length or positions_of(policy))
    work.count(rows=len(prompts), rows_truncated=cut)
    return Labels.of(table, data.metadata)


def logps(
    policy: Policy,
    data: Table,
    work: Workspace,
    *,
    compute: ComputeConfig = ComputeConfig(),
    weight_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Logps:
    """Log-probability of every answer of a tokenized table under a policy: one row per answer, in the table's order.

    Sums are float64. A policy has the log-probabilities that `fit` computes at its first step, bit for bit. Of pairs
    there are also the sums over as many first tokens as the shorter answer has, for losses that name them: they cost no
    pass of their own, so that losses with and without them share one table.

    Args:
        weight_dtype: that of the `fit` which they are for.
    """
    from functools import partial

    import torch

    from tasks.training.device import this_device
    from tasks.training.logps import AnswerLogps
    from tasks.training.model import keep_memory, open_frozen, open_model
    from tasks.training.opening import open_on_ranks, with_values
    from tasks.training.rows import rows_of, with_common_lengths
    from tasks.training.score import score_rows

    keep_memory()
    rows, of_pairs = rows_of(data, policy), isinstance(data, Preferences)
    outputs = ("", "common") if of_pairs else ("",)
    rows = with_common_lengths(rows) if of_pairs else rows
    device = this_device()
    half = device.dtype(compute.dtype) == torch.bfloat16

    def opening() -> AnswerLogps:
        model = open_frozen(policy, partial(open_model, policy), weight_dtype, half=half).to(device.torch_device)
        with computing():
            return AnswerLogps(model, outputs=outputs)

    # As `fit` computes: equal policies differ by 0.
    computing = partial(torch.autocast, device.kind, torch.bfloat16, enabled=half)
    scorer = with_values(open_on_ranks(opening), device.torch_device)
    with computing():
        most = compute.max_tokens_per_microbatch
        values = score_rows(scorer, rows, device, most, work.progress, this_rank(), outputs=len(outputs))
    work.count(answers=len(rows.answer_ids), tokens=int(rows.tokens.sum()))
    prompt_ids, completion_ids = zip(*rows.keys, strict=True) if rows.answer_ids else ((), ())
    import pyarrow as pa

    table = pa.table({
        "prompt_id": pa.array(prompt_ids, pa.string()), "completion_id": pa.array(completion_ids, pa.string()),
        "logps": pa.array(values[:, 0] if of_pairs else values),
        "lengths": pa.array(rows.answers.lengths, pa.int32()),
    })  # fmt: skip
    if of_pairs:
        table = table.append_column("common_logps", pa.array(values[:, 1]))
        table = table.append_column("common_lengths", pa.array(rows.common, pa.int32()))
    return Logps.of(table, {"template": data.metadata["template"]})


fit_cost = cost_of_passes
fit_work = forward_passes
fit_training = training_by_loss
fit_curves = CURVES
fit_wiring = check_adapter
fit_files = check_optimizer
fit_memory = memory_of_passes


def fit(
    policy: Policy,
    data: Table,
    work: Workspace,
    ref_logps: Logps | None = None,
    anchor_logps: list[Logps] | None = None,
    targets: Demonstrations | Completions | None = None,
    mismatched: Labels | None = None,
    mismatched_logps: Logps | None = None,
    *,
    loss: Annotated[Chosen, Choice("losses")],
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(),
    compute: TrainComputeConfig = TrainComputeConfig(),
    adapter: Annotated[Chosen, Choice("adapters")] | None = None,
    seed: Seed = 0,
) -> Policy:
    """Minimise a loss over a tokenized table, from a policy's weights on.

    With `adapter` small layers learn and the policy's weights stay: the result is an adapter, which needs the policy
    that it started from. A policy that is an adapter goes on with the same one, whose base stays.

    The loss, times the rows' `weight`, is averaged over the whole optimizer batch (`average_over`). A killed fit
    resumes from its last checkpoint and ends in the same bytes on one kind of CPU. Raises DataError if the training
    diverges, if ids do not match those of `ref_logps`, or if the loss misses a value.

    What losses may read besides the table (`tasks.families`): `anchor_logps`, log-probabilities under one or several
    further references, of which the mean counts; `targets`, tokenized, one answer to each prompt; `mismatched`, answers
    to other prompts (`mismatched_answers`), with their log-probabilities under the reference, `mismatched_logps`.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        adapter: what learns beside a frozen model; default: nothing, the whole model learns.
        seed: order of the rows, and a new adapter.
    """
    from functools import partial

    from tasks.training.adapters import chosen_adapter
    from tasks.training.examples import examples_of
    from tasks.training.learner import check_learner, open_learner
    from tasks.training.logps import AnswerLogps
    from tasks.training.loop import Settings, begin, train_model
    from tasks.training.model import open_model, save_model
    from tasks.training.opening import open_on_ranks
    from tasks.training.rows import rows_of
    from tasks.training.targets import with_targets

    learning = chosen_adapter(adapter)
    check_learner(policy, learning, compute.save_dtype)
    begin(len(data), optim, seed)
    rows = rows_of(data, policy)
    examples = examples_of(
        data, rows if targets is None else with_targets(rows, targets, policy), loss, ref_logps,
        anchor_logps=anchor_logps or (), mismatched=rows_of(mismatched, policy) if mismatched else None,
        mismatched_logps=mismatched_logps, average_over=optim.average_over,
    )  # fmt: skip
    scorer = open_on_ranks(
        lambda: open_learner(
            policy, learning, partial(open_model, policy), partial(AnswerLogps, outputs=examples.outputs), compute, seed
        )
    )
    settings = Settings(lr, optim, compute, seed, learning.rank if learning else 0)
    train_model(scorer, examples, loss, settings, work)
    if this_rank().is_first:
        save_model(scorer.model, policy, work.output, compute.save_dtype)
    barrier()
    return Policy(work.output, base=policy.whole if learning else None)
