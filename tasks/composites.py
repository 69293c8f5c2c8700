"""Steps made of steps: light functions that only add steps, at compile time. Their own code is in no key.

Each has the signature of a task behind a first argument `add(task, name=None, **inputs)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from tasks.contract import Add, Bounds, Choice, ChoiceSpec
    from tasks.kinds import Policy, Table


def train(
    add: Add,
    policy: Policy,
    data: Table,
    ref: Policy | None = None,
    *,
    loss: Annotated[ChoiceSpec, Choice("losses")],
    lr: Annotated[float, Bounds(above=0)],
    epochs: Annotated[int, Bounds(min=1)] = 1,
    steps: Annotated[int, Bounds(min=1)] | None = None,
    batch: Annotated[int, Bounds(min=1)] = 32,
    optimizer: Literal["adamw", "rmsprop"] = "adamw",
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - read as a literal
    schedule: Literal["linear", "cosine", "constant"] = "linear",
    warmup: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0,
    weight_decay: Annotated[float, Bounds(min=0)] = 0.0,
    max_length: Annotated[int, Bounds(min=2)] | None = None,
    seed: int = 0,
) -> Policy:
    """Train a policy on a table: tokenize, reference log-probabilities (where the loss names one), fit.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        epochs: passes over the data.
        steps: optimizer steps, instead of epochs.
        batch: rows per optimizer step, over all devices.
        optimizer: AdamW, or RMSprop as the first codes of DPO and SPPO.
        betas: AdamW's two decay rates.
        schedule: how the learning rate falls after the warm-up; linear and cosine end at 0.
        warmup: share of the steps over which the learning rate rises linearly from 0.
        max_grad_norm: gradients are scaled down to this global norm.
        weight_decay: AdamW's decoupled weight decay.
        max_length: longest row in tokens, prompt and answer together; default: the policy's positions.
        seed: order of the rows.
    """
    rows = add("tokenize", policy=policy, data=data, max_length=max_length)
    needs_ref = any(name.startswith("ref_") or name == "kl_reference" for name in loss.arguments)
    ref_logps = add("logps", policy=ref, data=rows) if needs_ref and ref is not None else None
    return add(
        "fit", policy=policy, data=rows, ref_logps=ref_logps, loss=loss, lr=lr, epochs=epochs, steps=steps,
        batch=batch, optimizer=optimizer, betas=betas, schedule=schedule, warmup=warmup,
        max_grad_norm=max_grad_norm, weight_decay=weight_decay, seed=seed,
    )  # fmt: skip
