"""How long an answer can get, before anything is sampled. Light: a plan asks."""

from __future__ import annotations

from math import nan
from pathlib import Path

from tasks.declarations import StepView
from tasks.formats.checkpoint import max_answer_tokens


def longest_answer(step: StepView) -> tuple[float, bool]:
    """Most tokens of one answer of a step that samples its `policy`: its max_tokens, else what its model says; nan
    where that is not known before the run. And whether the model comes from outside: how long its answers are is not
    known from those of other models."""
    root = step
    while policy := root.first("policy"):
        root = policy
    source = root.choices.get("source")
    longest = root.params.get("max_new_tokens")
    if source is not None:
        longest = max_answer_tokens(root.base / Path(str(source.params.get("path"))).expanduser())
    return step.params["max_tokens"] or longest or nan, source is not None
