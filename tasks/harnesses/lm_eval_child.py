"""The process in which lm-evaluation-harness runs. `tasks.harnesses.process` starts it as a script.

It reads its request from the first file and writes its result to the second one. Standard library and lm_eval only.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

UNKEYED = {"sys.argv": "the places of the request, whose content is in the key, and of the result"}


def run_lm_eval() -> None:
    """Evaluate a model on tasks.

    The request: model, tasks, include (a folder of further tasks, or null), num_fewshot, limit, chat_template, system,
    batch_size, dtype, device, seed. The result: `metrics`, rows of task, metric, value, stderr, n and higher_is_better;
    `samples`, rows of task, metric, sample and value; `versions` of the tasks.
    """
    end_with_parent()
    request = json.loads(Path(sys.argv[1]).read_text())
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf", model_args={"pretrained": request["model"], "dtype": request["dtype"]}, tasks=request["tasks"],
        task_manager=TaskManager(include_path=request["include"]), num_fewshot=request["num_fewshot"],
        limit=request["limit"], batch_size=request["batch_size"], device=request["device"], log_samples=True,
        apply_chat_template=request["chat_template"], system_instruction=request["system"], bootstrap_iters=1000,
        **{f"{what}_seed": request["seed"] for what in ("random", "numpy_random", "torch_random", "fewshot_random")},
    )  # fmt: skip
    assert found is not None
    result = {"metrics": [*_metrics(found)], "samples": [*_samples(found)], "versions": found["versions"]}
    Path(sys.argv[2]).write_text(json.dumps(result, default=str))


def end_with_parent() -> None:
    """End this process when its parent ends, where the C library can do that."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _metrics(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each task and group, in the harness's order; a filter other than `none` is part of the metric's name."""
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, _, name = key.partition(",")
            if not name or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{name}")
            yield {
                "task": task, "metric": _metric_name(metric, name), "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                "n": found["n-samples"].get(task, {}).get("effective"),
                "higher_is_better": found["higher_is_better"].get(task, {}).get(metric),
            }  # fmt: skip


def _samples(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each document gave by each metric that gives one number."""
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                if isinstance(value := sample.get(metric), bool | int | float):
                    name = _metric_name(metric, sample["filter"])
                    yield {"task": task, "metric": name, "sample": str(sample["doc_id"]), "value": float(value)}


def _metric_name(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric}/{filtered}"


if __name__ == "__main__":
    run_lm_eval()
