"""Encoders as reward models, to be trained as they are served: prompt and answer as a pair of texts, own forward pass.

An encoder reads a row as a whole and pools as it likes, so its rows are padded and share nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.chat import Refusal
from tasks.contract import DataError, SpecError
from tasks.kinds import Model
from tasks.message import uses_tools
from tasks.rendering import AnswerText, Rendered, Template
from tasks.template import plain_tokenizer_of
from tasks.training.body import Inputs
from tasks.training.heads import is_classifier
from tasks.training.model import positions_of, text_config

_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "longformer")
_NEAR = 1e-3
"""Tolerance for rounding between a row alone and the same one padded, relative above 1."""


def reads_pairs(source: Model) -> bool:
    """Whether a checkpoint is a classifier that reads pairs of texts: its tokenizer has a separator and no template."""
    if not (source.path / "config.json").exists() or not is_classifier(source.path):
        return False
    tokenizer = plain_tokenizer_of(source)
    return tokenizer.chat_template is None and tokenizer.sep_token is not None


def longest_row(source: Model) -> int | None:
    """Most tokens of a prompt with its answer; None where config.json does not say.

    RoBERTa and its relatives count positions from after the padding's id, so they have fewer.
    """
    positions = positions_of(source)
    config = text_config(source)
    if positions is None or not str(config.get("model_type", "")).startswith(_COUNT_FROM_PADDING):
        return positions
    return positions - int(config.get("pad_token_id") or 0) - 1


def texts_of(source: Model) -> Template | PairTexts:
    """What makes tokens of a checkpoint's texts: its chat template, or the pairs that it reads."""
    return PairTexts(source) if reads_pairs(source) else Template(source)


class PairTexts:
    """Prompt and answer as the tokenizer encodes a pair, e.g. [CLS] prompt [SEP] answer [SEP].

    Several messages of a prompt are joined by newlines. The prompt's ids reach up to the answer's first own token.
    """

    def __init__(self, source: Model) -> None:
        self._tokenizer = plain_tokenizer_of(source)

    def answers(self, answers: Sequence[AnswerText]) -> list[Rendered | Refusal]:
        """Ids of every answer with its prompt."""
        if not answers:
            return []
        prompts = ["\n".join(m["content"] for m in answer.prompt) for answer in answers]
        encoded = self._tokenizer(prompts, [answer.text for answer in answers])
        return [self._rendered(answer, encoded, i) for i, answer in enumerate(answers)]

    def types(self) -> tuple[int, int] | None:
        """token_type_ids of prompt and answer; None where the model has none."""
        encoded = self._tokenizer("a", "a")
        if "token_type_ids" not in encoded:
            return None
        first = encoded.sequence_ids(0).index(1)
        return encoded["token_type_ids"][0], encoded["token_type_ids"][first]

    def _rendered(self, answer: AnswerText, encoded: Any, i: int) -> Rendered | Refusal:
        if uses_tools(answer.prompt):
            return Refusal("a pair of texts has no place for tools")
        ids, parts = list(encoded["input_ids"][i]), encoded.sequence_ids(i)
        if 1 not in parts:
            return Refusal("the tokenizer makes no token of the answer")
        first = parts.index(1)
        return Rendered(ids[:first], ids[first:], first)


class PairScores(nn.Module):
    """A sequence-classification model that returns the outputs of each answer by its own forward pass and pooling.

    Rows are those of `with_end_token`, one answer to a packed row. Raises SpecError where a row's outputs depend on its
    batch.
    """

    shares_rows = False

    def __init__(self, model: Any, source: Model) -> None:
        super().__init__()
        self.model = model
        self.types = PairTexts(source).types()
        pad = model.config.get_text_config().pad_token_id
        self.pad = plain_tokenizer_of(source).pad_token_id if pad is None else pad
        if self.pad is None:
            raise DataError(f"{source.path} has no padding token, which batches need: set pad_token_id in config.json")
        self._check()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64, or `(S, M)` of M > 1 outputs, in the micro-batch's order."""
        ends = inputs.lengths.cumsum(0)
        row, last = self._place(inputs, ends - 1)
        _, fork = self._place(inputs, ends - inputs.lengths)
        places = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)
        read = places <= last[:, None]
        ids = inputs.ids[row].masked_fill(~read, self.pad)
        found = self._outputs(ids, read, (places > fork[:, None]) & read)
        return found if found.shape[1] > 1 else found[:, 0]

    def _place(self, inputs: Inputs, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Packed row, and place in it, of the position that predicts each of these answer tokens."""
        width, sources = inputs.ids.shape[1], inputs.sources[tokens]
        return sources // width, sources % width

    def _outputs(self, ids: Tensor, read: Tensor, answer: Tensor) -> Tensor:
        types = {}
        if self.types is not None:
            prompt, other = self.types
            types = {"token_type_ids": torch.where(answer, other, prompt).masked_fill(~read, 0)}
        logits: Tensor = self.model(input_ids=ids, attention_mask=read.long(), **types).logits
        return logits.double()

    def _check(self) -> None:
        size = self.model.config.get_text_config().vocab_size
        ids = torch.tensor([[i % size for i in range(4, 13)]], device=self.model.device)
        read = torch.ones_like(ids, dtype=torch.bool)
        padded = torch.cat([ids, torch.full_like(ids, self.pad)], dim=1)
        with torch.no_grad():
            alone = self._outputs(ids, read, ~read)
            beside = self._outputs(padded, torch.cat([read, ~read], dim=1), padded != padded)
        if not torch.allclose(alone, beside, rtol=_NEAR, atol=_NEAR):
            raise SpecError(
                f"{type(self.model).__name__} gives {float(alone[0, 0]):.6f} for a row alone and "
                f"{float(beside[0, 0]):.6f} for the same one padded, so it cannot be trained in batches"
            )
