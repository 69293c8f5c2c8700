"""The head's log-probabilities, forward and backward: alignflow's chunks of several sizes beside one plain product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu import bare
from benchmarks.gpu.timing import device_peak_gb, median_seconds, reset_peak
from benchmarks.inputs import Shape, random_model

ANSWER_TOKENS = 4_096
CHUNKS = (1 << 23, 1 << 25, 1 << 27, 1 << 29)
"""Logits in memory at once."""


def run(*, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    if tiny:
        return {"rows": measured_rows(512, 64, 128, (1 << 14, 1 << 21), ceiling)}
    small, large = ((151_936, 896), (128_256, 4_096))
    return {"rows": [row for v, d in (small, large) for row in measured_rows(v, d, ANSWER_TOKENS, CHUNKS, ceiling)]}


def measured_rows(
    vocab: int, width: int, tokens: int, chunks: tuple[int, ...], ceiling: float | None
) -> list[dict[str, Any]]:
    """For one size of the head."""
    import numpy as np

    from tasks.training.batches import micro_batches
    from tasks.training.body import inputs_of
    from tasks.training.device import this_device
    from tasks.training.model import packing_for
    from tasks.training.rows import rows_of_ids

    model = headed(vocab, width)
    ids = np.random.default_rng(0).integers(vocab, size=tokens).tolist()
    packing = packing_for(model, this_device(), tokens + 1)
    (batch,) = micro_batches(rows_of_ids([[1]], [ids]), np.arange(1), packing)
    inputs = inputs_of(batch, model.device)
    flops = 6.0 * vocab * width * tokens

    def plain() -> None:
        logits = model(input_ids=inputs.ids, use_cache=False).logits[0].float()
        logits.log_softmax(-1).gather(1, inputs.targets[:, None]).sum().backward()

    size = f"{vocab:,} × {width:,}"
    ways = {f"{size}: {chunk >> 20 or 1} million logits at once": in_chunks(model, inputs, chunk) for chunk in chunks}
    return [row(name, work, flops, ceiling) for name, work in {**ways, f"{size}: one product": plain}.items()]


def in_chunks(model: Any, inputs: Any, chunk: int) -> Callable[[], Any]:
    """The head's forward and backward pass with at most so many logits in memory."""
    from tasks.training.logps import AnswerLogps

    scorer = AnswerLogps(model)
    scorer.logits = chunk
    return lambda: scorer(inputs).sum().backward()


def headed(vocab: int, width: int) -> Any:
    """A model of one narrow layer, so that the head is nearly all of its work."""
    device = bare.this_device()
    shape = Shape(vocab, width, 16, 1, 1, 1, tied=False, head_dim=16)
    return random_model(shape, dtype="bfloat16" if device == "cuda" else "float32", device=device)


def row(name: str, work: Callable[[], Any], flops: float, ceiling: float | None) -> dict[str, Any]:
    reset_peak()
    try:
        seconds = median_seconds(work, repeats=5, warm_up=2)
    except RuntimeError as e:
        return {"name": name, "error": str(e)[:300]}
    share = flops / seconds / ceiling if ceiling else None
    return {
        "name": name, "seconds": seconds, "tflops": flops / seconds / 1e12, "share_of_ceiling": share,
        "device_peak_gb": device_peak_gb(),
    }  # fmt: skip
