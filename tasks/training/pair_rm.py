"""PairRM, the ranker of LLM-Blender: a DeBERTa-v2 that reads a prompt with two answers, and a head on its prefixes.

Own implementation for current transformers, which llm-blender does not support; its weights are loaded under the
published names. Source of the architecture: `DebertaV2PairRM` (`llm_blender/pair_ranker/pairrm.py`) and
`CrossCompareReranker` (`ranker.py`) of yuchenlin/LLM-Blender, read at commit 5d38ca9; of the sizes and ids: config.json
of llm-blender/PairRM-hf, config.json of llm-blender/PairRM and `pairrm_to_hf.ipynb`. Jiang, Ren and Lin,
arXiv 2306.02561, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2Model, DebertaV2PreTrainedModel

from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message
from tasks.training.device import this_device
from tasks.training.model import keep_memory, packing_for
from tasks.training.padding import batches_by_length, padded
from tasks.training.pair_rm_files import pair_rm_files
from tasks.training.pair_rm_texts import PairRMTexts

LogOdds = Callable[[Sequence[Sequence[Message]], Sequence[str], Sequence[str]], list[float | None]]
_HEAD_CHANNELS = 64
"""Channels per attention head of all sizes of DeBERTa-v3."""


class PairRM(DebertaV2PreTrainedModel):
    """The log-odds that the first answer is better: mean over outputs of head(prompt, first) − head(prompt, second).

    The head is Linear(2h, h) – tanh – Linear(h, outputs) on the last layer's states of the prompt's prefix token and
    the answer's. Positions are relative, so a row may be longer than max_position_embeddings.
    """

    base_model_prefix = "pretrained_model"
    config_class = DebertaV2Config

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        # The published names are those of a Sequential with dropout at its places 0 and 3.
        self.head_layer = nn.Sequential(
            nn.Identity(), nn.Linear(2 * width, width), nn.Tanh(), nn.Identity(), nn.Linear(width, config.n_tasks)
        )
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prefixes: Tensor) -> Tensor:
        """`(B,)` log-odds of rows `(B, T)`; prefixes: `(B, 3)`, places of the prefix tokens in each row."""
        states = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rows = torch.arange(len(states), device=states.device)[:, None]
        prompt, first, second = states[rows, prefixes].to(self.head_layer[1].weight.dtype).unbind(1)
        left, right = (self.head_layer(torch.cat([prompt, answer], dim=-1)) for answer in (first, second))
        difference: Tensor = (left - right).mean(dim=-1)
        return difference


def open_pair_rm(source: Model, dtype: torch.dtype) -> PairRM:
    """A stored PairRM, in `dtype` with its head in float32, on the CPU. Raises DataError where weights are missing."""
    files = pair_rm_files(source.path)
    config = DebertaV2Config(**(files.backbone or _backbone_of(source.path)))
    config.n_tasks = files.outputs
    try:
        model, report = PairRM.from_pretrained(
            source.path, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, OSError) as e:
        raise DataError(f"{source.path} cannot be opened as a PairRM: {e}") from e
    missing = sorted(report["missing_keys"])
    if missing:
        raise DataError(f"{source.path} lacks weights of a PairRM: {', '.join(missing[:3])}")
    model.head_layer.float()
    return model.eval()


def pair_rm_log_odds(source: Model, dtype: str) -> LogOdds:
    """The opened model as a function of prompts, first and second answers; None where the layout has no place for a
    prompt. dtype: name of the type of the weights, or `auto`."""
    keep_memory()
    device = this_device()
    texts = PairRMTexts(source, pair_rm_files(source.path))
    model = open_pair_rm(source, device.dtype(dtype))
    _check_embeddings(source, model, texts)
    model.to(device.torch_device)
    tokens = packing_for(model, device, 0).tokens
    prefixes = [texts.ids[name] for name in ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")]

    def log_odds(prompts: Any, first: Sequence[str], second: Sequence[str]) -> list[float | None]:
        made = texts.encoded(prompts, first, second)
        found: list[float | None] = [None] * len(made)
        rows = [(i, ids) for i, ids in enumerate(made) if ids is not None]
        for batch in batches_by_length([len(ids) for _, ids in rows], tokens):
            some = [rows[j] for j in batch]
            places = torch.tensor([[ids.index(prefix) for prefix in prefixes] for _, ids in some])
            inputs = padded([{"input_ids": ids} for _, ids in some], model.config.pad_token_id, device.torch_device)
            with torch.inference_mode():
                values = model(**inputs, prefixes=places.to(device.torch_device)).double().tolist()
            for (i, _), value in zip(some, values, strict=True):
                found[i] = value
        return found

    return log_odds


def _check_embeddings(source: Model, model: PairRM, texts: PairRMTexts) -> None:
    rows, largest = model.config.vocab_size, max(texts.ids.values())
    if largest >= rows:
        raise DataError(
            f"{source.path}: the tokenizer gives prefix tokens ids up to {largest}, and the model has {rows} "
            "embeddings: use the tokenizer that was published with the model"
        )


def _backbone_of(path: Path) -> dict[str, Any]:
    """The configuration of a DeBERTa-v3 with the sizes of these weights; all sizes of the family share the rest."""
    shapes: dict[str, Sequence[int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    layer = "pretrained_model.encoder.layer."
    try:
        vocabulary, width = shapes["pretrained_model.embeddings.word_embeddings.weight"]
        inner, _ = shapes[f"{layer}0.intermediate.dense.weight"]
        buckets = shapes["pretrained_model.encoder.rel_embeddings.weight"][0] // 2
    except KeyError as e:
        raise DataError(f"{path} lacks weights of a PairRM: {e.args[0]}") from None
    return {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": len({name.split(".")[3] for name in shapes if name.startswith(layer)}),
        "num_attention_heads": max(1, width // _HEAD_CHANNELS), "position_buckets": buckets,
        "max_relative_positions": -1, "max_position_embeddings": 512, "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
        "layer_norm_eps": 1e-7, "hidden_act": "gelu", "pad_token_id": 0,
    }  # fmt: skip
