"""Training a reward model on judged answers."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Execution, Seed, SpecError, Workspace
from tasks.declarations import HEAVY
from tasks.kinds import Policy, Preferences, Rankings, RewardModel, Scores
from tasks.training.passes import CURVES, cost_of_passes, rows_trained, training_by_loss

fit_reward_resources = HEAVY
fit_reward_cost = cost_of_passes
fit_reward_work = rows_trained
fit_reward_training = training_by_loss
fit_reward_curves = CURVES


def fit_reward(
    policy: Policy | RewardModel,
    data: Preferences | Rankings | Scores,
    work: Workspace,
    *,
    loss: Annotated[Chosen, Choice("losses/reward")],
    lr: Annotated[float, Bounds(above=0)],
    epochs: Annotated[int, Bounds(min=1)] = 1,
    steps: Annotated[int, Bounds(min=1)] | None = None,
    batch: Annotated[int, Bounds(min=1)] = 64,
    optimizer: Literal["adamw", "rmsprop"] = "adamw",
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - signatures are read as literals
    schedule: Literal["linear", "cosine", "constant"] = "cosine",
    warmup: Annotated[float, Bounds(min=0, max=1)] = 0.03,
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    save_dtype: Literal["float32", "bfloat16"] = "float32",
    seed: Seed = 0,
    max_tokens_per_microbatch: Execution[int] = 0,
    checkpoint_every: Execution[int] = 50,
) -> RewardModel:
    """Minimise a loss over the scores of tokenized answers: a linear head, read at the last token of each.

    From a policy's weights with a head drawn anew, or from a sequence-classification checkpoint with its own. Head
    and loss compute in float32. On pairs and rankings only differences of scores are learnt. The result is a Hugging
    Face directory that AutoModelForSequenceClassification opens with the same scores. A killed fit goes on from its
    last checkpoint and ends in the same bytes on one kind of CPU. Raises DataError if the training diverges, if the
    tokenizer has no EOS or if the architecture has no such head.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        epochs: passes over the data, each in its own seeded order; a second one overfits.
        steps: optimizer steps, instead of epochs.
        batch: rows (pairs, rankings, scored answers) per optimizer step.
        optimizer: AdamW, or RMSprop.
        betas: AdamW's two decay rates.
        schedule: how the learning rate falls after the warm-up; linear and cosine end at 0.
        warmup: share of the steps over which the learning rate rises linearly from 0.
        max_grad_norm: gradients are scaled down to this global norm.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        dtype: type that the body computes in; auto: float32 on a CPU, bfloat16 on a GPU. Weights are kept in float32.
        save_dtype: type that the result is stored in, whatever the source's. bfloat16 halves it and rounds changes
            below 1/512 of a weight away, so that a next round would not go on from them.
        seed: the new head, and the order of the rows.
        max_tokens_per_microbatch: most tokens that go through the model together, padding included; 0: what fits.
        checkpoint_every: optimizer steps between two checkpoints; there is one behind the last step too.
    """
    import torch
    from accelerate import Accelerator

    from tasks.training.examples import examples_of
    from tasks.training.loop import Settings, train_model
    from tasks.training.model import keep_memory, packing_for, pick_device, pick_dtype
    from tasks.training.reward import open_reward_model, save_reward_model
    from tasks.training.rows import rows_of
    from tasks.training.scores import AnswerScores, with_end_token

    if len(betas) != 2:
        raise SpecError(f"betas = {betas}; AdamW has two, such as [0.9, 0.999]")
    keep_memory()
    device = pick_device()
    half = pick_dtype(dtype, device) == torch.bfloat16
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")
    torch.manual_seed(seed)
    model = open_reward_model(policy, torch.float32, seed)
    examples = examples_of(data, with_end_token(rows_of(data, policy)), loss, None, RewardModel)
    settings = Settings(
        steps * batch if steps else epochs * len(data), lr, batch, optimizer, (betas[0], betas[1]), schedule, warmup,
        max_grad_norm, weight_decay, seed, checkpoint_every,
    )  # fmt: skip
    packing = packing_for(model, max_tokens_per_microbatch)
    train_model(accelerator, AnswerScores(model), examples, loss, settings, packing, work)
    save_reward_model(model, policy, work.output, save_dtype)
    return RewardModel(work.output)
