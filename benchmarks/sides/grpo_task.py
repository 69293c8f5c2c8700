"""alignflow's `grpo`, as a run executes it."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.inputs import read_pairs
from benchmarks.sides.grpo import LR, StepTimes, Work, score


def train(folder: str, work: dict[str, Any], *, beta: float = 0.0) -> dict[str, Any]:
    """beta: price of a nat; 0: there is no reference."""
    import pyarrow as pa
    import transformers.models.llama.modeling_llama  # noqa: F401 - imports are no part of the work

    import tasks.rollouts.loop  # noqa: F401
    from tasks.contract import Chosen
    from tasks.kinds import Policy, Prompts, Scorer
    from tasks.workspace import LocalWorkspace
    from tests.flat import grpo

    class Timed(LocalWorkspace):
        def log(self, step: int, metrics: Any) -> None:
            super().log(step, metrics)
            times.step_ended()

    def scores(_: Any, texts: list[str], __: Any) -> list[float]:
        return [score(text) for text in texts]

    root, given = Path(folder), Work(**work)
    rows = [
        {"prompt_id": str(i), "prompt": [{"role": "user", "content": row["prompt"]}]}
        for i, row in enumerate(read_pairs(root / "pairs.json"))
    ]
    prompts = Prompts.of(pa.Table.from_pylist(rows, Prompts.SCHEMA))
    policy, times = Policy(root / "policy"), StepTimes()
    done = Timed(Path(mkdtemp(dir=root)))  # of its own: in a former one the training would continue, at its end
    grpo(
        policy, prompts, Scorer.scoring(scores), done, policy if beta else None, iterations=given.steps, lr=LR,
        prompts_per_iteration=given.prompts, k=given.k, max_tokens=given.answer, epochs=1, kl_coef=beta,
        kl_controller=Chosen("kl_controllers", "fixed", {}), objective=Chosen("losses/rl", "clipped", {}),
        engine=Chosen("engines", "transformers", {}), missing_eos_penalty=0.0,
    )  # fmt: skip
    curves = [metrics for _, metrics in done.curves]
    parts = {name for name in curves[0] if name.startswith("time/")}
    shares = {name.removeprefix("time/"): sum(c[name] for c in curves[1:]) / (len(curves) - 1) for name in parts}
    result = times.result([c["val/length"] for c in curves], [c["objective/scores"] for c in curves])
    return {**result, "shares": shares}
