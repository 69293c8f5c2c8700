"""Ranks of a step in tests: as real processes, or as this one in turn."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT = 300


@contextmanager
def as_rank(rank: int, world: int) -> Iterator[None]:
    """While this is open, the process is one of several ranks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RANK", str(rank))
        patched.setenv("WORLD_SIZE", str(world))
        yield


def run_ranks(function: Callable[[Path, int], None], world: int, folder: Path) -> None:
    """Call `function(folder, rank)` in `world` new processes that are the ranks of one step, with a thread each."""
    context = multiprocessing.get_context("spawn")
    meeting = folder / f"meeting-{world}"
    processes = [context.Process(target=_run, args=(function, folder, r, world, meeting)) for r in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    assert [process.exitcode for process in processes] == [0] * world


def _run(function: Callable[[Path, int], None], folder: Path, rank: int, world: int, meeting: Path) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), ALIGNFLOW_RENDEZVOUS=str(meeting))
    function(folder, rank)
