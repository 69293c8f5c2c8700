"""The machine's memory, as far as this process may use it."""

from __future__ import annotations

import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def host_bytes() -> float:
    """All memory, or as much as this process's control group may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min(whole, _control_group("memory.max") or whole))


def available_bytes() -> float:
    """Memory that a new process can have without swapping."""
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = _control_group("memory.max"), _control_group("memory.current")
    if limit is None or used is None:
        return free
    return min(free, limit - used + _file_cache())


def _file_cache() -> int:
    """Bytes of the control group that hold files, which the kernel gives up when they are needed."""
    try:
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))


def _control_group(name: str) -> int | None:
    """A number of bytes of this process's control group; None where it has no such limit."""
    try:
        text = (CONTROL_GROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
