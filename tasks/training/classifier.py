"""A reward model from outside, read as its card reads it: its own layout of texts, its own forward, its own position.

Which token's state becomes the score is the model's own affair: transformers' decoders take the last one that is not
the padding, encoders the first, and a template may write more behind the answer than the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tasks.chat import Refusal
from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message, needs_tools
from tasks.rendering import Template
from tasks.template import plain_tokenizer_of
from tasks.training.attention import check_attention
from tasks.training.model import packing_for, positions_of
from tasks.training.reward import open_classifier

Encoded = dict[str, list[int]]
"""A row's ids and whatever else the tokenizer gives a model (`token_type_ids`), each `(T,)`."""
NEAR = 1e-3
"""Largest difference between two ways to compute one score in float32 that rounding explains, relative above 1."""
_PROBES = ("Yes.", "It is the light that scatters.", "No idea, and I will not look it up. Ask someone else, please.")


class Layout:
    """How a model reads a conversation.

    With a chat template: the whole conversation by the template, no generation prompt. Without one, and with a
    tokenizer that has a separator, as encoders have: the pair of the prompt's text and the answer, with the
    tokenizer's own special tokens; the texts of a prompt of several messages stand one below the other, and
    conversations with tools cannot be read.
    Raises DataError where there is neither.
    """

    def __init__(self, source: Model) -> None:
        self.tokenizer = plain_tokenizer_of(source)
        self._template = Template(source, whole=True) if self.tokenizer.chat_template is not None else None
        if self._template is None and self.tokenizer.sep_token is None:
            raise DataError(
                f"{source.path} has neither a chat template nor a separator, so that nothing says how it reads a "
                "conversation: add the chat_template.jinja that it was trained with"
            )

    def encoded(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[Encoded | None]:
        """Ids of every conversation; None where it cannot be read whole."""
        if self._template is None:
            asked = ["\n".join(m["content"] for m in prompt) for prompt in prompts]
            made = self.tokenizer(asked, list(answers)) if asked else {"input_ids": []}
            names = [n for n in ("input_ids", "token_type_ids") if n in made]
            return [
                None if needs_tools(prompt) else {n: list(made[n][i]) for n in names}
                for i, prompt in enumerate(prompts)
            ]
        whole = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]
        read = self._template.conversations(whole)
        return [None if isinstance(ids, Refusal) else {"input_ids": ids} for ids in read]


class Classifier:
    """A sequence-classification model with one output, in float32, asked through its own forward.

    Raises DataError where it cannot be opened, or scores a row otherwise in company than alone.
    """

    def __init__(self, source: Model, device: torch.device) -> None:
        self._source = source
        self.layout = Layout(source)
        self.model = open_classifier(source, torch.float32).to(device)
        self._longest = _readable(self.model, positions_of(source))
        check_attention(self.model, source, self._each)
        self._check()

    def fits(self, row: Encoded) -> bool:
        """Whether the model has positions enough for it."""
        return self._longest is None or len(row["input_ids"]) <= self._longest

    def scores(self, rows: Sequence[Encoded]) -> list[float]:
        """Scores of rows that fit, in their order; rows of similar length go through the model together."""
        found = [0.0] * len(rows)
        for batch in self._batches(rows):
            with torch.inference_mode():
                values = self._forward(self._padded([rows[i] for i in batch])).tolist()
            for i, value in zip(batch, values, strict=True):
                found[i] = value
        return found

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Places, longest first. Without a padding token, transformers reads one row at a time."""
        budget = packing_for(self.model, 0).tokens if self._pad is not None else 0
        batch: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"])):
            if batch and (len(batch) + 1) * len(rows[batch[0]]["input_ids"]) > budget:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _padded(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad or 0}
        filled: dict[str, list[list[int]]] = {
            name: [row[name] + [fill.get(name, 0)] * (width - len(row[name])) for row in rows] for name in rows[0]
        }
        filled["attention_mask"] = [
            [1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows
        ]  # fmt: skip
        return {name: torch.tensor(values, device=self.model.device) for name, values in filled.items()}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.model(**inputs).logits
        return logits[:, 0].double()

    def _each(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._forward({"input_ids": row[None]}) for row in ids])

    @property
    def _pad(self) -> int | None:
        found: int | None = self.model.config.get_text_config().pad_token_id
        return found

    def _check(self) -> None:
        """Compare rows in company, padded, with each alone, as the model's card computes it."""
        made = self.layout.encoded([[{"role": "user", "content": "Why is the sky blue?"}]] * len(_PROBES), _PROBES)
        rows = [row for row in made if row and self.fits(row)]
        with torch.no_grad():
            alone = [float(self._forward(self._unpadded(row))[0]) for row in rows]
        for own, found in zip(alone, self.scores(rows), strict=True):
            if not abs(own - found) <= NEAR * max(1.0, abs(own)):
                raise DataError(
                    f"{self._source.path}: {type(self.model).__name__} gives {own:.6f} for a conversation alone and "
                    f"{found:.6f} for the same one padded beside longer ones, so its scores cannot be believed"
                )

    def _unpadded(self, row: Encoded) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([values], device=self.model.device) for name, values in row.items()}


def _readable(model: Any, positions: int | None) -> int | None:
    """RoBERTa and its kin count positions from behind the padding's number, so that they have a few less."""
    tables = (m for name, m in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    padding = next((getattr(table, "padding_idx", None) for table in tables), None)
    return positions if positions is None or padding is None else positions - padding - 1
