"""PairRM checkpoints by their config.json, in both published layouts. Light, because `plan` calls it.

`llm-blender/PairRM-hf` has the configuration of a DeBERTa-v2 with the ids of four prefix tokens. `llm-blender/PairRM`
has the settings of LLM-Blender's ranker (`RankerConfig`), which name the backbone and hold no sizes. The weights have
the same names in both: `pretrained_model.*` and `head_layer.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.training.heads import config_json

ARCHITECTURE = "DebertaV2PairRM"
_RANKER = "pairranker"
SOURCE_TOKENS, CANDIDATE_TOKENS = 1224, 412
"""Lengths of llm-blender/PairRM (its config.json), which llm-blender/PairRM-hf names in its model card alone."""
PREFIXES = {
    "source_prefix_id": "<|source|>", "cand1_prefix_id": "<|candidate1|>", "cand2_prefix_id": "<|candidate2|>",
    "cand_prefix_id": "<|candidate|>",
}  # fmt: skip
"""Name in config.json → token, in the order in which LLM-Blender adds them to the tokenizer."""


class PairRMFiles(NamedTuple):
    """What a checkpoint's config.json says."""

    backbone: Mapping[str, Any] | None
    """Configuration of the DeBERTa-v2; None in LLM-Blender's layout, where the weights say the sizes."""
    outputs: int
    """Numbers that the head gives for each answer; their mean counts."""
    source_tokens: int
    """Most tokens of the prompt, with its prefix and special tokens."""
    candidate_tokens: int
    """Most tokens of each answer; a shorter prompt leaves them more."""
    prefix_ids: Mapping[str, int]
    """Ids of the prefix tokens by the names of PREFIXES; empty where the tokenizer alone has them."""


def is_pair_rm(path: Path) -> bool:
    """Whether the directory holds a PairRM. Raises DataError if its config.json is missing or invalid."""
    config = config_json(path)
    return ARCHITECTURE in (config.get("architectures") or ()) or config.get("ranker_type") == _RANKER


def pair_rm_files(path: Path) -> PairRMFiles:
    """Read config.json. Raises DataError if it is not a PairRM's, or names a backbone that is not known here."""
    config = config_json(path)
    if not is_pair_rm(path):
        shown = ", ".join(config.get("architectures") or ()) or "none"
        raise DataError(
            f"{path} is not a PairRM: config.json has architectures {shown}, and neither {ARCHITECTURE} (as "
            f"llm-blender/PairRM-hf) nor ranker_type {_RANKER} (as llm-blender/PairRM)"
        )
    in_blender_layout = config.get("ranker_type") == _RANKER
    if in_blender_layout and "deberta-v3" not in str(config.get("model_name")):
        raise DataError(
            f"{path} is a ranker on {config.get('model_name')}; only rankers on microsoft/deberta-v3-* are supported, "
            f"or checkpoints whose config.json describes a DeBERTa-v2 with the architecture {ARCHITECTURE}"
        )
    return PairRMFiles(
        None if in_blender_layout else config,
        _number(path, config, ("n_tasks",), 1),
        _number(path, config, ("source_maxlength", "source_max_length"), SOURCE_TOKENS),
        _number(path, config, ("candidate_maxlength", "candidate_max_length"), CANDIDATE_TOKENS),
        {name: int(config[name]) for name in PREFIXES if name in config},
    )


def _number(path: Path, config: Mapping[str, Any], names: tuple[str, ...], default: int) -> int:
    """The positive integer under one of these names."""
    for name in names:
        if name in config:
            value = config[name]
            if not isinstance(value, int) or value < 1:
                raise DataError(f"{path / 'config.json'}: {name} = {value!r}; it must be a positive integer")
            return value
    return default
