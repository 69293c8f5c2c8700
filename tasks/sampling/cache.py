"""A right-aligned key-value cache with spare columns.

transformers' own `DynamicCache` copies everything at every token; here a token is written in place, and rows change
only when the buffers are rebuilt. Columns before a row's start are zero and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 32
"""Spare columns after every rebuild."""


class KeysValues(NamedTuple):
    """Keys and values of one layer, `(rows, heads, columns, channels)` each."""

    keys: Tensor
    values: Tensor


class Prefix(NamedTuple):
    """Keys and values of prompts, padded at the right."""

    layers: list[KeysValues]
    lengths: list[int]


class Buffer(DynamicLayer):
    """The cache of one layer: the first `used` columns of a wider buffer."""

    def __init__(self, pair: KeysValues, used: int) -> None:
        super().__init__()
        self.keys, self.values = pair
        self.used = used
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used


class RowCache:
    """The cache of the unfinished rows. Row r occupies the columns `starts[r]` to `used`."""

    def __init__(self, shapes: Sequence[KeysValues]) -> None:
        """shapes: keys and values of every layer, as templates of shape and dtype."""
        self._shapes = shapes
        self.starts: list[int] = []
        self.cache: Any = None
        self._mask: Tensor | None = None

    @property
    def used(self) -> int:
        return int(self.cache.layers[0].used) if self.cache else 0

    @property
    def full(self) -> bool:
        """Whether no column is left."""
        return not self.cache or self.used == self.cache.layers[0].keys.shape[2]

    def mask(self) -> Tensor | None:
        """`(rows, used + 1)`: which columns a row's next token attends to; None for all."""
        return None if self._mask is None else self._mask[:, : self.used + 1]

    def rebuild(
        self, keep: Sequence[int], prefixes: Sequence[Prefix] = (), sources: Sequence[Sequence[int]] = ()
    ) -> None:
        """Keep some rows and append new ones: a copy of prompt i of `prefixes[p]` for each i in `sources[p]`."""
        used = self.used
        spans = [used - self.starts[r] for r in keep]
        fresh = [prefix.lengths[i] for prefix, rows in zip(prefixes, sources, strict=True) for i in rows]
        end = max([*spans, *fresh], default=0)
        layers = []
        for number, like in enumerate(self._shapes):
            pair = _empty(like, len(keep) + len(fresh), end + ROOM)
            if keep:
                columns = slice(used - max(spans), used)
                old = self.cache.layers[number]
                for new, buffer in zip(pair, (old.keys, old.values), strict=True):
                    new[: len(keep), :, end - max(spans) : end] = buffer[list(keep), :, columns]
            _write_prefixes(pair, len(keep), end, number, prefixes, sources)
            layers.append(Buffer(pair, end))
        self.cache = Cache(layers=layers)
        self.starts = [end - n for n in [*spans, *fresh]]
        self._mask = None
        if any(self.starts):
            device = self._shapes[0].keys.device
            columns_ = torch.arange(end + ROOM, device=device)
            self._mask = (columns_ >= torch.tensor(self.starts, device=device)[:, None]).long()


def _empty(like: KeysValues, rows: int, columns: int) -> KeysValues:
    return KeysValues(*(x.new_zeros(rows, x.shape[1], columns, x.shape[3]) for x in like))


def _write_prefixes(
    pair: KeysValues, row: int, end: int, layer: int, prefixes: Sequence[Prefix], sources: Sequence[Sequence[int]]
) -> None:
    """Write the prefixes' keys and values into the rows from `row` on, each ending at column `end`."""
    for prefix, rows in zip(prefixes, sources, strict=True):
        lengths = torch.tensor([prefix.lengths[i] for i in rows])
        width = int(lengths.max())
        if width:
            device = pair.keys.device
            place = torch.arange(width) - (width - lengths)[:, None]
            index = place.clamp(min=0).to(device)[:, None, :, None]
            seen = (place >= 0).to(device)[:, None, :, None]
            for new, states in zip(pair, prefix.layers[layer], strict=True):
                picked = torch.take_along_dim(states[torch.tensor(rows, device=device)], index, 2)
                new[row : row + len(rows), :, end - width : end] = picked.masked_fill_(~seen, 0)
        row += len(rows)


def prefix_of(body: Any, prompts: Sequence[Sequence[int]]) -> Prefix:
    """Keys and values of non-empty `prompts` by the model's body. Call it in inference mode."""
    lengths = [len(p) for p in prompts]
    ids = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    body(input_ids=ids.to(body.device), past_key_values=cache, use_cache=True)
    return Prefix([KeysValues(layer.keys, layer.values) for layer in cache.layers], lengths)


def has_plain_cache(body: Any) -> bool:
    """Whether the state of every layer is keys and values only, neither recurrent nor compressed."""
    layers = DynamicCache(config=body.config).layers
    return all(isinstance(layer, DynamicLayer) for layer in layers)
