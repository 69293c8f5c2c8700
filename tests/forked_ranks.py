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
    pipes, processes = _started(folder, world, env or {}, function, args)
    try:
        return _answers(pipes, time.monotonic() + seconds)
    finally:
        _end(processes)


def kill_forked_ranks(
    folder: Path, function: Callable[..., Any], *args: Any, world: int, env: Mapping[str, str], rank: int, pause: float
) -> bool:
    """Call `function(*args)` on each rank, kill one of them after `pause` seconds, and the others a moment later.

    Returns whether all had ended by themselves before.
    """
    _pipes, processes = _started(folder, world, env, function, args)
    deadline = time.monotonic() + pause
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    ended = all(process.exitcode == 0 for process in processes)
    processes[rank].kill()
    time.sleep(0.05)
    _end(processes)
    return ended


def _started(
    folder: Path, world: int, env: Mapping[str, str], function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[list[Any], list[Any]]:
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    pipes, processes = [], []
    for rank in range(world):
        ours, theirs = _context.Pipe(duplex=False)
        given = {"RANK": str(rank), "WORLD_SIZE": str(world), RENDEZVOUS: str(meeting), "OMP_NUM_THREADS": "1", **env}
        processes.append(_context.Process(target=_main, args=(theirs, given, function, args)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    return pipes, processes


def _end(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _answers(pipes: list[Any], deadline: float) -> list[Any]:
    """Raises what the first rank says that raised; one that died without a word is named where no other did."""
    answers: dict[int, Any] = {}
    dead = None
    while len(answers) < len(pipes) - (dead is not None):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers and rank != dead]
        ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"rank {dead} died" if dead is not None else f"only ranks {[*answers]} ended")
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                good, answers[rank] = pipe.recv()  # type: ignore[attr-defined]
            except EOFError:
                good, dead, deadline = True, rank, time.monotonic() + 5
            if not good:
                raise RuntimeError(f"rank {rank}: {answers[rank]}")
    if dead is not None:
        raise RuntimeError(f"rank {dead} died")
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
