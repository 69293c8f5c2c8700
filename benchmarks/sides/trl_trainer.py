"""TRL's DPOTrainer at its defaults, but for what makes runs comparable: float32, order of rows, learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.inputs import read_pairs
from benchmarks.sides.timing import BATCH, BETA, LR, Times, keep_memory


def train(
    folder: str, *, rows_per_pass: int = BATCH, precompute: bool = False, checkpointing: bool = True,
    keep_pages: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """rows_per_pass: pairs in one forward, padded to the longest; as many passes as make up the batch.

    precompute: reference log-probabilities once, before the training; checkpointing: TRL's own default is True;
    keep_pages: freed memory stays with the process.
    """
    if keep_pages:
        keep_memory()
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 - imports are no part of the work
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class EndOfStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.step_ended()

    times, root = Times(), Path(folder)
    pairs = Dataset.from_list([
        {"prompt": row["prompt"], "chosen": " " + row["chosen"], "rejected": " " + row["rejected"]}
        for row in read_pairs(root / "pairs.json")
    ])  # fmt: skip
    config = DPOConfig(
        output_dir=str(root / "trl"), per_device_train_batch_size=rows_per_pass,
        gradient_accumulation_steps=BATCH // rows_per_pass, num_train_epochs=1, learning_rate=LR, beta=BETA,
        max_length=None, precompute_ref_log_probs=precompute, gradient_checkpointing=checkpointing, bf16=False,
        use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        lr_scheduler_type="linear",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(root / "policy", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(root / "policy")
    trainer = InOrder(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[EndOfStep()]
    )
    trainer.train()
    trainer.save_model(str(root / "trl" / "result"))
    return times.result([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
