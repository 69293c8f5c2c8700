"""An asynchronous stream, read by code that is not: it runs in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def items_of(stream: Callable[[], AsyncIterator[T]]) -> Generator[T]:
    """The items as they come, while the stream goes on. Raises what it raises, behind its items.

    Whoever stops reading cancels it, and waits until that is done.
    """
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    loop, started = asyncio.new_event_loop(), threading.Event()
    running: list[asyncio.Task[None]] = []

    async def read() -> None:
        async for item in stream():
            items.put(item)

    def run() -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(_started(read(), running, started))
        except BaseException as e:
            error = e
        finally:
            started.set()
            items.put(_End(error))

    thread = threading.Thread(target=run, name="questions", daemon=True)
    thread.start()
    try:
        while not isinstance(item := items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        started.wait()
        if thread.is_alive() and running and not loop.is_closed():
            loop.call_soon_threadsafe(running[0].cancel)
        thread.join()


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def _started(work: object, running: list[asyncio.Task[None]], started: threading.Event) -> None:
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    running.append(task)
    started.set()
    await task
