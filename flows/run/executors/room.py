"""Whether a step fits on the machine beside processes that rest."""

from __future__ import annotations

from collections.abc import Sequence

from flows.run.executors.base import Needs
from flows.system.gpus import Gpu, free_bytes
from flows.system.memory import available_bytes, host_bytes

CAUTIOUS_SHARE = 0.5
"""Share of the machine's memory that must be free for a step whose needs are not known."""
CAUTIOUS_GPU_SHARE = 0.9
"""The same of a GPU's memory: engines take most of it."""


def has_room(needs: Needs, gpus: Sequence[Gpu]) -> bool:
    """Whether what is free now, with others at rest, is enough for a step on these GPUs; on the CPUs without any."""
    memory = needs.memory
    if memory is None:
        host = CAUTIOUS_SHARE * host_bytes()
    else:
        host = needs.ranks * (memory.host if gpus else memory.host + memory.device)
    if available_bytes() < host:
        return False
    return all(free_bytes(gpu.uuid) >= (memory.device if memory else CAUTIOUS_GPU_SHARE * gpu.bytes) for gpu in gpus)
