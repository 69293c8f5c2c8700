"""What a preference model answers with, by its config.json. Standard library only, because `plan` calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tasks.contract import DataError
from tasks.training.heads import check_scores, config_json, is_classifier
from tasks.training.pair_rm_files import is_pair_rm, pair_rm_files

Output = Literal["log_odds", "letter", "pair_rm"]
_MARK = "alignflow_preference"
"""Entry in the configuration of a preference model that this project trained: its Output."""


def mark_preference(path: Path, output: Output) -> None:
    """Write into a checkpoint's config.json that it compares two answers, and how."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), _MARK: output}, indent=2, sort_keys=True) + "\n")


def is_marked(path: Path) -> bool:
    """Whether this project trained the checkpoint to compare."""
    return _MARK in config_json(path)


def preference_output(path: Path) -> Output:
    """What the checkpoint answers with; one from outside is a PairRM, or a causal language model that answers with a
    letter.

    Raises DataError for a classifier from outside, whose layout of two answers is unknown.
    """
    if is_marked(path):
        output: Output = config_json(path)[_MARK]
        if output == "log_odds":
            check_scores(path)
        return output
    if is_pair_rm(path):
        pair_rm_files(path)
        return "pair_rm"
    if is_classifier(path):
        raise DataError(
            f"{path} is a sequence-classification model that this project did not train to compare, so how it reads "
            "two answers is unknown: use a causal language model that answers with the letter A or B, a model of "
            "`train_preference`, a PairRM, or, if it scores single answers, the oracle `reward_model`"
        )
    return "letter"
