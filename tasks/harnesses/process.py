"""A benchmark harness in a process of its own: what it sees of the environment, how it ends, and what its failure says.

A harness brings its own packages, caches, random states and signal handlers; in a process of its own none of them
reaches the step. It sees a list of environment variables and no others, so no key that it does not need.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.contract import DataError, SpecError, Workspace
from tasks.files import temporary

UNKEYED = {
    "__code__": "the place of the child's code, which is in the key",
    "os.environ": "where programs, caches and devices are; what is passed on by name is said to change no result",
    "importlib.util.find_spec": "whether a package is installed, whose version is in the key",
}

PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONPATH", "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
"""Environment variables that a harness sees. All others, tokens and API keys among them, only where they are named."""
_TAIL = 2000
"""Bytes of a failed harness's output that the error shows: the last ones."""
_POLL = 0.2
"""Seconds between two looks at the process."""


def check_installed(package: str, task: str, extra: str) -> None:
    """Raise SpecError where a harness is not installed."""
    if find_spec(package) is None:
        raise SpecError(
            f"`{task}` runs the package {package}, which is not installed here: `pip install 'alignflow[{extra}]'`"
        )


def run_harness(
    child: Callable[[], None], request: Mapping[str, Any], work: Workspace, *, folder: Path | None,
    pass_env: Sequence[str], timeout: float | None,
) -> dict[str, Any]:  # fmt: skip
    """The result that a child writes for a request. A step that was killed behind it takes up the written one.

    Raises DataError where the child fails or takes longer than `timeout` seconds, with the end of its output, all of
    which is in harness.log in the step's folder.

    Args:
        child: a function whose file is run as a script, and given the files of the request and of the result.
        folder: where it runs, for files that tasks name relative to it; default: the step's folder.
        pass_env: names of further environment variables that it may see.
    """
    asked, result, log = (work.path / name for name in ("request.json", "result.json", "harness.log"))
    text = json.dumps(request, sort_keys=True)
    if result.exists() and asked.exists() and asked.read_text() == text:
        return dict(json.loads(result.read_text()))
    result.unlink(missing_ok=True)
    asked.write_text(text)
    fresh = temporary(result)
    env = {name: os.environ[name] for name in (*PASSED_ON, *pass_env) if name in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", child.__code__.co_filename, str(asked), str(fresh)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder or work.path,
            start_new_session=True,
            env={**env, "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", "XDG_DATA_HOME": str(work.path)},
        )  # fmt: skip
        try:
            late = _waited(process, work, timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if late or process.returncode or not fresh.exists():
        why = f"took longer than timeout = {timeout:g} s" if late else f"ended with exit code {process.returncode}"
        tail = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        raise DataError(f"the process of the harness {why}; the end of its output, all of which is in {log}:\n{tail}")
    fresh.rename(result)
    return dict(json.loads(result.read_text()))


def _waited(process: subprocess.Popen[bytes], work: Workspace, timeout: float | None) -> bool:
    """Whether the process took too long. While it runs, the step shows that it lives."""
    until = None if timeout is None else time.monotonic() + timeout
    while process.poll() is None:
        if until is not None and time.monotonic() > until:
            return True
        work.count()
        time.sleep(_POLL)
    return False
