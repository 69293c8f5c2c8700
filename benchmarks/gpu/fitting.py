"""One DPO training by alignflow's own tasks, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import safe_open

from benchmarks.gpu.timing import IdleWatch, device_peak_gb, reset_peak
from benchmarks.inputs import Lengths, Shape, TokenCount, count_tokens, preferences_of, shuffled_back, useful_flops
from benchmarks.processes import Stopwatch
from tasks.contract import Chosen
from tasks.kinds import AnyTable, Logps, Policy
from tasks.train import fit, logps, tokenize
from tasks.training.adapters import TENSORS
from tasks.training.settings import OptimConfig, TrainComputeConfig
from tasks.workspace import LocalWorkspace

DPO = Chosen("losses/pairwise", "dpo", {"beta": 0.1})
WARM_UP = 2
"""Steps that are not timed."""
SIZE, CHECKPOINTING = "max_tokens_per_microbatch", "gradient_checkpointing"
"""Fields of `TrainComputeConfig`."""
SETTINGS = {field.name for field in fields(TrainComputeConfig)}
"""All of its fields; a variant that sets another one is skipped."""
LENGTHS = Lengths(prompt=300, answer=350)
TINY_LENGTHS = Lengths(prompt=12, answer=14)


class Data(NamedTuple):
    """Tokenized pairs with their reference log-probabilities. Step i trains on the i-th `batch` of `pairs`."""

    pairs: list[dict[str, str]]
    table: AnyTable
    ref: Logps
    ref_seconds: float


class Variant(NamedTuple):
    """How a training differs from its neighbours; fields of `TrainComputeConfig`."""

    name: str
    steps: int
    compute: Mapping[str, Any] = MappingProxyType({})


class Timed(LocalWorkspace):
    """Remembers when each step ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ends: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        super().log(step, metrics)
        self.ends.append(time.perf_counter())


@dataclass
class Passes:
    """How often the model ran, and on how many tokens, padding included."""

    number: int = 0
    tokens: int = 0


def data_of(policy: Policy, pairs: list[dict[str, str]], folder: Path) -> Data:
    work = LocalWorkspace(folder)
    table = tokenize(policy, preferences_of(shuffled_back(pairs)), work)
    begun = Stopwatch.start()
    ref = logps(policy, table, work)
    return Data(pairs, table, ref, begun.seconds().wall)


def losses_of(work: LocalWorkspace) -> list[float]:
    return [metrics["train/loss"] for _, metrics in work.curves]


def train(policy: Policy, data: Data, work: LocalWorkspace, *, steps: int, batch: int, lr: float = 1e-5,
          adapter: Chosen | None = None, **compute: Any) -> Policy:  # fmt: skip
    """`fit` with DPO. compute: fields of `TrainComputeConfig`; the result is stored in bfloat16."""
    return fit(
        policy, data.table, work, data.ref, loss=DPO, lr=lr, optim=OptimConfig(steps=steps, batch=batch, warmup=0.0),
        compute=TrainComputeConfig(**{"save_dtype": "bfloat16", **compute}), adapter=adapter,
    )  # fmt: skip


def measured(
    policy: Policy, data: Data, shape: Shape, variant: Variant, folder: Path, *, batch: int, ceiling: float | None,
    products: int = 3, adapter: Chosen | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A row: speed, MFU, peak memory, passes and idle share of the steps behind the warm-up. products: of `speeds`."""
    reset_peak()
    work, idle, whole = Timed(folder), IdleWatch(), Stopwatch.start()
    with counted_passes() as passes:
        trained = train(policy, data, work, steps=variant.steps, batch=batch, adapter=adapter, **variant.compute)
    used, idle_share = whole.seconds(), idle.stop()
    first = min(WARM_UP, variant.steps - 1)
    timed = count_tokens(data.pairs[first * batch : variant.steps * batch])
    unique = count_tokens(data.pairs[: variant.steps * batch]).unique
    losses = losses_of(work)
    return {
        "name": variant.name, **speeds(shape, timed, work.ends[-1] - work.ends[first - 1], ceiling, products=products),
        "device_peak_gb": device_peak_gb(), "passes_per_step": passes.number / variant.steps,
        "computed_tokens_per_unique_token": passes.tokens / unique, "idle_share": idle_share, "seconds": used.wall,
        "first_loss": losses[0], "last_loss": losses[-1],
        **({"trained_weights": weights_of(trained.path / TENSORS)} if adapter else {}),
    }  # fmt: skip


def weights_of(file: Path) -> int:
    """How many numbers a safetensors file holds."""
    with safe_open(file, "pt") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def speeds(
    shape: Shape, tokens: TokenCount, seconds: float, ceiling: float | None, *, products: int = 3
) -> dict[str, float | None]:
    """Tokens per second, where a prompt counts once for each answer, and the share of the ceiling.

    products: with every weight; 3 if all are trained (forward, and gradients of inputs and weights), 2 if none is.
    """
    flops = useful_flops(shape, tokens, products) / seconds
    return {
        "tokens_per_second": tokens.read / seconds, "tflops": flops / 1e12, "mfu": flops / ceiling if ceiling else None,
    }  # fmt: skip


@contextmanager
def counted_passes() -> Iterator[Passes]:
    """Count the forward passes of the policy."""
    from tasks.training.logps import AnswerLogps

    passes, forward = Passes(), AnswerLogps.forward

    def counting(self: Any, inputs: Any) -> Any:
        passes.number += 1
        passes.tokens += inputs.ids.numel()
        return forward(self, inputs)

    AnswerLogps.forward = counting  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        AnswerLogps.forward = forward  # type: ignore[method-assign]
