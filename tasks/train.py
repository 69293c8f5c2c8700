"""Training a policy: rows to token ids, log-probabilities of a reference, the fit itself."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Execution, Seed, SpecError, Workspace
from tasks.declarations import HEAVY
from tasks.kinds import AnyTable, Logps, Policy, RewardModel, Table
from tasks.training.passes import CURVES, cost_of_passes, rows_trained, training_by_loss

tokenize_resources = HEAVY
logps_resources = HEAVY
fit_resources = HEAVY


def tokenize(
    policy: Policy | RewardModel,
    data: AnyTable,
    work: Workspace,
    *,
    max_length: int | None = None,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
) -> AnyTable:
    """Fill a table's token columns with the policy's tokenizer and template; skip rows that cannot be trained on.

    Rows whose tokens are already those of the template keep them: what was sampled is what is trained on. Tokens of
    another template are replaced. Rows with an empty side, with identical sides or too long are counted by reason
    and listed in `skipped.jsonl` beside the table. Raises DataError if none is left, or too many were skipped.

    Args:
        max_length: longest row in tokens, prompt and answer together; default: the policy's positions.
        max_skipped: largest share of the rows rendered here that may be unusable; above it the step fails and names
            them. Rows that a policy sampled, which come with their tokens, do not count.
    """
    from tasks.template import template_digest
    from tasks.training.model import positions_of
    from tasks.training.tokens import with_tokens

    done = with_tokens(data, policy, max_length or positions_of(policy))
    if done.other_template:
        work.notice(f"tokens of another template were replaced: {done.rendered} rows rendered again from their texts")
    if done.shortened_prompts:
        work.notice(
            f"in {done.shortened_prompts} rows the prompt's last tokens differ in the conversation: the answers "
            "begin there, with the template's own tokens"
        )
    work.count(rows=len(data))
    log = done.log(type(data).__name__, work, max_skipped)
    return log.save(type(data).of(done.table, {**data.metadata, "template": template_digest(policy)}))


def logps(
    policy: Policy,
    data: Table,
    work: Workspace,
    *,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    max_tokens_per_microbatch: Execution[int] = 0,
) -> Logps:
    """Log-probability of every answer of a tokenized table under a policy: one row per answer, in the table's order.

    Args:
        dtype: type that the model computes in; auto: float32 on a CPU, bfloat16 on a GPU. Sums are float64.
        max_tokens_per_microbatch: most tokens that go through the model together, padding included; 0: what fits.
    """
    import torch

    from tasks.training.logps import AnswerLogps
    from tasks.training.model import keep_memory, open_model, pick_device, pick_dtype
    from tasks.training.rows import rows_of
    from tasks.training.score import score_rows

    keep_memory()
    rows = rows_of(data, policy)
    device = pick_device()
    half = pick_dtype(dtype, device) == torch.bfloat16
    model = open_model(policy, torch.float32).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):  # as `fit` computes: equal policies differ by 0
        values = score_rows(AnswerLogps(model), rows, max_tokens_per_microbatch, work.progress)
    work.count(answers=len(rows.answer_ids), tokens=int(rows.tokens.sum()))
    prompt_ids, completion_ids = zip(*rows.keys, strict=True) if rows.answer_ids else ((), ())
    import pyarrow as pa

    table = pa.table({
        "prompt_id": pa.array(prompt_ids, pa.string()), "completion_id": pa.array(completion_ids, pa.string()),
        "logps": pa.array(values), "lengths": pa.array(rows.answers.lengths, pa.int32()),
    })  # fmt: skip
    return Logps.of(table, {"template": data.metadata["template"]})


fit_cost = cost_of_passes
fit_work = rows_trained
fit_training = training_by_loss
fit_curves = CURVES


def fit(
    policy: Policy,
    data: Table,
    work: Workspace,
    ref_logps: Logps | None = None,
    *,
    loss: Annotated[Chosen, Choice("losses")],
    lr: Annotated[float, Bounds(above=0)],
    epochs: Annotated[int, Bounds(min=1)] = 1,
    steps: Annotated[int, Bounds(min=1)] | None = None,
    batch: Annotated[int, Bounds(min=1)] = 32,
    optimizer: Literal["adamw", "rmsprop"] = "adamw",
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - signatures are read as literals
    schedule: Literal["linear", "cosine", "constant"] = "linear",
    warmup: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    save_dtype: Literal["float32", "bfloat16"] = "float32",
    seed: Seed = 0,
    max_tokens_per_microbatch: Execution[int] = 0,
    checkpoint_every: Execution[int] = 50,
) -> Policy:
    """Minimise a loss over a tokenized table, from a policy's weights on.

    The loss is averaged over the rows of the whole optimizer batch, times their `weight`. A killed fit goes on from
    its last checkpoint and ends in the same bytes on one kind of CPU. Raises DataError if the training diverges, if
    ids do not match those of `ref_logps`, or if the loss misses a value.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        epochs: passes over the data, each in its own seeded order.
        steps: optimizer steps, instead of epochs.
        batch: rows per optimizer step, over all devices.
        optimizer: AdamW, or RMSprop as the first codes of DPO and SPPO.
        betas: AdamW's two decay rates.
        schedule: how the learning rate falls after the warm-up; linear and cosine end at 0.
        warmup: share of the steps over which the learning rate rises linearly from 0.
        max_grad_norm: gradients are scaled down to this global norm.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        dtype: type that the model computes in; auto: float32 on a CPU, bfloat16 on a GPU. Weights are kept in float32.
        save_dtype: type that the result is stored in, whatever the source's. bfloat16 halves it and rounds changes
            below 1/512 of a weight away, so that a next round would not go on from them.
        seed: order of the rows.
        max_tokens_per_microbatch: most tokens that go through the model together, padding included; 0: what fits.
        checkpoint_every: optimizer steps between two checkpoints; there is one behind the last step too.
    """
    import torch
    from accelerate import Accelerator

    from tasks.training.examples import examples_of
    from tasks.training.logps import AnswerLogps
    from tasks.training.loop import Settings, train_model
    from tasks.training.model import (
        keep_memory,
        open_model,
        packing_for,
        pick_device,
        pick_dtype,
        save_model,
    )
    from tasks.training.rows import rows_of

    if len(betas) != 2:
        raise SpecError(f"betas = {betas}; AdamW has two, such as [0.9, 0.999]")
    keep_memory()
    rows = rows_of(data, policy)
    examples = examples_of(data, rows, loss, ref_logps)
    device = pick_device()
    half = pick_dtype(dtype, device) == torch.bfloat16
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")
    torch.manual_seed(seed)
    model = open_model(policy, torch.float32)
    settings = Settings(
        steps * batch if steps else epochs * len(rows), lr, batch, optimizer, (betas[0], betas[1]), schedule, warmup,
        max_grad_norm, weight_decay, seed, checkpoint_every,
    )  # fmt: skip
    packing = packing_for(model, max_tokens_per_microbatch)
    train_model(accelerator, AnswerLogps(model), examples, loss, settings, packing, work)
    save_model(model, policy, work.output, save_dtype)
    return Policy(work.output)
