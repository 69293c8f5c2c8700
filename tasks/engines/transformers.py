"""Sampling with a transformers model: for machines without vLLM, and byte-identical when resumed.

A completion's noise depends only on its seed (`tasks/sampling/noise.py`), so the batch affects only the last bits of
its log-probabilities. The order of requests determines the batches, so equal requests give equal bytes (for one CPU
type and number of threads). Not supported: models whose layers have more state than keys and values (state spaces).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.calls import Adapter
from tasks.contract import Bounds, SpecError
from tasks.kinds import Model, Policy
from tasks.sampling.cache import has_plain_cache
from tasks.sampling.decoding import DecodingModel, cache_shapes, decode, fitting_rows, vocabulary_for
from tasks.sampling.requests import Engine, OnProgress, Options, Request, SampledAnswer, cached_engine, evict
from tasks.sampling.weights import UNFILLED, checked_weights, drop_values, make_room, weights_identity
from tasks.template import tokenizer_of
from tasks.training.adapters import TENSORS, add_layers, fill_layers, remove_layers, stored_adapter


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
        self._dropped: list[tuple[nn.Parameter, torch.Size]] = []
        """Parameters, with their shapes, whose values `rest` dropped."""
        if not has_plain_cache(self.model.base_model):
            raise SpecError(f"{type(self.model).__name__} has more state than keys and values: use engine=vllm")
        self.tokenizer = tokenizer_of(base)
        self._vocabulary = vocabulary_for(self.model, self.tokenizer)
        self._batch, self._memory = batch, memory * 2**30
        self._shapes = cache_shapes(self.model)

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
        return self._decode([self._own(1.0)], requests, options, on_progress)

    def generate_parts(
        self, parts: Iterable[Sequence[Request]], options: Options, on_progress: OnProgress
    ) -> Iterator[list[SampledAnswer]]:
        """One part after the other, so that a part's bytes do not depend on which parts come with it."""
        before = 0
        for requests in parts:
            yield self.generate(requests, options, lambda n, before=before: on_progress(before + n))  # type: ignore[misc]
            before += len(requests)

    def generate_mixture(
        self,
        reference: DecodingModel,
        mixture: float,
        requests: Sequence[Request],
        options: Options,
        on_progress: OnProgress,
    ) -> list[SampledAnswer]:
        """As `generate`, of the geometric mixture π^(1−m)·π_ref^m of this engine's policy and a reference.

        Each token is drawn from the normalised product. mixture: m; at 0 the answers are those of `generate`, at 1
        those of the reference, which then decodes alone. reference: lies on the same device, with the same vocabulary.
        """
        shares = [self._own(1 - mixture), reference._replace(weight=mixture)]
        return self._decode([one for one in shares if one.weight], requests, options, on_progress)

    def _own(self, weight: float) -> DecodingModel:
        self._wake()
        return DecodingModel(self.model, self._shapes, weight)

    def _decode(
        self, models: Sequence[DecodingModel], requests: Sequence[Request], options: Options, on_progress: OnProgress
    ) -> list[SampledAnswer]:
        rows = fitting_rows(models, requests, self._batch, self._memory)
        return decode(models, self._vocabulary, requests, options, rows, on_progress)

    def update(self, weights: Iterable[tuple[str, Tensor]], adapter: Adapter | None = None) -> None:
        """As `Engine.update`. Weights are copied once, from the trainer's device to this model's."""
        if adapter is not None:
            self._place(adapter, {name: tensor.detach().clone() for name, tensor in weights}, "in training")
            return
        make_room(self._dropped)
        self._dropped = []
        self._place(None)
        new = checked_weights(weights, self.model)
        evict(self)
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in new.items():
                own[name].copy_(tensor)

    def rest(self, *, renewed: bool = False) -> None:
        """On a GPU: the weights move to the machine's memory, or are dropped where they are renewed anyway."""
        if self._device.type != "cuda" or self._dropped:
            return
        if renewed:
            evict(self)
            self._dropped = drop_values(self.model)
        else:
            self.model.to("cpu")
        torch.cuda.empty_cache()

    def _wake(self) -> None:
        if self._dropped:
            raise RuntimeError(UNFILLED)
        if self.model.device.type != self._device.type:
            self.model.to(self._device)

    def close(self) -> None:
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
