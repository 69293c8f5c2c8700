"""Tensors whose rows are spread over safetensors files, read by any rows, whatever the files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STARTS = "starts"
"""Key of a file's metadata: JSON, name of a tensor → row of the whole tensor at which its rows begin."""


class RowSlice(NamedTuple):
    """Consecutive rows of a tensor."""

    tensor: Tensor
    start: int = 0
    """Number of the first of them in the whole tensor."""


def save_rows(rows: Mapping[str, RowSlice], file: Path) -> None:
    """Write rows of tensors into one file; those that have none are left out."""
    there = {name: part for name, part in rows.items() if part.tensor.numel()}
    starts = json.dumps({name: part.start for name, part in there.items() if part.start})
    tensors = {name: part.tensor.detach().contiguous() for name, part in there.items()}
    save_file(tensors, file, metadata={STARTS: starts})


class ShardFiles:
    """The files of all writers, within a `with` block. Nothing is read before it is wanted."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._parts: dict[str, list[tuple[int, Any]]] = {}
        for path in self._files:
            file = self._stack.enter_context(safe_open(path, "pt"))
            starts = json.loads(file.metadata()[STARTS])
            for name in file.keys():  # noqa: SIM118  it is no mapping
                self._parts.setdefault(name, []).append((starts.get(name, 0), file))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        return set(self._parts)

    def shape(self, name: str) -> torch.Size:
        """Of the whole tensor."""
        parts = [(start, file.get_slice(name).get_shape()) for start, file in self._parts[name]]
        first = parts[0][1]
        return torch.Size([max(start + shape[0] for start, shape in parts), *first[1:]] if first else [])

    def read(self, name: str, start: int, shape: Sequence[int]) -> Tensor:
        """As many rows as `shape` has, from row `start` on."""
        end, found = start + shape[0], []
        for first, file in sorted(self._parts[name], key=lambda part: part[0]):
            rows = file.get_slice(name)
            a, b = max(start - first, 0), min(end - first, rows.get_shape()[0])
            if a < b:
                found.append(rows[a:b])
        return found[0] if len(found) == 1 else torch.cat(found) if found else torch.zeros(*shape)

    def whole(self, name: str) -> Tensor:
        """All rows. A tensor without rows is the same in every file."""
        shape = self.shape(name)
        if shape:
            return self.read(name, 0, shape)
        only: Tensor = self._parts[name][0][1].get_tensor(name)
        return only
