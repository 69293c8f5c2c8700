"""Opening a reward model, from a policy's weights or its own, and writing one that transformers opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.contract import DataError
from tasks.kinds import ATTRIBUTES, Model
from tasks.template import tokenizer_of
from tasks.training.adapters import NAME, adapter_in, read_layers, save_adapter
from tasks.training.attention import attention_of, check_attention
from tasks.training.heads import (
    Attribute,
    attributes_of,
    check_one_score,
    check_scores,
    is_classifier,
    mark_trained_here,
    write_attributes,
)
from tasks.training.model import DTYPES, copy_files
from tasks.training.pair_texts import reads_pairs
from tasks.training.split import add_rest, save_rest


def open_classifier(source: Model, dtype: torch.dtype) -> Any:
    """A stored sequence-classification model that scores, in `dtype`, on the CPU, without dropout.

    Raises DataError if it has no such head, several classes, or missing weights.
    """
    from transformers import AutoConfig

    check_scores(source.path)
    model, missing = _load(source, AutoConfig.from_pretrained(source.path, local_files_only=True), dtype)
    if missing:
        raise DataError(f"{source.path} lacks weights of its {type(model).__name__}: {', '.join(sorted(missing)[:3])}")
    return model.eval()


def open_reward_model(
    source: Model,
    dtype: torch.dtype,
    seed: int = 0,
    head: torch.dtype | None = None,
    attributes: Sequence[Attribute] = (),
) -> Any:
    """A model to be trained on scores, in `dtype`, on the CPU, without dropout.

    A policy's weights get a new head drawn from N(0, 1/(d + 1)), d its width, without a bias; a checkpoint that has a
    head keeps it, and so does an adapter that has one. Raises DataError where the architecture has no such model or the
    head is that of a classifier.

    Args:
        head: type of its head; default: `dtype`.
        attributes: of a new head: an output for each; none: one output.

    Source: Huang et al., arXiv 2403.17031 (`summarize_from_feedback_details/reward.py`).
    """
    fresh = not is_classifier(source.path)
    if not fresh:
        check_scores(source.path)
    config = _config_of(source, fresh=fresh)
    if fresh:
        name_outputs(config, attributes)
    model, _ = _load(source.whole, config, dtype)
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise DataError(f"{type(model).__name__} has no linear head called `score`; decoders such as Llama have one")
    model.score.to(head or dtype)
    if fresh:
        _draw_head(model.score, seed)
    if source.adapter is not None:
        read_layers(model, source, head=not fresh)
        model.score.to(head or dtype)
    return model.eval()


def classifier_on(model: Any, source: Model) -> Any:
    """A reward model whose body is that of `model`, modules and all, with a head of its own whose weights are 0.

    source: its configuration, of a reward model.
    """
    from transformers import AutoModelForSequenceClassification

    check_one_score(source.path, "a value network")
    with torch.device("meta"):
        made = AutoModelForSequenceClassification.from_config(_config_of(source, fresh=False))
    setattr(made, made.base_model_prefix, model.base_model)
    made.config._attn_implementation = model.config._attn_implementation
    made.score.to_empty(device=model.device)
    for parameter in made.score.parameters():
        torch.nn.init.zeros_(parameter)
    return made.eval()


def name_outputs(config: Any, attributes: Sequence[Attribute]) -> None:
    """Give a configuration an output for each attribute, or one without a name."""
    config.num_labels = max(1, len(attributes))
    if attributes:
        config.id2label = {i: a.name for i, a in enumerate(attributes)}
        config.label2id = {a.name: i for i, a in enumerate(attributes)}
        config.problem_type = "regression"


def _config_of(source: Model, *, fresh: bool) -> Any:
    """A configuration with the padding that scores are read by; fresh: of a policy, whose head is made anew."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.path, local_files_only=True)
    if fresh:
        config.num_labels = 1
    config.get_text_config().pad_token_id = _pad(source)
    return config


def _load(source: Model, config: Any, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """The model, and the names of the weights that its files lack."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source.path, config=config, dtype=dtype, attn_implementation=attention_of(config), local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except ValueError as e:
        raise DataError(f"{source.path} cannot be opened as a reward model: {e}") from e
    if dtype == torch.float32:
        add_rest(model, source)
    check_attention(model.eval(), source, lambda ids: model(input_ids=ids).logits)
    return model, set(found["missing_keys"])


def save_reward_model(
    model: Any,
    source: Model,
    directory: Path,
    dtype: str = "float32",
    adapter: str = NAME,
    attributes: Sequence[Attribute] | None = None,
) -> None:
    """Write `model` into `directory`: weights and configuration anew, tokenizer, template and
    generation_config.json, which may name the token that ends an answer, as `source` has them.

    The configuration says that the score is read at the end of the answer's turn, but for an encoder's, which reads
    pairs of texts as before. Of a model with an adapter, that
    alone and the head are written, as float32.

    dtype: of the weights in the files; another one than float32 is what `model` itself is cast to. `split`: bfloat16,
        and the rest in `state/`.
    adapter: name of its layers, where a model has several.
    attributes: what its outputs estimate; None: what those of `source` do.
    """
    if not reads_pairs(source):
        mark_trained_here(model.config)
    if attributes is None and (source.path / ATTRIBUTES).exists():
        attributes = attributes_of(source.path)
    write_attributes(directory, attributes or ())
    if adapter_in(model, adapter):
        save_adapter(model, source.whole, directory, adapter)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        copy_files(source, directory, "config.json", ATTRIBUTES)
        return
    if dtype == "split":
        save_rest(model, directory)
        dtype = "bfloat16"
    model.to(DTYPES[dtype]).save_pretrained(directory)
    copy_files(source, directory, "config.json", ATTRIBUTES)


def _draw_head(head: torch.nn.Linear, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    drawn = torch.randn(head.weight.shape, generator=noise) / (head.in_features + 1) ** 0.5
    with torch.no_grad():
        head.weight.copy_(drawn)
        if head.bias is not None:
            head.bias.zero_()


def _pad(source: Model) -> int | None:
    """The padding token: transformers reads the score left of the padding, so the EOS must not be padding."""
    tokenizer = tokenizer_of(source)
    if tokenizer.eos_token_id is None:
        raise DataError(f"the tokenizer of {source.path} has no EOS: a reward model reads its score there")
    return None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
