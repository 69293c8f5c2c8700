"""What a preference model answers with, by its config.json. Standard library only, because `plan` calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tasks.contract import DataError
from tasks.training.heads import check_scores, is_classifier

Output = Literal["log_odds", "letter"]
_MARK = "alignflow_preference"
"""Entry in the configuration of a preference model that this project trained: its Output."""


def mark_preference(path: Path, output: Output) -> None:
    """Write into a checkpoint's config.json that it compares two answers, and how."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), _MARK: output}, indent=2, sort_keys=True) + "\n")


def is_marked(path: Path) -> bool:
    """Whether this project trained the checkpoint to compare."""
    return _MARK in _config(path)


def preference_output(path: Path) -> Output:
    """What the checkpoint answers with; one from outside must be a causal language model that answers with a letter.

    Raises DataError for a classifier from outside, whose layout of two answers is unknown.
    """
    if is_marked(path):
        output: Output = _config(path)[_MARK]  # type: ignore[assignment]
        if output == "log_odds":
            check_scores(path)
        return output
    if is_classifier(path):
        raise DataError(
            f"{path} is a sequence-classification model that this project did not train to compare, so how it reads "
            "two answers is unknown: use a causal language model that answers with the letter A or B, a model of "
            "`train_preference`, or, if it scores single answers, the oracle `reward_model`"
        )
    return "letter"


def _config(path: Path) -> dict[str, str]:
    file = path / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"{path} is not a Hugging Face model directory: config.json is missing") from None
    except (ValueError, TypeError) as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
