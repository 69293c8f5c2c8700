"""alignflow's own tasks: `tokenize` and `logps` in one process, `fit` in the next, as a run executes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.inputs import preferences_of, read_pairs, shuffled_back
from benchmarks.processes import Stopwatch, in_process
from benchmarks.sides.timing import BATCH, BETA, LR, Times


def reference(folder: str) -> dict[str, Any]:
    """Token ids and reference log-probabilities, as tables in `folder`."""
    import transformers.models.llama.modeling_llama  # noqa: F401 - imports are no part of the work

    import tasks.training.score
    import tasks.training.tokens  # noqa: F401
    from tasks.kinds import Policy
    from tasks.train import logps, tokenize
    from tasks.workspace import LocalWorkspace

    begun, root = Stopwatch.start(), Path(folder)
    policy, work = Policy(root / "policy"), LocalWorkspace(root / "reference")
    data = tokenize(policy, preferences_of(shuffled_back(read_pairs(root / "pairs.json"))), work)
    for name, table in (("data", data), ("ref", logps(policy, data, work))):
        (root / name).mkdir()
        table.save(root / name)
    used = begun.seconds()
    return {"seconds": used.wall, "cpu_seconds": used.cpu}


def train(folder: str, limit: float) -> dict[str, Any]:
    """limit: seconds for the reference's process."""
    before = in_process("benchmarks.sides.alignflow_tasks:reference", {"folder": folder}, limit=limit)
    if "error" in before:
        raise RuntimeError(before["error"])
    import transformers.models.llama.modeling_llama  # noqa: F401

    import tasks.training.loop  # noqa: F401
    from tasks.contract import Chosen
    from tasks.kinds import Logps, Policy, Preferences
    from tasks.train import fit
    from tasks.training.settings import OptimConfig
    from tasks.workspace import LocalWorkspace

    class Timed(LocalWorkspace):
        def log(self, step: int, metrics: Any) -> None:
            super().log(step, metrics)
            times.step_ended()

    times, root = Times(), Path(folder)
    work = Timed(root / "alignflow")
    fit(
        Policy(root / "policy"), Preferences(root / "data"), work, Logps(root / "ref"), lr=LR,
        loss=Chosen("losses/pairwise", "dpo", {"beta": BETA}), optim=OptimConfig(batch=BATCH, warmup=0.0),
    )  # fmt: skip
    losses = [metrics["train/loss"] for _, metrics in work.curves]
    result = times.result(losses, wall_before=before["seconds"], cpu_before=before["cpu_seconds"])
    return {**result, "reference_seconds": before["seconds"]}
