"""The process in which Inspect runs. `tasks.harnesses.process` starts it as a script.

It reads its request from the first file and writes its result to the second one. Standard library and inspect_ai only.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNKEYED = {"sys.argv": "the places of the request, whose content is in the key, and of the result"}

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's grades: correct, partially correct, incorrect, no answer."""


def run_inspect() -> None:
    """Evaluate a model on tasks.

    The request: model, tasks, limit, temperature, max_tokens, batch_size, dtype, device, seed, logs (a folder). The
    result: `metrics`, rows of task, metric, value, stderr, n; `samples`, rows of task, metric, sample and value;
    `versions` of the tasks. Raises RuntimeError where a task did not succeed.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end when the parent ends
    request = json.loads(Path(sys.argv[1]).read_text())
    from inspect_ai import eval as evaluate

    logs = evaluate(
        request["tasks"], model="hf/local", limit=request["limit"], temperature=request["temperature"],
        max_tokens=request["max_tokens"], seed=request["seed"], log_dir=request["logs"], log_format="json",
        display="plain", score_display=False, max_connections=request["batch_size"], fail_on_error=True,
        model_args={"model_path": request["model"], "device": request["device"], "batch_size": request["batch_size"],
                    "torch_dtype": request["dtype"]},
    )  # fmt: skip
    failed = [log for log in logs if log.status != "success"]
    if failed:
        reasons = (f"{log.eval.task}: {log.error.message if log.error else log.status}" for log in failed)
        raise RuntimeError("; ".join(reasons))
    result = {
        "metrics": [row for log in logs for row in _metrics(log)],
        "samples": [row for log in logs for row in _samples(log)],
        "versions": {log.eval.task: log.eval.task_version for log in logs},
    }  # fmt: skip
    Path(sys.argv[2]).write_text(json.dumps(result, default=str))


def _metrics(log: Any) -> Iterator[dict[str, Any]]:
    """Of each scorer, in Inspect's order: `<scorer>/<metric>`, with the stderr that stands beside it."""
    for score in log.results.scores:
        stderr = next((m.value for name, m in score.metrics.items() if name == "stderr"), None)
        for name, metric in score.metrics.items():
            if name != "stderr":
                yield {
                    "task": log.eval.task, "metric": f"{score.name}/{name}", "value": float(metric.value),
                    "stderr": None if stderr is None else float(stderr), "n": log.results.completed_samples,
                    "higher_is_better": True,
                }  # fmt: skip


def _samples(log: Any) -> Iterator[dict[str, Any]]:
    """What each sample gave by each scorer, for the metrics that are means over samples."""
    scores = log.results.scores
    means = [(score.name, name) for score in scores for name in score.metrics if name in ("accuracy", "mean")]
    for sample in log.samples or ():
        for scorer, metric in means:
            value = (sample.scores or {})[scorer].value if scorer in (sample.scores or {}) else None
            number = _LETTERS.get(value) if isinstance(value, str) else value
            if isinstance(number, bool | int | float):
                name = f"{sample.id}/{sample.epoch}"
                yield {"task": log.eval.task, "metric": f"{scorer}/{metric}", "sample": name, "value": float(number)}


if __name__ == "__main__":
    run_inspect()
