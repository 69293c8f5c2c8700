"""DPO of a LoRA adapter on a base of 8 billion random weights, made on the device and stored in bfloat16."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.inputs import SHAPES, read_pairs, write_pairs, write_policy

RANK = 16


def run(*, shape: str, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    if not importlib.util.find_spec("peft"):
        return {"rows": [{"name": "LoRA", "skipped": "peft cannot be imported"}]}
    from benchmarks.gpu.fitting import CHECKPOINTING, LENGTHS, SIZE, TINY_LENGTHS, Variant, data_of, measured
    from tasks.contract import Chosen
    from tasks.kinds import Policy

    sizes, lengths = (SHAPES["tiny"], TINY_LENGTHS) if tiny else (SHAPES[shape], LENGTHS)
    settings = {SIZE: 64 if tiny else 8_192, CHECKPOINTING: "on", "save_dtype": "float32"}
    batch, variant = (4 if tiny else 16), Variant(f"rank {RANK}, bfloat16 base", 4 if tiny else 6, settings)
    adapter = Chosen("adapters", "lora", {"rank": RANK, "alpha": 2.0 * RANK})
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_policy(root / "policy", sizes, dtype="bfloat16", device=this_device())
        write_pairs(root / "pairs.json", batch * variant.steps, lengths, sizes.vocab)
        policy, pairs = Policy(root / "policy"), read_pairs(root / "pairs.json")
        data = data_of(policy, pairs, root / "reference")
        row = measured(
            policy, data, sizes, variant, root / "training", batch=batch, ceiling=ceiling, products=2, adapter=adapter
        )
    return {"rows": [{**row, "reference_seconds": data.ref_seconds}]}
