"""Functions as the ranks of a step: real processes that talk over gloo.

They are forked from a forkserver that has imported what trainings need, once for all tests of a pytest process.
"""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from tasks.ranks import RENDEZVOUS, barrier, this_rank
from tasks.workspace import LocalWorkspace

_context = get_context("forkserver")
_context.set_forkserver_preload(["tests.warm"])


def on_forked_ranks(
    folder: Path, function: Callable[..., Any], *args: Any, world: int = 2, env: Mapping[str, str] | None = None,
    seconds: float = 240,
) -> list[Any]:  # fmt: skip
    """What `function(*args)` returns on each rank. Raises RuntimeError with the traceback of the first that fails."""
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    pipes, processes = [], []
    for rank in range(world):
        ours, theirs = _context.Pipe(duplex=False)
        given = {"RANK": str(rank), "WORLD_SIZE": str(world), RENDEZVOUS: str(meeting), "OMP_NUM_THREADS": "1"}
        processes.append(_context.Process(target=_main, args=(theirs, {**given, **(env or {})}, function, args)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        return _answers(pipes, time.monotonic() + seconds)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _answers(pipes: list[Any], deadline: float) -> list[Any]:
    answers: dict[int, Any] = {}
    while len(answers) < len(pipes):
        waiting = [p for i, p in enumerate(pipes) if i not in answers]
        ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"ranks {[i for i in range(len(pipes)) if i not in answers]} do not end")
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                good, value = pipe.recv()  # type: ignore[attr-defined]
            except EOFError:
                good, value = False, "it died"
            if not good:
                raise RuntimeError(f"rank {rank}: {value}")
            answers[rank] = value
    return [answers[rank] for rank in range(len(pipes))]


def _main(pipe: Any, env: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send((True, function(*args)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))


class RankWorkspace(LocalWorkspace):
    """The workspace of a rank: the folder of the step, but an output of its own."""

    def __init__(self, folder: Path) -> None:
        if this_rank().is_first:
            super().__init__(folder)
        barrier()
        if not this_rank().is_first:
            super().__init__(folder / f"rank-{this_rank().rank}")
            self.path = folder / "work"
