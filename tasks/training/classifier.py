"""External reward models, used as their model cards do: own text layout, own forward pass, own position of the score.

The model's forward pass selects the token whose state becomes the score: decoders use the last one that is not padding,
encoders the first, and a template may write more after the answer than the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from tasks.chat import Refusal
from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message, uses_tools
from tasks.rendering import Template
from tasks.template import plain_tokenizer_of
from tasks.training.attention import check_attention
from tasks.training.device import Device
from tasks.training.model import packing_for, positions_of
from tasks.training.padding import Encoded, batches_by_length, padded
from tasks.training.reward import open_classifier

NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Tolerance for rounding between two computations of a score, relative above 1, by the type of the weights."""
_PROBES = ("Yes.", "It is the light that scatters.", "No idea, and I will not look it up. Ask someone else, please.")


class Layout:
    """The encoding of a conversation for a model.

    With a chat template: the whole conversation by the template, without a generation prompt. Otherwise, if the
    tokenizer has a separator (as for encoders): the pair of the prompt's text and the answer, with the tokenizer's own
    special tokens; several messages of a prompt are joined by newlines, and tools are not supported.
    Raises DataError if there is neither.
    """

    def __init__(self, source: Model) -> None:
        self.tokenizer = plain_tokenizer_of(source)
        self._template = Template(source, whole=True) if self.tokenizer.chat_template is not None else None
        if self._template is None and self.tokenizer.sep_token is None:
            raise DataError(
                f"{source.path} has neither a chat template nor a separator, so its text layout is unknown: add the "
                "chat_template.jinja with which it was trained"
            )

    def encoded(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[Encoded | None]:
        """Inputs of every conversation; None where it cannot be encoded completely."""
        if self._template is None:
            questions = ["\n".join(m["content"] for m in prompt) for prompt in prompts]
            inputs = self.tokenizer(questions, list(answers)) if questions else {"input_ids": []}
            names = [n for n in ("input_ids", "token_type_ids") if n in inputs]
            return [
                None if uses_tools(prompt) else {n: list(inputs[n][i]) for n in names}
                for i, prompt in enumerate(prompts)
            ]
        whole = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]
        rendered = self._template.conversations(whole)
        return [None if isinstance(ids, Refusal) else {"input_ids": ids} for ids in rendered]


class Classifier:
    """A sequence-classification model that scores, called through its own forward pass.

    Raises DataError if it cannot be opened, or if a row's score depends on its batch.
    """

    def __init__(self, source: Model, device: Device, dtype: torch.dtype) -> None:
        self._source, self._device = source, device
        self.layout = Layout(source)
        self.model = open_classifier(source, dtype).to(device.torch_device)
        _make_output_float32(self.model)
        self._longest = _max_length(self.model, positions_of(source))
        check_attention(self.model, source, self._each)
        self._check_padding()

    def fits(self, row: Encoded) -> bool:
        """Whether the row is within the model's maximum length."""
        return self._longest is None or len(row["input_ids"]) <= self._longest

    def scores(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """All outputs of rows that fit, in their order; rows of similar length are batched."""
        scores: list[list[float]] = [[]] * len(rows)
        for batch in self._batches(rows):
            with torch.inference_mode():
                values = self._forward(self._padded([rows[i] for i in batch])).tolist()
            for i, value in zip(batch, values, strict=True):
                scores[i] = value
        return scores

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Indices of rows. Without a padding token, transformers supports only single rows."""
        tokens = packing_for(self.model, self._device, 0).tokens if self._pad is not None else 0
        return batches_by_length([len(row["input_ids"]) for row in rows], tokens)

    def _padded(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return padded(rows, self._pad or 0, self.model.device)

    def _forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """`(B, M)` float64."""
        logits: torch.Tensor = self.model(**inputs).logits
        return logits.double()

    def _each(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._forward({"input_ids": row[None]}) for row in ids])

    @property
    def _pad(self) -> int | None:
        pad: int | None = self.model.config.get_text_config().pad_token_id
        return pad

    def _check_padding(self) -> None:
        """Compare the scores of padded rows in a batch with each alone, as the model card computes it."""
        encoded = self.layout.encoded([[{"role": "user", "content": "Why is the sky blue?"}]] * len(_PROBES), _PROBES)
        rows = [row for row in encoded if row and self.fits(row)]
        with torch.no_grad():
            alone = [x for row in rows for x in self._forward(self._unpadded(row))[0].tolist()]
        for own, beside in zip(alone, chain.from_iterable(self.scores(rows)), strict=True):
            if not abs(own - beside) <= NEAR[self.model.dtype] * max(1.0, abs(own)):
                raise DataError(
                    f"{self._source.path}: {type(self.model).__name__} gives {own:.6f} for a conversation alone and "
                    f"{beside:.6f} for the same one padded in a batch, so its scores are wrong"
                )

    def _unpadded(self, row: Encoded) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([values], device=self.model.device) for name, values in row.items()}


def _make_output_float32(model: Any) -> None:
    """Compute scores in float32, from what the body gives: in bfloat16 scores of 16 and more are an eighth apart."""
    body = {*model.base_model.modules()} if model.base_model is not model else set()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer.out_features == model.config.num_labels and layer not in body:
            layer.float().register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))


def _max_length(model: Any, positions: int | None) -> int | None:
    """Maximum length; RoBERTa and its relatives count positions from after the padding's id, so they have fewer."""
    tables = (m for name, m in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    padding = next((getattr(table, "padding_idx", None) for table in tables), None)
    return positions if positions is None or padding is None else positions - padding - 1
