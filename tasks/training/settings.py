"""Parameters that several trainings share, as groups: one keyword-only argument of a task or composite each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, Execution


@dataclass(frozen=True)
class StepConfig:
    """How gradients become updates."""

    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up; linear and cosine end at 0."""
    warmup: Annotated[float, Bounds(min=0, max=1)] = 0.1
    """Share of the training over which the learning rate rises linearly from 0."""
    optimizer: Annotated[Chosen, Choice("optimizers")] = "adamw"  # type: ignore[assignment]
    """What makes updates of gradients, and the state that it keeps."""
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0
    """Gradients are scaled down to this global norm, those of two networks each for itself."""

    def lr_at(self, step: int, steps: int, lr: float) -> float:
        """Learning rate of optimizer step `step`, counted from 0.

        It rises in equal parts over the first `warmup` share of the steps, none of which is wasted at 0, then falls to
        0 behind the last step (linear, cosine) or stays.
        """
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return lr * (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return lr
        share = (step - rising) / max(1, steps - rising)
        return lr * (1 - share) if self.schedule == "linear" else lr * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class OptimConfig(StepConfig):
    """How a model is trained on a table."""

    epochs: Annotated[int, Bounds(min=1)] = 1
    """Passes over the data, each in its own seeded order."""
    steps: Annotated[int, Bounds(min=1)] | None = None
    """Optimizer steps, instead of epochs."""
    batch: Annotated[int, Bounds(min=1)] = 32
    """Rows per optimizer step, over all devices."""
    average_over: Literal["rows", "weights"] = "rows"
    """What the sum of loss × weight over an optimizer batch is divided by: its rows, so that a batch of small weights
    makes a small step; or the sum of its weights, so that every batch counts alike, whatever its weights sum to."""

    def rows_in_all(self, rows: int) -> int:
        """How many rows the training sees, counted as often as they come."""
        return self.steps * self.batch if self.steps else self.epochs * rows


@dataclass(frozen=True)
class ComputeConfig:
    """What the models compute in, and how much at once."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that the model computes in; auto: float32 on a CPU, bfloat16 on a GPU. Weights that learn are float32."""
    max_tokens_per_microbatch: Execution[int] = 0
    """Largest number of tokens that go through a model together, padding included; 0: what fits."""


@dataclass(frozen=True)
class GradientComputeConfig(ComputeConfig):
    """The same of models that learn."""

    gradient_checkpointing: Execution[Literal["auto", "on", "off"]] = "auto"
    """Whether every layer keeps its input alone and computes its activations again in the backward pass: equal to the
    bit, a third more time, a tenth of the memory. auto: where the training would not fit on the device otherwise."""


@dataclass(frozen=True)
class TrainComputeConfig(GradientComputeConfig):
    """The same of a training, and what it stores."""

    weight_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and gradients while the model is trained. With bfloat16 the optimizer steps on float32 copies. An
    adapter is float32; here it is the type of its frozen base."""
    save_dtype: Literal["float32", "bfloat16", "split"] = "float32"
    """Type that the result is stored in, whatever the source's. bfloat16 halves it and rounds changes below 1/512 of a
    weight away, so that a next round would not go on from them. split: bfloat16 for those who sample, and what rounding
    took in `state/`, for trainings. An adapter is always stored in float32."""
    checkpoint_every: Execution[Annotated[int, Bounds(min=1)] | None] = None
    """Optimizer steps between two checkpoints; null: 50 where a checkpoint is below 1 GiB, else time alone decides.
    There is one behind the last step too."""
    checkpoint_minutes: Execution[Annotated[float, Bounds(above=0)]] = 15.0
    """Longest time between two checkpoints."""


@dataclass(frozen=True)
class RowsConfig:
    """Which rows of a table are trained on."""

    max_length: Annotated[int, Bounds(min=2)] | None = None
    """Longest row in tokens, prompt and answer together; default: the model's positions."""
    truncation: Literal["refuse", "keep_end", "keep_start"] = "refuse"
    """What becomes of longer rows. `refuse`: they are unusable; `keep_end`: the beginning of the prompt is cut off, but
    for its BOS; `keep_start`: the end of the answer."""
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1
    """Largest share of the rows that may be unusable; above it `tokenize` fails and names them. Rows that a policy
    sampled, which come with their tokens, do not count."""
