"""DPO of all weights: tokens per second, MFU, memory and passes per step, for several sizes of a pass."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.gpu.fitting import (
    CHECKPOINTING,
    LENGTHS,
    SETTINGS,
    SIZE,
    TINY_LENGTHS,
    Variant,
    data_of,
    measured,
)
from benchmarks.inputs import SHAPES, read_pairs, write_pairs, write_policy
from tasks.kinds import Policy


def run(*, shape: str, tiny: bool, ceiling: float | None, memory: bool = False) -> dict[str, Any]:
    """memory: ways to save memory at one size of a pass, instead of several sizes."""
    sizes, lengths = (SHAPES["tiny"], TINY_LENGTHS) if tiny else (SHAPES[shape], LENGTHS)
    batch = 4 if tiny else 32
    variants = ways_to_save_memory(tiny) if memory else sizes_of_a_pass(tiny)
    device = this_device()
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_policy(root / "policy", sizes, dtype="bfloat16", device=device)
        write_pairs(root / "pairs.json", batch * max(v.steps for v in variants), lengths, sizes.vocab)
        policy, pairs = Policy(root / "policy"), read_pairs(root / "pairs.json")
        data = data_of(policy, pairs, root / "reference")
        rows = [
            row_of(variant, lambda v, i=i: measured(
                policy, data, sizes, v, root / f"variant-{i}", batch=batch, ceiling=ceiling
            ))
            for i, variant in enumerate(variants)
        ]  # fmt: skip
    return {"rows": [{"name": "reference log-probabilities", "seconds": data.ref_seconds}, *rows]}


def row_of(variant: Variant, measure: Any) -> dict[str, Any]:
    """The measured row; a variant that fails costs the others nothing."""
    if unknown := variant.compute.keys() - SETTINGS:
        return {"name": variant.name, "skipped": f"alignflow has no setting {', '.join(unknown)}"}
    try:
        return dict(measure(variant))
    except (RuntimeError, ValueError) as e:  # out of memory is a RuntimeError
        return {"name": variant.name, "error": f"{type(e).__name__}: {e}"[:400]}


def sizes_of_a_pass(tiny: bool) -> list[Variant]:
    few, some, many = (64, 128, 256) if tiny else (8_192, 16_384, 32_768)
    return [
        Variant(f"{few:,} tokens a pass", 4 if tiny else 16, {SIZE: few}),
        Variant(f"{some:,} tokens a pass", 3 if tiny else 8, {SIZE: some}),
        Variant(f"{many:,} tokens a pass, gradient checkpointing", 3 if tiny else 8, {SIZE: many, CHECKPOINTING: "on"}),
    ]


def ways_to_save_memory(tiny: bool) -> list[Variant]:
    size, steps = {SIZE: 64 if tiny else 8_192}, (3 if tiny else 6)
    return [
        Variant("plain", steps, {**size, CHECKPOINTING: "off"}),
        Variant("gradient checkpointing", steps, {**size, CHECKPOINTING: "on"}),
        Variant("checkpointing, bfloat16 weights", steps, {**size, CHECKPOINTING: "on", "weight_dtype": "bfloat16"}),
    ]
