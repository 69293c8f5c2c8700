"""What is left on a GPU for an engine beside the networks that train."""

from __future__ import annotations

from dataclasses import replace

import torch

from tasks.contract import Chosen, SpecError, Workspace
from tasks.rollouts.networks import Networks

TO_COME = 12
"""Bytes per parameter that learns which a training takes after it has loaded: a gradient and Adam's two moments."""
ACTIVATIONS = 0.1
"""Share of the GPU left to activations; a guess, measured on nothing."""


def with_remaining_memory(engine: Chosen, networks: Networks, work: Workspace) -> Chosen:
    """The engine with no more memory than the loaded networks, their gradients and Adam leave it.

    Only vLLM takes its share at once, and refuses where that much is not free. Raises SpecError where nothing is left.
    """
    if engine.name != "vllm" or not networks.device.is_gpu:
        return engine
    asked = engine.execution.get("gpu_memory")
    free, total = torch.cuda.mem_get_info(networks.device.torch_device)
    learning = sum(p.numel() for p in networks.learning.parameters())
    wanted = float(asked) if isinstance(asked, int | float) else 1.0
    share = fitting_share(wanted, free, total, learning)
    if share < wanted:
        work.notice(f"vLLM gets {share:.0%} of the GPU's memory, not {wanted:.0%}: the rest is for the networks")
    return replace(engine, execution={**engine.execution, "gpu_memory": share})


def fitting_share(wanted: float, free: int, total: int, learning: int) -> float:
    """`wanted`, or the whole percents of `total` bytes that are left of `free`. Raises SpecError below one."""
    left = free - TO_COME * learning - ACTIVATIONS * total
    share = min(wanted, int(100 * left / total) / 100)
    if share < 0.01:
        raise SpecError(
            f"no memory is left for vLLM: {free / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are free beside the "
            f"networks of PPO, and gradients and Adam's moments of {learning} parameters take "
            f"{TO_COME * learning / 2**30:.1f} more. Take smaller models, or a GPU that nothing else runs on"
        )
    return share
