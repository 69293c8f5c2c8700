"""Whether processes have ended."""

import time
from collections.abc import Iterable

import psutil


def all_ended(pids: Iterable[int], seconds: float = 10.0) -> bool:
    """Whether these processes end within some time; one that nobody has waited for (a zombie) has ended."""
    left, end = set(pids), time.monotonic() + seconds
    while left and time.monotonic() < end:
        left = {pid for pid in left if _is_alive(pid)}
        time.sleep(0.02)
    return not left


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
