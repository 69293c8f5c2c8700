"""DPO beside TRL's trainer: the same pairs, model, order, batch and learning rate, in one run, as ratios.

Each contestant runs in a process of its own, so that its peak memory is its own; ours computes its reference
log-probabilities in a further one, as the flow does, and the larger peak counts. TRL runs at its defaults, but for
what makes the runs comparable (float32, the order of the rows, the learning rate), and with `precompute_ref_log_probs`.
The first speed is that of the optimizer steps alone, the second counts reference, loading and writing too.
Tokens are counted alike for all: every pair's prompt twice, its two answers.

    python benchmarks/training.py [--pairs 64] [--steps 8] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # the project, not this folder
BATCH, BETA, LR = 8, 0.1, 1e-4
CONTESTANTS = ("trl", "trl, reference precomputed", "alignflow")
REFERENCE = "alignflow's reference"


def make_inputs(folder: Path, pairs: int) -> None:
    """Llama 6 × 256, vocabulary 32,000, and pairs of random ids: prompt median 55, answers 67, log-normal."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, 32000)}
    bare = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder / "policy")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    rng = np.random.default_rng(0)

    def text(median: float) -> str:
        length = int(np.clip(rng.lognormal(np.log(median), 0.6), 4, 400))
        return " ".join(f"w{i}" for i in rng.integers(3, 32000, length))

    rows = [{"prompt": text(55), "chosen": text(67), "rejected": text(67)} for _ in range(pairs)]
    (folder / "pairs.json").write_text(json.dumps(rows))


def run_trl(folder: Path, steps: int, *, precompute: bool) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = json.loads((folder / "pairs.json").read_text())
    pairs = Dataset.from_list([{k: f" {v}" if k != "prompt" else v for k, v in row.items()} for row in rows])
    model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    config = DPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=LR, beta=BETA,
        precompute_ref_log_probs=precompute, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, seed=0, lr_scheduler_type="linear",
    )  # fmt: skip

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Clock(TrainerCallback):
        ends: ClassVar[list[float]] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    begun = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    trainer = InOrder(model=model, args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[Clock()])
    ready = time.perf_counter()
    trainer.train()
    log = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": log, "train": Clock.ends[-1] - ready, "whole": Clock.ends[-1] - begun}


def our_reference(folder: Path) -> float:
    """Token ids and reference log-probabilities, as tables in `folder`; the seconds it took, imports left out."""
    import pyarrow as pa

    from tasks.kinds import Policy, Preferences
    from tasks.train import logps, tokenize
    from tests.workspace import Workspace

    policy, work = Policy(folder / "policy"), Workspace(folder / "ours")
    rows = [
        {"prompt_id": str(i), "prompt": [{"role": "user", "content": row["prompt"]}], "chosen": row["chosen"],
         "rejected": row["rejected"], "chosen_id": f"w{i}", "rejected_id": f"l{i}"}
        for i, row in enumerate(json.loads((folder / "pairs.json").read_text()))
    ]  # fmt: skip
    begun = time.perf_counter()
    data = tokenize(policy, Preferences.of(pa.Table.from_pylist(rows)), work)
    for name, made in (("data", data), ("ref", logps(policy, data, work))):
        (folder / name).mkdir()
        made.save(folder / name)
    return time.perf_counter() - begun


def run_ours(folder: Path, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contestant", REFERENCE, "--folder", str(folder)]
    reference = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    from tasks.contract import Chosen
    from tasks.kinds import Logps, Policy, Preferences
    from tasks.train import fit
    from tasks.training import loop
    from tasks.training.settings import OptimConfig, TrainComputeConfig
    from tests.workspace import Workspace

    clock: list[float] = []

    def in_order(n: int, optim: OptimConfig, seed: int) -> Any:
        clock.append(time.perf_counter())
        return [part % n for part in np.arange(optim.rows_in_all(n)).reshape(-1, BATCH)]

    class Clocked(Workspace):
        def count(self, **metrics: float) -> None:
            clock.append(time.perf_counter())

    loop._batches = in_order
    imported, work = time.perf_counter(), Clocked(folder / "ours")
    fit(
        Policy(folder / "policy"), Preferences(folder / "data"), work, Logps(folder / "ref"), lr=LR,
        loss=Chosen("losses/pairwise", "dpo", {"beta": BETA}),
        optim=OptimConfig(steps=steps, batch=BATCH, warmup=0.0), compute=TrainComputeConfig(checkpoint_every=10**9),
    )  # fmt: skip
    ended = time.perf_counter()
    losses = [metrics["train/loss"] for _, metrics in work.curves]
    return {"losses": losses, "train": clock[1] - clock[0], "whole": ended - imported + reference}


def contest(name: str, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """One contestant in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "--contestant", name, "--folder", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(name: str, folder: Path, steps: int) -> None:
    if name == REFERENCE:
        print(our_reference(folder))
        return
    result = run_ours(folder, steps) if name == "alignflow" else run_trl(folder, steps, precompute="," in name)
    peak = 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print("\n" + json.dumps({**result, "peak": peak}))


def tokens_in(folder: Path, steps: int) -> int:
    """Tokens of the trained pairs: prompt twice, both answers, an EOS each."""
    rows = json.loads((folder / "pairs.json").read_text())
    sizes = [2 * len(r["prompt"].split()) + len(r["chosen"].split()) + len(r["rejected"].split()) + 2 for r in rows]
    return int(sum(sizes[i % len(sizes)] for i in range(steps * BATCH)))


def table(results: dict[str, dict[str, Any]], tokens: int) -> str:
    first = results["trl"]
    lines = [
        "| | tokens/s | × TRL | tokens/s with reference and start | × TRL | peak memory, GB | × TRL | losses |",
        "|" + "---|" * 8,
    ]
    for name, r in results.items():
        speed, whole = (f"{tokens / r[k]:,.0f} | {first[k] / r[k]:.1f}" for k in ("train", "whole"))
        losses = " ".join(f"{x:.4f}" for x in r["losses"])
        lines.append(
            f"| {name} | {speed} | {whole} | {r['peak'] / 1e9:.2f} | {r['peak'] / first['peak']:.2f} | {losses} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contestant", choices=(*CONTESTANTS, REFERENCE), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        child(asked.contestant, asked.folder, asked.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder, asked.pairs)
        results = {name: contest(name, folder, asked.steps, asked.threads) for name in CONTESTANTS}
        tokens = tokens_in(folder, asked.steps)
    print(f"{asked.pairs} pairs, batch {BATCH}, {asked.steps} steps, {tokens:,} tokens, {asked.threads} threads\n")
    print(table(results, tokens))
    apart = max(abs(a - b) for a, b in zip(results["trl"]["losses"], results["alignflow"]["losses"], strict=True))
    print(f"\nLargest difference between TRL's losses and ours: {apart:.1e}")


if __name__ == "__main__":
    main()
