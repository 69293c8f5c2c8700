"""DPO as a careful engineer writes it in an afternoon, with transformers and torch alone.

One pair at a time and one answer at a time, so that nothing is padded; logits of answer tokens only; the reference's
log-probabilities once, before the training. The gradient of a batch is accumulated over its pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.inputs import read_pairs
from benchmarks.sides.timing import BATCH, BETA, LR, Times, keep_memory


def train(folder: str, *, keep_pages: bool = False) -> dict[str, Any]:
    """keep_pages: freed memory stays with the process."""
    if keep_pages:
        keep_memory()
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 - imports are no part of the work
    from torch.nn.functional import logsigmoid
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

    times, root = Times(), Path(folder)
    model = AutoModelForCausalLM.from_pretrained(root / "policy", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(root / "policy")

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def logp(prompt: list[int], answer: list[int]) -> Any:
        """Log-probability of the answer's tokens behind the prompt."""
        ids = torch.tensor([prompt + answer])
        logits = model(ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
        return logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None]).sum()

    end = [tokenizer.eos_token_id]
    pairs = [
        (ids_of(row["prompt"]), ids_of(row["chosen"]) + end, ids_of(row["rejected"]) + end)
        for row in read_pairs(root / "pairs.json")
    ]  # fmt: skip
    with torch.no_grad():
        reference = [float(logp(prompt, chosen) - logp(prompt, rejected)) for prompt, chosen, rejected in pairs]

    steps = -(-len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=steps)
    losses = []
    for step in range(steps):
        batch = range(step * BATCH, min((step + 1) * BATCH, len(pairs)))
        total = 0.0
        for i in batch:
            prompt, chosen, rejected = pairs[i]
            margin = logp(prompt, chosen) - logp(prompt, rejected) - reference[i]
            loss = -logsigmoid(BETA * margin) / len(batch)
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        times.step_ended()
    model.save_pretrained(root / "by_hand")
    tokenizer.save_pretrained(root / "by_hand")
    return times.result(losses)
