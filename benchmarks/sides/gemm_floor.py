"""The floor: the matrix products that the training cannot do without, and nothing else.

Each step multiplies what `useful_flops` counts, all pairs of the batch at once: every unique token through every
linear layer, every answer token through the head, once forward and twice backward. One further forward stands for
the reference. Attention's own products, norms, softmax, optimizer and files are left out, so no training gets there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.inputs import SHAPES, count_tokens, read_pairs
from benchmarks.sides.timing import BATCH, Times

HEAD_ROWS = 512
"""Answer tokens per product of the head: all of them at once would need gigabytes for their logits."""


def train(folder: str, shape: str) -> dict[str, Any]:
    import torch

    sizes, pairs = SHAPES[shape], read_pairs(Path(folder) / "pairs.json")
    batches = [count_tokens(pairs[i : i + BATCH]) for i in range(0, len(pairs), BATCH)]
    weights = [torch.randn(outputs, inputs) for inputs, outputs in sizes.products()]
    head = torch.randn(sizes.vocab, sizes.hidden)
    most = max(batch.unique for batch in batches)
    widths = {n for product in sizes.products() for n in product}
    read, written = ({n: torch.randn(most, n) for n in widths} for _ in range(2))
    logits = torch.randn(HEAD_ROWS, sizes.vocab)
    gradients = [torch.zeros_like(weight) for weight in weights]
    head_gradient = torch.zeros_like(head)

    def forward(tokens: Any) -> None:
        for _ in range(sizes.layers):
            for weight in weights:
                outputs, inputs = weight.shape
                torch.mm(read[inputs][: tokens.unique], weight.T, out=written[outputs][: tokens.unique])
        for rows in _chunks(tokens.answers):
            torch.mm(read[sizes.hidden][:rows], head.T, out=logits[:rows])

    def backward(tokens: Any) -> None:
        for rows in _chunks(tokens.answers):
            torch.mm(logits[:rows], head, out=written[sizes.hidden][:rows])
            torch.mm(logits[:rows].T, read[sizes.hidden][:rows], out=head_gradient)
        for _ in range(sizes.layers):
            for weight, gradient in zip(weights, gradients, strict=True):
                outputs, inputs = weight.shape
                torch.mm(read[outputs][: tokens.unique], weight, out=written[inputs][: tokens.unique])
                torch.mm(read[outputs][: tokens.unique].T, read[inputs][: tokens.unique], out=gradient)

    forward(batches[0])  # warm-up
    times = Times()
    for tokens in batches:
        forward(tokens)  # the reference
    for tokens in batches:
        forward(tokens)
        backward(tokens)
        times.step_ended()
    return times.result([])


def _chunks(rows: int) -> list[int]:
    return [min(HEAD_ROWS, rows - start) for start in range(0, rows, HEAD_ROWS)]
