"""TRL's GRPOTrainer with its own generation, in float32; what it would spend on this machine for nothing is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.inputs import read_pairs
from benchmarks.sides.grpo import LR, StepTimes, Work, score


def train(
    folder: str, work: dict[str, Any], *, beta: float = 0.0, passes: int = 1, checkpointing: bool = False
) -> dict[str, Any]:
    """passes: over which the answers of an update are spread. checkpointing: TRL's default is True."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 - imports are no part of the work
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class InOrder(GRPOTrainer):
        """With the same prompts in the same order as the other sides, and clocks around what it does."""

        def _generate(self, *given: Any) -> Any:
            with times.part("draw"):
                return super()._generate(*given)

        def _calculate_rewards(self, *given: Any) -> Any:
            with times.part("score"):
                return super()._calculate_rewards(*given)

        def _get_per_token_logps_and_entropies(self, *given: Any, **named: Any) -> Any:
            with times.part("update" if torch.is_grad_enabled() else "read"):
                return super()._get_per_token_logps_and_entropies(*given, **named)

    class EndOfStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.step_ended()

    root, given = Path(folder), Work(**work)
    asked = Dataset.from_list([{"prompt": row["prompt"] + " "} for row in read_pairs(root / "pairs.json")])
    config = GRPOConfig(
        output_dir=str(root / "trl"), per_device_train_batch_size=given.prompts * given.k // passes,
        gradient_accumulation_steps=passes, num_generations=given.k, max_completion_length=given.answer,
        max_steps=given.steps, learning_rate=LR, beta=beta, gradient_checkpointing=checkpointing, shuffle_dataset=False,
        use_vllm=False, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        seed=0, lr_scheduler_type="linear",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(root / "policy", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(root / "policy", padding_side="left")

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [score(text) for text in completions]

    trainer = InOrder(
        model=model, reward_funcs=reward, args=config, train_dataset=asked, processing_class=tokenizer,
        callbacks=[EndOfStep()],
    )  # fmt: skip
    times = StepTimes()
    trainer.train()
    lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "reward" in entry]
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    return times.result(lengths, rewards)
