"""Rows of similar length in padded batches, for models that are called through their own forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

QUESTIONS_TO_SORT = 512
"""Questions that an oracle which is a model gets in one call, among which rows of similar length are batched.

In calls of 64 an encoder of 4 layers took 1.2 to 1.4 times the CPU seconds of a loop over all texts sorted by length,
with 240 in one call at most 1.05 times (`benchmarks/oracles.py`)."""
Encoded = Mapping[str, Sequence[int]]
"""A row's inputs by the tokenizer (`input_ids`, `token_type_ids`), each `(T,)`."""


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, in batches of at most `tokens` tokens with padding; a longer row is alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(rows: Sequence[Encoded], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Inputs `(B, T)` of rows, padded at their ends by `pad` (types by 0), with their attention mask."""
    lengths = [len(row["input_ids"]) for row in rows]
    width = max(lengths)
    fill = {"input_ids": pad}
    filled = {
        name: [[*row[name], *[fill.get(name, 0)] * (width - n)] for row, n in zip(rows, lengths, strict=True)]
        for name in rows[0]
    }
    filled["attention_mask"] = [[1] * n + [0] * (width - n) for n in lengths]
    return {name: torch.tensor(values, device=device) for name, values in filled.items()}
