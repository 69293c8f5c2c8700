"""Decoding of a batch of answers with transformers models: one, or several that decode as one geometric mixture.

A mixture samples each token from Π_i π_i^w_i, normalised over the vocabulary: the scores of the models are added up
with their weights. Each model keeps keys and values of its own, and only one set of tokens is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.sampling.cache import KeysValues, Prefix, RowCache, prefix_of
from tasks.sampling.draw import barred_mask, logps_of, noisy_scores
from tasks.sampling.noise import Noise
from tasks.sampling.requests import OnProgress, Options, Request, SampledAnswer
from tasks.sampling.stopping import finished_answer, ids_without_text, reached_stop

PREFILL_TOKENS = 8192
"""Maximum tokens of a prefill batch, including padding."""
FINISHED_SHARE = 0.125
"""Share of finished rows at which the batch is rebuilt without them."""


class DecodingModel(NamedTuple):
    """A transformers model that decodes, and its weight in a mixture."""

    model: Any
    shapes: Sequence[KeysValues]
    """Keys and values of every layer without a column, as templates (`cache_shapes`)."""
    weight: float = 1.0
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What the model computes in, such as autocast."""


class Vocabulary(NamedTuple):
    """How tokens become text, and which of them are never sampled."""

    tokenizer: Any
    barred: Tensor | None
    """`(V,)` bool; None: all may be sampled."""


def cache_shapes(model: Any) -> list[KeysValues]:
    """Keys and values of every layer of a transformers model, without a column."""
    with torch.inference_mode():
        return [KeysValues(k[:, :, :0], v[:, :, :0]) for k, v in prefix_of(model.base_model, [[0]]).layers]


def vocabulary_for(model: Any, tokenizer: Any) -> Vocabulary:
    """The vocabulary of a transformers model; ids that have no text are barred."""
    size = model.get_output_embeddings().weight.shape[0]
    return Vocabulary(tokenizer, barred_mask(ids_without_text(tokenizer, size), size, model.device))


def fitting_rows(models: Sequence[DecodingModel], requests: Sequence[Request], batch: int, memory: float) -> int:
    """How many rows of maximum length fit into `memory` bytes of keys and values; at most `batch`."""
    column = sum(x.shape[1] * x.shape[3] * x.element_size() for m in models for pair in m.shapes for x in pair)
    longest = max((len(r.prompt_tokens) + r.max_tokens for r in requests), default=1)
    return max(1, min(batch, int(memory // (column * longest))))


def decode(
    models: Sequence[DecodingModel],
    vocabulary: Vocabulary,
    requests: Sequence[Request],
    options: Options,
    rows: int,
    on_progress: OnProgress,
) -> list[SampledAnswer]:
    """One answer per request, in their order. rows: most answers that are decoded at once.

    `token_logps` are those of the model, or of the mixture, at temperature 1.
    """
    with torch.inference_mode():
        return _Batch(models, vocabulary, requests, options, rows).run(on_progress)


class _Row:
    """An unfinished completion; no model has processed its last token yet."""

    def __init__(self, number: int, request: Request) -> None:
        self.number = number
        self.prompt = request.prompt_tokens
        self.left = request.max_tokens
        self.noise = Noise(request.seed)
        self.tokens: list[int] = []
        self.token_logps: list[float] = []

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    @property
    def position(self) -> int:
        """Of the last token."""
        return len(self.prompt) + len(self.tokens) - 1


class _Batch:
    """One call of `decode`: continuous batching, in which waiting requests replace finished rows."""

    def __init__(
        self, models: Sequence[DecodingModel], vocabulary: Vocabulary, requests: Sequence[Request], options: Options,
        rows: int,
    ) -> None:  # fmt: skip
        self.models, self.options, self.capacity = models, options, rows
        self.tokenizer, self.barred = vocabulary
        # Long prompts first: running out of memory shows at once, and neighbours need little padding.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_tokens))
        self.waiting = [_Row(i, requests[i]) for i in order][::-1]
        self.caches = [RowCache(one.shapes) for one in models]
        self.rows: list[_Row | None] = []
        """By row of the caches; None for a finished one."""
        self.answers: dict[int, SampledAnswer] = {}

    def run(self, on_progress: OnProgress) -> list[SampledAnswer]:
        while True:
            live = [i for i, row in enumerate(self.rows) if row is not None]
            if not live and not self.waiting:
                return [self.answers[i] for i in range(len(self.answers))]
            refill = len(live) <= self.capacity // 2 and self.waiting
            if refill or self.caches[0].full or len(live) <= (1 - FINISHED_SHARE) * len(self.rows):
                self._rebuild(live)
                live = list(range(len(self.rows)))
            self._step(live)
            on_progress(len(self.answers))

    def _rebuild(self, live: list[int]) -> None:
        """Drop finished rows, and add waiting ones if at least half of the capacity is free."""
        fresh: list[_Row] = []
        if len(live) <= self.capacity // 2:
            fresh = [self.waiting.pop() for _ in range(min(self.capacity - len(live), len(self.waiting)))]
        groups = _groups([list(g) for _, g in groupby(fresh, key=lambda row: tuple(row.prompt))])
        sources = [[i for i, copies in enumerate(prompts) for _ in copies] for prompts in groups]
        for one, cache in zip(self.models, self.caches, strict=True):
            with one.computing():
                prefixes = [_prefix(one, [list(copies[0].prompt[:-1]) for copies in prompts]) for prompts in groups]
            cache.rebuild(live, prefixes, sources)
        self.rows = [*(self.rows[i] for i in live), *fresh]

    def _step(self, live: list[int]) -> None:
        """Sample one token for every live row."""
        logits = self._logits()
        rows = [row for row in self.rows if row is not None]
        if len(live) < len(self.rows):
            logits = logits[torch.tensor(live, device=logits.device)]
        streams, positions = [row.noise for row in rows], [len(row.tokens) for row in rows]
        tokens = noisy_scores(logits, streams, positions, self.options, self.barred).argmax(1)
        for row, token, logp in zip(rows, tokens.tolist(), logps_of(logits, tokens).tolist(), strict=True):
            row.tokens.append(token)
            row.token_logps.append(logp)
            row.left -= 1
        by_text = reached_stop(self.tokenizer, [row.tokens for row in rows], self.options.stop)
        for i, row, text in zip(live, rows, by_text, strict=True):
            if text or not row.left or row.tokens[-1] in self.options.stop_ids:
                self.answers[row.number] = finished_answer(self.tokenizer, row.tokens, row.token_logps, self.options)
                self.rows[i] = None

    def _logits(self) -> Tensor:
        """Scores of each row's next token, `(rows, V)` float32; those of finished rows are meaningless."""
        device = self.models[0].model.device
        ids = torch.tensor([[row.last if row else 0] for row in self.rows], device=device)
        positions = torch.tensor([[row.position if row else 0] for row in self.rows], device=device)
        scores = [self._scores(*each, ids, positions) for each in zip(self.models, self.caches, strict=True)]
        first, *others = (
            x if one.weight == 1 else x * one.weight for x, one in zip(scores, self.models, strict=True)
        )  # fmt: skip
        for other in others:
            first = first + other
        return first

    def _scores(self, one: DecodingModel, cache: RowCache, ids: Tensor, positions: Tensor) -> Tensor:
        with one.computing():
            out: Any = one.model(
                input_ids=ids, position_ids=positions, attention_mask=cache.mask(), past_key_values=cache.cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        scores: Tensor = out.logits[:, -1].float()
        return scores


def _prefix(one: DecodingModel, prompts: list[list[int]]) -> Prefix:
    """Keys and values of a group of prompts without their last tokens, each distinct prompt once."""
    if not prompts[0]:
        return Prefix(list(one.shapes), [0] * len(prompts))
    prefix = prefix_of(one.model.base_model, [p or [0] for p in prompts])
    return prefix._replace(lengths=[len(p) for p in prompts])


def _groups(prompts: list[list[_Row]]) -> list[list[list[_Row]]]:
    """Prompts, longest first, in groups of at most `PREFILL_TOKENS` padded tokens."""
    groups: list[list[list[_Row]]] = []
    for prompt in prompts:
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0][0].prompt) > PREFILL_TOKENS:
            groups.append([])
        groups[-1].append(prompt)
    return groups
