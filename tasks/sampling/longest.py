"""The maximum length of an answer, before anything is sampled. Light, because plans call it."""

from __future__ import annotations

from math import nan
from pathlib import Path

from tasks.declarations import StepView
from tasks.formats.checkpoint import max_answer_tokens


def longest_answer(step: StepView) -> tuple[float, bool]:
    """Maximum tokens of one answer of a step that samples its `policy`, and whether its model comes from outside.

    The maximum is the step's max_tokens, else that of the model; nan if the run has to make the model first. Typical
    lengths are not known for a model from outside.
    """
    root = step
    while policy := root.first("policy"):
        root = policy
    source = root.choices.get("source")
    longest = root.params.get("max_new_tokens")
    if source is not None:
        longest = max_answer_tokens(root.base / Path(str(source.params.get("path"))).expanduser())
    return step.params["max_tokens"] or longest or nan, source is not None
