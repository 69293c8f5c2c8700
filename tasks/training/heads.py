"""The classification head of a model by its config.json. Standard library only, because `plan` calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.contract import DataError

_TRAINED_HERE = {"alignflow_score": "end_of_turn"}
"""Mark in the configuration of a reward model trained by this project: its score is read at the token that ends the
answer's turn, whatever the chat template writes after it."""


def is_classifier(path: Path) -> bool:
    """Whether the checkpoint has a classification head. Raises DataError if it is not a checkpoint."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(_config(path)))


def check_scores(path: Path) -> None:
    """Raises DataError unless the checkpoint is a sequence-classification model with one output."""
    config = _config(path)
    if not is_classifier(path):
        names = ", ".join(_architectures(config)) or "none"
        raise DataError(
            f"{path} has no classification head (architectures in config.json: {names}), so it is not a reward model: "
            "use a sequence-classification checkpoint, or train one with `train_reward`"
        )
    labels = _labels(config)
    if len(labels) != 1:
        raise DataError(
            f"{path} classifies into {len(labels)} classes ({', '.join(labels[:4])}{', …' if labels[4:] else ''}); a "
            "reward model has one output (num_labels 1 in config.json)"
        )


def is_trained_here(path: Path) -> bool:
    """Whether this project trained it, by `fit_reward` or as a value network."""
    return _TRAINED_HERE.items() <= _config(path).items()


def mark_trained_here(config: Any) -> None:
    """Mark a transformers configuration that is about to be saved."""
    for name, value in _TRAINED_HERE.items():
        setattr(config, name, value)


def _architectures(config: dict[str, Any]) -> list[str]:
    return config.get("architectures") or []


def _labels(config: dict[str, Any]) -> list[str]:
    """Names of the outputs; transformers assumes two if the configuration has none."""
    if names := config.get("id2label"):
        return list(map(str, names.values()))
    return [f"LABEL_{i}" for i in range(config.get("num_labels", 2))]


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.exists():
        raise DataError(f"{path} is not a Hugging Face model directory: config.json is missing")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
