"""An adapter in vLLM, beside the base that is loaded: one at a time, as a LoRA request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tasks.calls import Adapter
from tasks.contract import SpecError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can have room for (`vllm.config.lora.MaxLoRARanks`)."""


def lora_settings(rank: int) -> dict[str, Any]:
    """Settings of a vLLM engine with room for adapters up to `rank`; none for 0.

    The room costs time for the base too: a small model on a CPU took 1.3 times the CPU seconds per token with rank 16,
    1.5 times with 64, and gave the same bits. On a GPU vLLM captures graphs of their own for batches without adapters.
    """
    if not rank:
        return {}
    if rank > RANKS[-1]:
        raise SpecError(f"vLLM can apply adapters up to rank {RANKS[-1]}, not {rank}: use engine=transformers")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in RANKS if r >= rank)}


class AdapterSlot:
    """The room for one adapter in a vLLM engine that was loaded with `lora_settings`."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._filled = 0

    def fill(self, adapter: Adapter, tensors: Mapping[str, Tensor]) -> Any:
        """The LoRARequest by which vLLM applies an adapter, which replaces the one before.

        Every content has a number and a name of its own, and with them its own entries in vLLM's prefix cache. Raises
        SpecError where vLLM refuses the adapter; then the one before stays.
        """
        from vllm.lora.request import LoRARequest

        number = self._filled + 1
        with TemporaryDirectory(prefix="alignflow-adapter-") as folder:
            write_for_vllm(adapter, tensors, Path(folder))
            request = LoRARequest(f"adapter-{number}", number, folder)
            try:
                self._llm.llm_engine.add_lora(request)
            except ValueError as error:
                raise SpecError(
                    f"vLLM cannot apply this adapter: {error}. Use engine=transformers, or `merge` the adapter first"
                ) from error
        self._filled = number
        return request


def write_for_vllm(adapter: Adapter, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write the two files that vLLM reads of an adapter, in peft's layout."""
    named = {f"base_model.model.{name}": tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    modules = sorted({name.rpartition(".lora_")[0] for name in tensors})
    config = {"peft_type": "LORA", "r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))
