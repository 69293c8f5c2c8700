"""Measured work in a process of its own: its peak memory is its own, and a failure costs only its own result.

    python -m benchmarks.processes MODULE:FUNCTION ARGUMENTS

calls the function with the JSON object ARGUMENTS and prints its result, a JSON object, as the last line.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ERROR_CHARACTERS = 600


def in_process(
    function: str, arguments: Mapping[str, Any], *, limit: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of `module:function` in a fresh interpreter, or `{"error": …}` if it failed or ran into the limit.

    limit: seconds; the process and its children are killed then.
    The result also has `process_seconds`, which count the start of the interpreter and imports, and what the process
    and its children used: `peak_memory_gb` (the largest of them), `page_faults` and `system_seconds` (in the kernel).
    """
    command = [sys.executable, "-m", "benchmarks.processes", function, json.dumps(dict(arguments))]
    started = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, env=_environment(environment or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return {"error": f"stopped after {limit:.0f} s"}
    if child.returncode:
        return {"error": _last_error(errors) or f"exit code {child.returncode}"}
    return {**json.loads(output.splitlines()[-1]), "process_seconds": time.perf_counter() - started}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # a thread that waits in a loop would count as work
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **quiet, **extra}


def _last_error(errors: str) -> str:
    """The message of the last exception, from the line that names it on."""
    lines = errors.splitlines()
    named = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return " ".join(lines[named[-1] :] if named else lines)[:ERROR_CHARACTERS]


class Stopwatch(NamedTuple):
    """Wall seconds and CPU seconds (of all threads, and of children that ended) since a moment."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Stopwatch:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        used = (usage.ru_utime + usage.ru_stime for usage in (own, children))
        return cls(time.perf_counter(), sum(used))

    def seconds(self) -> Stopwatch:
        """What passed since the start."""
        at = Stopwatch.start()
        return Stopwatch(at.wall - self.wall, at.cpu - self.cpu)


def resources() -> dict[str, float]:
    """What this process and its children that ended have used so far."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "peak_memory_gb": max(usage.ru_maxrss for usage in usages) * 1024 / 1e9,
        "page_faults": sum(usage.ru_minflt for usage in usages),
        "system_seconds": sum(usage.ru_stime for usage in usages),
    }


def main() -> None:
    module, name = sys.argv[1].split(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print("\n" + json.dumps({**result, **resources()}))


if __name__ == "__main__":
    main()
