"""Throughput of a judge behind a server that takes 50 ms: `llm_judge` against a bare loop of requests, in one run.

    python -m benchmarks.judging [--questions 2000] [--concurrency 32] [--delay 0.05]

The server is `tests/chat_server.py` in a process of its own. The least possible time is questions · delay /
concurrency; the bare loop gathers the same requests through one HTTP client under a semaphore, without retries, store
or payments. The result is printed as JSON, with the load of the machine: other work on it makes both slower.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import load_average, now, write_results

if TYPE_CHECKING:
    from tasks.asking.requests import ChatRequest


def bare_seconds(url: str, requests: list[ChatRequest], concurrency: int) -> float:
    """The requests, gathered."""
    import httpx2

    async def gather() -> None:
        free = asyncio.Semaphore(concurrency)
        async with httpx2.AsyncClient(timeout=60) as client:

            async def one(request: ChatRequest) -> str:
                async with free:
                    return (await client.post(f"{url}/chat/completions", json=request.body)).text

            await asyncio.gather(*map(one, requests))

    began = time.perf_counter()
    asyncio.run(gather())
    return time.perf_counter() - began


def judge_seconds(url: str, requests: list[ChatRequest], concurrency: int) -> tuple[float, float]:
    """As oracles ask: through retries, payments and the store of answers. The second number: all from the store."""
    import openai  # noqa: F401, imports are not part of the work

    from tasks.asking.asker import Asker
    from tasks.asking.endpoint import AskingLimits, Endpoint
    from tasks.judging.session import Session
    from tasks.workspace import LocalWorkspace

    asker = Asker(Endpoint(url, "judge"), AskingLimits(concurrency=concurrency))
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(2):
            began = time.perf_counter()
            asker.replies(requests, Session(LocalWorkspace(Path(folder))))
            times.append(time.perf_counter() - began)
    return times[0], times[1]


def main() -> None:
    from tasks.asking.requests import ChatOptions

    parser = argparse.ArgumentParser(description="Throughput of a judge behind a server.")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.05)
    given = parser.parse_args()
    started, load = now(), load_average()
    options = ChatOptions("judge", 0.0, 8)
    texts = (f"which of {i} and {i + 1} is larger ?" for i in range(given.questions))
    requests = [r for text in texts for r in options.requests([{"role": "user", "content": text}])]
    command = [sys.executable, "-m", "tests.chat_server", "--delay", str(given.delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        judge, stored = judge_seconds(url, requests, given.concurrency)
        bare = bare_seconds(url, requests, given.concurrency)
        server.terminate()
    least = given.questions * given.delay / given.concurrency
    settings = {**vars(given), "least_seconds": least, "allowed_seconds": 1.2 * least + 1}
    seconds = {"llm_judge": judge, "bare loop": bare, "llm_judge, all in the store": stored}
    case = {"questions": given.questions, "concurrency": given.concurrency, "delay": given.delay}
    rows = [{"case": case, "name": name, "seconds": s} for name, s in seconds.items()]
    file = write_results("judging", rows, settings=settings, started=started, load=load)
    print(f"llm_judge {judge:.2f} s, bare loop {bare:.2f} s ({judge / bare:.2f}), from the store {stored:.2f} s; "
          f"at least {least:.2f} s\n{file}")  # fmt: skip


if __name__ == "__main__":
    main()
