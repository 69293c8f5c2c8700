"""DPO of a LoRA adapter on a base of 8 billion random weights, which never leave the device.

alignflow has no adapters yet. Its trainings are used as they are; only the functions that open and save a model are
replaced here, by ones that give the base with peft's layers and store nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.inputs import SHAPES, Shape, config_of, random_model, read_pairs, write_pairs, write_tokenizer

RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(*, shape: str, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    if not importlib.util.find_spec("peft"):
        return {"rows": [{"name": "LoRA", "skipped": "peft cannot be imported"}]}
    from benchmarks.gpu.fitting import CHECKPOINTING, LENGTHS, SIZE, TINY_LENGTHS, Variant, data_of, measured
    from tasks.kinds import Policy

    sizes, lengths = (SHAPES["tiny"], TINY_LENGTHS) if tiny else (SHAPES[shape], LENGTHS)
    settings = {SIZE: 64 if tiny else 8_192, CHECKPOINTING: "on"}
    batch, variant = (4 if tiny else 16), Variant(f"rank {RANK}, bfloat16 base", 4 if tiny else 6, settings)
    with TemporaryDirectory() as temporary, adapted_models(sizes) as model:
        root = Path(temporary)
        write_tokenizer(root / "policy", sizes.vocab)
        config_of(sizes).save_pretrained(root / "policy")
        write_pairs(root / "pairs.json", batch * variant.steps, lengths, sizes.vocab)
        policy, pairs = Policy(root / "policy"), read_pairs(root / "pairs.json")
        data = data_of(policy, pairs, root / "reference")  # a fresh adapter adds 0, so this is the base
        row = measured(policy, data, sizes, variant, root / "training", batch=batch, ceiling=ceiling, products=2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"rows": [{**row, "trained_weights": trained, "reference_seconds": data.ref_seconds}]}


def adapted(shape: Shape) -> Any:
    """A base in bfloat16 with adapters, of which only the adapters are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    device = this_device()
    base = random_model(shape, dtype="bfloat16" if device == "cuda" else "float32", device=device)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    return inject_adapter_in_model(config, base).eval()


@contextmanager
def adapted_models(shape: Shape) -> Iterator[Any]:
    """While this is open, every task opens one and the same adapted model, and saves nothing."""
    from tasks.training import model as opening

    model, replaced = adapted(shape), (opening.open_model, opening.save_model)
    opening.open_model = lambda *_, **__: with_float32_adapters(model)
    opening.save_model = lambda *_, **__: None
    try:
        yield model
    finally:
        opening.open_model, opening.save_model = replaced


def with_float32_adapters(model: Any) -> Any:
    """`logps` rounds the weights of a model that it opens to bfloat16; trained ones must not stay so."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
