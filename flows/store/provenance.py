"""On what and from which commit a step was computed: recorded, never keyed."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from tasks.contract import JSON


@cache
def commit(root: Path) -> str:
    """The commit checked out at `root`, with `+` if files differ from it; empty outside a repository."""
    head = _git(root, "rev-parse", "HEAD")
    return head + "+" if head and _git(root, "status", "--porcelain", "--untracked-files=no") else head


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def hardware() -> dict[str, JSON]:
    """Processor, cores that this process may use, GPUs by the driver's own listing. No host name."""
    return {
        "cpu": _cpu() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": [*sorted(_gpus())],
        "system": platform.system(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _gpus() -> list[str]:
    information = Path("/proc/driver/nvidia/gpus").glob("*/information")
    found = (line for f in information for line in f.read_text().splitlines() if line.startswith("Model"))
    return [line.split(":", 1)[1].strip() for line in found]
