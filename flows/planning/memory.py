"""What a step needs of a machine's memory: in sentences, and refused where that much is not there."""

from __future__ import annotations

from dataclasses import replace

from flows.wiring.model import Node
from tasks.contract import JSON, SpecError
from tasks.declarations import Machine, Memory

ACCURACY = 0.15
"""What is needed is known to this share: a step is refused only where it would not fit with so much less."""
_GIB = 2**30
_SMALL = 2**30
"""Bytes that no plan mentions."""


def memory_text(memory: Memory | None) -> str:
    """`9.6 GiB per device`; empty for what is not known, and for less than a GiB."""
    if memory is None or memory.device + memory.host < _SMALL:
        return ""
    host = f" and {_size(memory.host)} of the machine" if memory.host else ""
    return f"{_size(memory.device)} per device{host}"


def memory_json(memory: Memory | None) -> JSON:
    """Bytes by what needs them; null where nothing is known."""
    if memory is None:
        return None
    return {"device": memory.device, "host": memory.host, "parts": {**memory.parts}}


def check_memory(node: Node, pipeline: str, memory: Memory | None, machine: Machine) -> None:
    """Raise SpecError, at the step's place, for one that needs more memory than the machine has."""
    if memory is None or _least(memory).fits(machine):
        return
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {_size(size)}" for name, size in largest if size >= 0.01 * memory.device)
    fitting = [
        f"`{change}` ({memory_text(m) or '<1 GiB'})" for change, m in memory.alternatives.items() if m.fits(machine)
    ]
    ranks = f" for each of {machine.ranks} ranks" if machine.ranks > 1 else ""
    there = f"the GPU has {_size(machine.device_bytes)}, the machine" if machine.gpu else "the machine"
    advice = (
        f"these changes of the step would fit: {'; '.join(fitting)}" if fitting else "no change of the step would fit"
    )
    raise SpecError(
        f"{node.where}: {pipeline}.{node.id} needs about {memory_text(memory)}{ranks} ({parts}), and {there} has "
        f"{_size(machine.host_bytes)}; {advice}. Or take a smaller model, or a larger machine"
    )


def _least(memory: Memory) -> Memory:
    share = 1 - ACCURACY
    return replace(memory, parts={n: share * b for n, b in memory.parts.items()}, host=share * memory.host)


def _size(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size < 10 * _GIB else f"{size / _GIB:.0f} GiB"
