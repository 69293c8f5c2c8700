"""LoRA: low-rank layers beside the linear layers of a frozen model."""

from __future__ import annotations

from typing import Annotated

from tasks.calls import Adapter
from tasks.contract import Bounds


def lora(
    *,
    rank: Annotated[int, Bounds(min=1)] = 16,
    alpha: Annotated[float, Bounds(above=0)] = 32.0,
    targets: tuple[str, ...] = ("all-linear",),
) -> Adapter:
    """A linear layer W x becomes W x + (alpha / rank)·B A x; A and B alone learn, in float32, without dropout.

    A `(rank, in)` is drawn uniformly within ±1/√in, B `(out, rank)` is 0, so that training starts from the base itself.

    Args:
        rank: rows of A.
        alpha: scale of the product, times rank.
        targets: names of the linear layers, or the last parts of names: [q_proj, v_proj]. `all-linear`: every one of
            the model's body, which leaves out embeddings, heads, and experts that are parts of one tensor.

    Source: Hu et al., arXiv 2106.09685, section 4.1; the range of A as in peft.
    """
    return Adapter(rank, alpha, targets)
