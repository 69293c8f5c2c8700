"""Imported first by the forkserver: warms what children will need, so that a fork starts where an import would end.

What the imports print goes to a log; the forkserver gets a session of its own, so a Ctrl-C in the terminal is for the
main process alone. After the imports the forkserver notices by itself that the main process died; until then a thread
checks it. Nothing here touches CUDA or imports `tasks`: children take that from a snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import Event, Thread

WARM: dict[str, tuple[str, ...]] = {
    "pyarrow": ("pyarrow", "pyarrow.ipc", "pandas"),  # pyarrow imports pandas itself, at the first table of lists
    "polars": ("polars",),
    "torch": ("torch",),
    "transformers": (
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        "transformers.tokenization_utils_tokenizers",
    ),
    "peft": (),  # all trainings reach it, and only those with an adapter import it, in 0.3 s
    "vllm": ("vllm.entrypoints.llm", "vllm.v1.engine.llm_engine"),
}
"""Package → the modules of it that steps use; a package that is not listed is imported by its own name."""


PARENT_SECONDS = 0.2
"""How often the thread checks whether the main process lives."""


@contextmanager
def ending_with(parent: int) -> Iterator[None]:
    """Within the block this process ends soon after its parent does. After it no thread is left: it can fork."""
    done = Event()

    def watch() -> None:
        while os.getppid() == parent:
            if done.wait(PARENT_SECONDS):
                return
        os._exit(1)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def detach(log: str) -> None:
    """Leave the terminal's process group and send everything that is printed to `log`."""
    with suppress(PermissionError):  # already the leader of a group
        os.setsid()
    with open(log, "ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)


def warm(packages: list[str]) -> None:
    """Import what `packages` stand for. What fails here fails again in the step that needs it."""
    for package in packages:
        for module in WARM.get(package, (package,)):
            with suppress(Exception):
                import_module(module)


if "ALIGNFLOW_PRELOAD" in os.environ:
    with ending_with(int(os.environ["ALIGNFLOW_PRELOAD_PARENT"])):
        detach(os.environ["ALIGNFLOW_PRELOAD_LOG"])
        warm(os.environ["ALIGNFLOW_PRELOAD"].split())
