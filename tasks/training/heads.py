"""The classification head of a model by its config.json. Light, because `plan` calls it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.kinds import ATTRIBUTES

_TRAINED_HERE = {"alignflow_score": "end_of_turn"}
"""Mark in the configuration of a reward model trained by this project: its score is read at the token that ends the
answer's turn, whatever the chat template writes after it."""


def is_classifier(path: Path) -> bool:
    """Whether the checkpoint has a classification head. Raises DataError if it is not a checkpoint."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(config_json(path)))


class Attribute(NamedTuple):
    """An output of a reward model that estimates a number of its own: value = mean + std · output."""

    name: str
    mean: float = 0.0
    std: float = 1.0


def attributes_of(path: Path) -> tuple[Attribute, ...]:
    """The attributes that a reward model's outputs estimate, in their order; empty where it has one score.

    They are in `attributes.json` beside the model where it was trained here; those of others have the names of
    config.json and are what they are. Raises DataError as `check_scores` does.
    """
    check_scores(path)
    file = path / ATTRIBUTES
    if not file.exists():
        labels = _labels(config_json(path))
        return tuple(map(Attribute, labels)) if len(labels) > 1 else ()
    try:
        return tuple(Attribute(**entry) for entry in json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise DataError(f"{file} is no list of attributes with name, mean and std: {e}") from None


def write_attributes(directory: Path, attributes: Sequence[Attribute]) -> None:
    """Write `attributes.json`, where there are any."""
    if attributes:
        content = json.dumps([a._asdict() for a in attributes], indent=1)
        (directory / ATTRIBUTES).write_text(content + "\n", encoding="utf-8")


def check_scores(path: Path) -> None:
    """Raises DataError unless the checkpoint is a sequence-classification model that scores: with one output, or with
    several that are a regression's."""
    config = config_json(path)
    if not is_classifier(path):
        names = ", ".join(_architectures(config)) or "none"
        raise DataError(
            f"{path} has no classification head (architectures in config.json: {names}), so it is not a reward model: "
            "use a sequence-classification checkpoint, or train one with `train_reward`"
        )
    labels = _labels(config)
    if len(labels) != 1 and config.get("problem_type") != "regression":
        raise DataError(
            f"{path} classifies into {len(labels)} classes ({_listed(labels)}); a reward model has one output "
            "(num_labels 1 in config.json), or several that estimate numbers (problem_type: regression)"
        )


def check_one_score(path: Path, what: str) -> None:
    """Raises DataError unless the checkpoint is a sequence-classification model with one output, which `what` needs."""
    check_scores(path)
    labels = _labels(config_json(path))
    if len(labels) != 1:
        raise DataError(f"{path} has {len(labels)} outputs ({_listed(labels)}), and {what} needs one")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{', …' if names[4:] else ''}"


def is_trained_here(path: Path) -> bool:
    """Whether this project trained it, by `fit_reward` or as a value network."""
    return _TRAINED_HERE.items() <= config_json(path).items()


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


def config_json(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises DataError if it is missing or not a mapping in JSON."""
    file = path / "config.json"
    if not file.exists():
        raise DataError(f"{path} is not a Hugging Face model directory: config.json is missing")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise DataError(f"{file} is not valid JSON: {e}") from None
