"""Direct Preference Optimization without a graph: the same functions that `pipelines.yaml` wires, called one by one.

    python examples/dpo_by_hand.py

A tiny Llama of random weights learns from 200 pairs of the toy world: a golden answer is chosen over one of mixed
quality. Nothing is cached here; `alignflow run offline-dpo` does the same as cached steps, with a trained base policy.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from tasks.agree import implicit_accuracy
from tasks.contract import Chosen
from tasks.kinds import Demonstrations, Preferences
from tasks.load import init_policy, load_demonstrations
from tasks.train import fit, logps, tokenize
from tasks.training.settings import OptimConfig
from tasks.workspace import LocalWorkspace

TOY = Chosen("sources", "toy", {})  # tasks/sources/toy.py::toy()
DPO = Chosen("losses/pairwise", "dpo", {"beta": 0.1})  # tasks/losses/pairwise/dpo.py::dpo(beta=0.1)


def pairs_of(better: Demonstrations, worse: Demonstrations, size: int) -> Preferences:
    """One pair a row: both tables hold the same prompts in the same order."""
    rows = zip(better.table.slice(0, size).to_pylist(), worse.table.slice(0, size).to_pylist(), strict=True)
    return Preferences.of(pa.Table.from_pylist([
        {
            "prompt_id": a["prompt_id"], "prompt": a["prompt"], "chosen": a["completion"],
            "rejected": b["completion"], "chosen_id": a["completion_id"], "rejected_id": b["completion_id"],
        }
        for a, b in rows
    ]))  # fmt: skip


def main(folder: Path) -> None:
    work = LocalWorkspace(folder)  # the folder in which a task may work, and what it reports

    # Data: answers to the prompts of two splits, best ones and mixed ones.
    better = load_demonstrations(work, source=TOY, split="rm", answers="golden")
    worse = load_demonstrations(work, source=TOY, split="rm", answers="mixed")
    pairs = pairs_of(better, worse, size=200)
    held_out = pairs_of(
        load_demonstrations(work, source=TOY, split="policy", answers="golden"),
        load_demonstrations(work, source=TOY, split="policy", answers="mixed"), size=64,
    )  # fmt: skip

    # The policy, which is also the frozen reference.
    base = init_policy(worse, LocalWorkspace(folder / "base"), hidden=64, layers=2, ffn=172)

    # DPO: texts to token ids, log-probabilities under the reference, the training.
    rows = tokenize(base, pairs, work)
    ref_logps = logps(base, rows, work)
    training = LocalWorkspace(folder / "training")
    policy = fit(base, rows, training, ref_logps, loss=DPO, lr=1e-3, optim=OptimConfig(epochs=2, batch=16))
    for step, metrics in training.curves:
        print(f"step {step:2}  loss {metrics['train/loss']:.3f}  accuracy {metrics['rewards/accuracies']:.2f}")

    # Does the implicit reward agree with pairs that it was not trained on?
    checked = tokenize(base, held_out, work)
    report = implicit_accuracy(checked, logps(policy, checked, work), logps(base, checked, work), work)
    for row in report.table.to_pylist():
        print(f"{row['name']:20} {row['value']:.3f}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
