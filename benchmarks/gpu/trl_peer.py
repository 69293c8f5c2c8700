"""TRL's DPOTrainer on the same shape and lengths: bfloat16, precomputed reference, with and without checkpointing."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.gpu.fitting import LENGTHS, TINY_LENGTHS, speeds
from benchmarks.gpu.timing import device_peak_gb, reset_peak
from benchmarks.inputs import (
    SHAPES,
    Shape,
    count_tokens,
    random_model,
    read_pairs,
    write_pairs,
    write_tokenizer,
)

ROWS_PER_PASS = 4


def run(*, shape: str, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    missing = [name for name in ("trl", "datasets") if not importlib.util.find_spec(name)]
    if missing:
        return {"rows": [{"name": "TRL", "skipped": f"{' and '.join(missing)} cannot be imported"}]}
    sizes, lengths = (SHAPES["tiny"], TINY_LENGTHS) if tiny else (SHAPES[shape], LENGTHS)
    batch, steps = (4, 3) if tiny else (32, 6)
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tokenizer(root / "policy", sizes.vocab)
        write_pairs(root / "pairs.json", batch * steps, lengths, sizes.vocab)
        return {"rows": [row(root, sizes, batch, ceiling, checkpointing=on) for on in (False, True)]}


def row(root: Path, shape: Shape, batch: int, ceiling: float | None, *, checkpointing: bool) -> dict[str, Any]:
    name = f"TRL, {ROWS_PER_PASS} pairs a pass, checkpointing {'on' if checkpointing else 'off'}"
    try:
        return {"name": name, **train(root, shape, batch, ceiling, checkpointing=checkpointing)}
    except (RuntimeError, ValueError) as e:
        return {"name": name, "error": f"{type(e).__name__}: {e}"[:400]}


def train(root: Path, shape: Shape, batch: int, ceiling: float | None, *, checkpointing: bool) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    ends: list[float] = []

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class EndOfStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    device, pairs = this_device(), read_pairs(root / "pairs.json")
    config = DPOConfig(
        output_dir=str(root / "trl"), per_device_train_batch_size=ROWS_PER_PASS,
        gradient_accumulation_steps=batch // ROWS_PER_PASS, num_train_epochs=1, learning_rate=1e-5, beta=0.1,
        max_length=None, precompute_ref_log_probs=True, gradient_checkpointing=checkpointing, bf16=device == "cuda",
        use_cpu=device == "cpu", logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        lr_scheduler_type="linear",
    )  # fmt: skip
    dataset = Dataset.from_list([
        {"prompt": p["prompt"], "chosen": " " + p["chosen"], "rejected": " " + p["rejected"]} for p in pairs
    ])  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(root / "policy")
    reset_peak()
    begun = time.perf_counter()
    trainer = InOrder(
        model=random_model(shape, device=device), args=config, train_dataset=dataset, processing_class=tokenizer,
        callbacks=[EndOfStep()],
    )  # fmt: skip
    trainer.train()
    spent = speeds(shape, count_tokens(pairs[batch:]), ends[-1] - ends[0], ceiling)
    return {**spent, "device_peak_gb": device_peak_gb(), "seconds": ends[-1] - begun}
