"""Batches for losses: every argument that a family knows, at random and at the ends of what training meets."""

from collections.abc import Iterable, Mapping
from inspect import Parameter, signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tasks.losses
from tasks.contract import Chosen
from tasks.families import LOSSES, LossArgument

FOLDER = Path(str(tasks.losses.__file__)).parent
SHIPPED = sorted(f"{p.parent.name}/{p.stem}" for p in FOLDER.glob("*/*.py") if p.stem != "__init__")
K = 4
FAR = 10_000.0
"""Log-ratios at the ends, in nats."""


def chosen(loss: str, params: Mapping[str, Any]) -> Chosen:
    """The loss `folder/name` with parameters, as the trainer has it."""
    folder, name = loss.split("/")
    return Chosen(f"losses/{folder}", name, params)


def arguments(loss: str) -> dict[str, LossArgument]:
    """What the loss names, as its family describes it."""
    names = [
        p.name for p in signature(chosen(loss, {}).function).parameters.values() if p.kind != Parameter.KEYWORD_ONLY
    ]
    known = LOSSES[f"losses/{loss.split('/')[0]}"].arguments
    return {name: known[name] for name in names}


def is_list(loss: str, name: str) -> bool:
    """Whether a row has K numbers of the argument."""
    argument = arguments(loss)
    return name == "prompt_win_rates" or "mask" in argument


def random_batch(loss: str, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch as training has it, float64."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, argument in arguments(loss).items():
        shape = (rows, K) if is_list(loss, name) else (rows,)
        batch[name] = torch.from_numpy(_drawn(name, argument, shape, rng))
    return batch


def extreme_batch(loss: str) -> dict[str, Tensor]:
    """All combinations of log-probabilities near 0 and 10,000 nats below; the other arguments are random."""
    known = arguments(loss)
    far = [n for n in known if n.endswith(("logps", "scores")) and n != "target_scores"]
    listed = "mask" in known
    corners = np.array(list(product((0.0, 1.0), repeat=K if listed else len(far))))
    batch = random_batch(loss, len(corners), seed=1)
    for i, name in enumerate(far):
        start = -3.0 if name.startswith("policy") else -3.5  # no log-ratio is 0, where some losses have a kink
        column = corners[:: 1 - 2 * i] - 0.1 * np.arange(K) / FAR if listed else corners[:, i]
        batch[name] = torch.from_numpy(start - FAR * column)
    return batch


def rows_of(loss: str, batch: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The batch as rows of plain numbers, without the places that hold no answer."""
    rows = []
    for i in range(len(next(iter(batch.values())))):
        row: dict[str, Any] = {}
        for name, tensor in batch.items():
            if name != "mask":
                there = batch["mask"][i] if "mask" in batch and tensor.ndim == 2 else slice(None)
                row[name] = tensor[i][there].tolist() if tensor.ndim == 2 else tensor[i].item()
        rows.append(row)
    return rows


def tensors(values: Mapping[str, float | bool | list[float]]) -> dict[str, Tensor]:
    """A batch of one row, float64; a mask is bool."""
    return {
        name: torch.tensor([value], dtype=torch.bool if name in ("mask", "label") else torch.float64)
        for name, value in values.items()
    }


def with_grad(batch: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """A copy whose tensors of numbers are leaves that collect gradients."""
    wanted = batch.keys() if names is None else names
    return {n: t.clone().requires_grad_(n in wanted and t.dtype != torch.bool) for n, t in batch.items()}


def pair(loss: str, **values: float) -> dict[str, Tensor]:
    """A batch of one pair whose numbers are 0 (lengths and p: 1) but for those given, for gradients in all of them."""
    start = {n: float(n == "p" or "lengths" in n) for n in arguments(loss)}
    return with_grad({n: torch.tensor([values.get(n, v)], dtype=torch.float64) for n, v in start.items()})


def opposite(name: str) -> str:
    """The argument's name of the pair's other side."""
    return name.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected")


def slope(loss: str, params: dict[str, Any], name: str = "policy_chosen_logps", **values: float) -> float:
    """The derivative of the loss of one pair in an argument."""
    batch = pair(loss, **values)
    chosen(loss, params)(**batch).sum().backward()
    gradient = batch[name].grad
    assert gradient is not None
    return gradient.item()


def _drawn(name: str, argument: LossArgument, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if name == "mask":
        return np.arange(K) < rng.integers(1, K + 1, shape[:1])[:, None]
    if argument.holds == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if argument.filled_by == "length":
        return rng.integers(1, 12, shape).astype(float)
    if name in ("p", "win_prob", "win_rate", "prompt_win_rates"):
        return rng.uniform(size=shape)
    if argument.filled_by in ("mismatched", "share"):
        return np.full(shape, rng.uniform(0.1, 0.9))
    if name.endswith("log_weights"):
        return rng.normal(-0.3, 0.3, shape)
    if name in ("logps", "old_logps"):
        return -rng.uniform(1, 2, shape)
    if name.endswith("logps"):
        return rng.normal(-20, 4, shape).clip(max=-1)
    return rng.normal(0, 2, shape)
