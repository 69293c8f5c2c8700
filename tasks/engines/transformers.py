"""Sampling with a transformers model: for machines without vLLM, and byte-identical when resumed.

A completion's noise depends only on its seed (`tasks/sampling/noise.py`), so the batch affects only the last bits of
its log-probabilities. The order of requests determines the batches, so equal requests give equal bytes (for one CPU
type and number of threads). Not supported: models whose layers have more state than keys and values (state spaces).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.calls import Adapter
from tasks.contract import Bounds, SpecError
from tasks.kinds import Model, Policy
from tasks.sampling.cache import KeysValues, Prefix, RowCache, has_plain_cache, prefix_of
from tasks.sampling.draw import barred_mask, logps_of, noisy_scores
from tasks.sampling.noise import Noise
from tasks.sampling.requests import Engine, OnProgress, Options, Request, SampledAnswer, cached_engine, evict
from tasks.sampling.stopping import finished_answer, ids_without_text, reached_stop
from tasks.sampling.weights import checked_weights, weights_identity
from tasks.template import tokenizer_of
from tasks.training.adapters import TENSORS, add_layers, fill_layers, remove_layers, stored_adapter

PREFILL_TOKENS = 8192
"""Maximum tokens of a prefill batch, including padding."""
FINISHED_SHARE = 0.125
"""Share of finished rows at which the batch is rebuilt without them."""


def transformers(
    policy: Policy,
    *,
    batch: Annotated[int, Bounds(min=1)] = 512,
    memory: Annotated[float, Bounds(above=0)] = 4.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Engine:
    """Completions by a transformers model in this process, in large batches.

    Args:
        policy: a Hugging Face directory, or an adapter.
        batch: maximum completions per batch.
        memory: maximum GiB for keys and values; limits the batch of long completions.
        dtype: of the weights; `auto`: float32 on a CPU, bfloat16 on a GPU.
    """
    key = ("transformers", weights_identity(policy.whole), batch, memory, dtype)
    return cached_engine(policy, key, lambda: TransformersEngine(policy.whole, batch, memory, dtype))


class TransformersEngine:
    """A loaded model. See `tasks.sampling.requests.Engine`."""

    def __init__(self, base: Model, batch: int, memory: float, dtype: str) -> None:
        from tasks.training.device import this_device
        from tasks.training.model import open_model

        device = this_device()
        self._device = device.torch_device
        self.model = open_model(base, device.dtype(dtype)).to(self._device).eval()
        self._layers: Adapter | None = None
        """The adapter whose layers are in the model."""
        self._adapter = ""
        """Identity of their weights; empty for those that a trainer sent."""
        self.body = self.model.base_model
        if not has_plain_cache(self.body):
            raise SpecError(f"{type(self.model).__name__} has more state than keys and values: use engine=vllm")
        self.tokenizer = tokenizer_of(base)
        size = self.model.get_output_embeddings().weight.shape[0]
        self.barred = barred_mask(ids_without_text(self.tokenizer, size), size, self.model.device)
        self._batch, self._memory = batch, memory * 2**30
        with torch.inference_mode():
            self.shapes = [KeysValues(k[:, :, :0], v[:, :, :0]) for k, v in prefix_of(self.body, [[0]]).layers]

    def use(self, policy: Policy) -> None:
        adapter = stored_adapter(policy)
        if adapter is None:
            self._place(None)
        elif (identity := weights_identity(policy)) != self._adapter:
            self._place(adapter, load_file(policy.path / TENSORS), str(policy.path))
            self._adapter = identity

    def _place(self, adapter: Adapter | None, tensors: Mapping[str, Tensor] = {}, where: str = "") -> None:
        """Make the model's layers those of an adapter, or take them out. Without layers it is the base, bit for bit."""
        self._wake()
        self._adapter = ""
        if adapter != self._layers:
            remove_layers(self.model)
            self._layers = None
            if adapter is not None:
                add_layers(self.model, adapter)
                self._layers = adapter
        if adapter is not None:
            fill_layers(self.model, tensors, where)

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[SampledAnswer]:
        self._wake()
        with torch.inference_mode():
            return _Batch(self, requests, options, self._rows(requests)).run(on_progress)

    def generate_parts(
        self, parts: Iterable[Sequence[Request]], options: Options, on_progress: OnProgress
    ) -> Iterator[list[SampledAnswer]]:
        """One part after the other, so that a part's bytes do not depend on which parts come with it."""
        before = 0
        for requests in parts:
            yield self.generate(requests, options, lambda n, before=before: on_progress(before + n))  # type: ignore[misc]
            before += len(requests)

    def _rows(self, requests: Sequence[Request]) -> int:
        """How many rows of maximum length fit in a batch."""
        column = sum(x.shape[1] * x.shape[3] * x.element_size() for pair in self.shapes for x in pair)
        longest = max((len(r.prompt_tokens) + r.max_tokens for r in requests), default=1)
        return max(1, min(self._batch, int(self._memory // (column * longest))))

    def update(self, weights: Iterable[tuple[str, Tensor]], adapter: Adapter | None = None) -> None:
        if adapter is not None:
            self._place(adapter, {name: tensor.detach().clone() for name, tensor in weights}, "in training")
            return
        self._place(None)
        new = checked_weights(weights, self.model)
        evict(self)
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in new.items():
                own[name].copy_(tensor)

    def rest(self) -> None:
        """On a GPU: the weights move to the machine's memory."""
        if self._device.type == "cuda":
            self.model.to("cpu")
            torch.cuda.empty_cache()

    def _wake(self) -> None:
        if self.model.device.type != self._device.type:
            self.model.to(self._device)

    def close(self) -> None:
        del self.model, self.body
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Row:
    """An unfinished completion; the model has not processed its last token yet."""

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
    """One call of `generate`: continuous batching, in which waiting requests replace finished rows."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[Request], options: Options, rows: int) -> None:
        self.engine, self.options, self.capacity = engine, options, rows
        # Long prompts first: running out of memory shows at once, and neighbours need little padding.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_tokens))
        self.waiting = [_Row(i, requests[i]) for i in order][::-1]
        self.cache = RowCache(engine.shapes)
        self.rows: list[_Row | None] = []
        """By row of the cache; None for a finished one."""
        self.answers: dict[int, SampledAnswer] = {}

    def run(self, on_progress: OnProgress) -> list[SampledAnswer]:
        while True:
            live = [i for i, row in enumerate(self.rows) if row is not None]
            if not live and not self.waiting:
                return [self.answers[i] for i in range(len(self.answers))]
            refill = len(live) <= self.capacity // 2 and self.waiting
            if refill or self.cache.full or len(live) <= (1 - FINISHED_SHARE) * len(self.rows):
                self._rebuild(live)
                live = list(range(len(self.rows)))
            self._step(live)
            on_progress(len(self.answers))

    def _rebuild(self, live: list[int]) -> None:
        """Drop finished rows, and add waiting ones if at least half of the capacity is free."""
        fresh: list[_Row] = []
        if len(live) <= self.capacity // 2:
            fresh = [self.waiting.pop() for _ in range(min(self.capacity - len(live), len(self.waiting)))]
        prefixes, sources = self._prefill(fresh)
        self.cache.rebuild(live, prefixes, sources)
        self.rows = [*(self.rows[i] for i in live), *fresh]

    def _prefill(self, rows: list[_Row]) -> tuple[list[Prefix], list[list[int]]]:
        """Keys and values of the prompts without their last tokens, computed once per distinct prompt."""
        prefixes, sources = [], []
        for prompts in _groups([list(g) for _, g in groupby(rows, key=lambda row: tuple(row.prompt))]):
            read = [list(group[0].prompt[:-1]) for group in prompts]
            sources.append([i for i, group in enumerate(prompts) for _ in group])
            if len(read[0]):
                prefixes.append(prefix_of(self.engine.body, [r or [0] for r in read]))
                prefixes[-1] = prefixes[-1]._replace(lengths=[len(r) for r in read])
            else:
                prefixes.append(Prefix(self.engine.shapes, [0] * len(read)))
        return prefixes, sources

    def _step(self, live: list[int]) -> None:
        """Sample one token for every live row."""
        logits = self._logits()
        rows = [row for row in self.rows if row is not None]
        if len(live) < len(self.rows):
            logits = logits[torch.tensor(live, device=logits.device)]
        streams, positions = [row.noise for row in rows], [len(row.tokens) for row in rows]
        tokens = noisy_scores(logits, streams, positions, self.options, self.engine.barred).argmax(1)
        for row, token, logp in zip(rows, tokens.tolist(), logps_of(logits, tokens).tolist(), strict=True):
            row.tokens.append(token)
            row.token_logps.append(logp)
            row.left -= 1
        by_text = reached_stop(self.engine.tokenizer, [row.tokens for row in rows], self.options.stop)
        for i, row, text in zip(live, rows, by_text, strict=True):
            if text or not row.left or row.tokens[-1] in self.options.stop_ids:
                self.answers[row.number] = finished_answer(
                    self.engine.tokenizer, row.tokens, row.token_logps, self.options
                )
                self.rows[i] = None

    def _logits(self) -> Tensor:
        """Logits of each row's next token, `(rows, V)` float32; those of finished rows are meaningless."""
        device = self.engine.model.device
        ids = torch.tensor([[row.last if row else 0] for row in self.rows], device=device)
        positions = torch.tensor([[row.position if row else 0] for row in self.rows], device=device)
        out: Any = self.engine.model(
            input_ids=ids, position_ids=positions, attention_mask=self.cache.mask(), past_key_values=self.cache.cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1].float()


def _groups(prompts: list[list[_Row]]) -> list[list[list[_Row]]]:
    """Prompts, longest first, in groups of at most `PREFILL_TOKENS` padded tokens."""
    groups: list[list[list[_Row]]] = []
    for prompt in prompts:
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0][0].prompt) > PREFILL_TOKENS:
            groups.append([])
        groups[-1].append(prompt)
    return groups
