"""A server of chat completions for tests, which fails in all the ways that servers fail, and counts what it completed.

As a process of its own: `python -m tests.chat_server --delay 0.05` prints its url.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import blake2b
from time import time
from typing import Any, Self

FAULTS = (
    "429", "429 with seconds", "429 with a date", "500", "hang", "cut JSON", "cut body", "page", "dropped", "trickle",
)  # fmt: skip
Answerer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From a request's body to the `choices[0]` of its response."""


def saying(text: str, finish_reason: str = "stop", logprobs: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A choice with this content, and log-probabilities of its first token."""
    tops = [{"token": t, "logprob": p} for t, p in (logprobs or {}).items()]
    first = {**tops[0], "top_logprobs": tops} if tops else None
    return {
        "index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [first]} if first else None,
    }  # fmt: skip


def sections(body: Mapping[str, Any], letter: str) -> str:
    """What a judge sees as this answer: from the first mark of it to the last one with the same number."""
    text, name = body["messages"][1]["content"], f"answer {letter}".strip()
    mark = text.split("[conversation begins, ")[1].split("]")[0]
    return str(text.split(f"[{name} begins, {mark}]\n")[1].split(f"\n[{name} ends, {mark}]")[0])


def longer(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The longer answer wins; by its letter with probability 0.9 where log-probabilities are wanted."""
    a, b = sections(body, "A"), sections(body, "B")
    letter = "A" if len(a) > len(b) else "B" if len(b) > len(a) else "C"
    if body.get("logprobs"):
        return saying(letter, logprobs={letter: -0.105360516, "A" if letter == "B" else "B": -2.302585093})
    return saying(f"I compared them.\n[[{letter}]]")


def _hash(*parts: object) -> int:
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())


@dataclass
class ChatServer:
    """The server, in a thread. Faults depend on the question and the number of its attempt, not on the order."""

    answer: Answerer = lambda body: saying("[[A]]")
    delay: float = 0.0
    """Seconds before each response."""
    share: float = 0.0
    """Of the attempts that fail."""
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    retry_after: float = 0.05
    key: str = ""
    """What it wants as the bearer's key; empty: nothing."""
    completed: Counter[str] = field(default_factory=Counter)
    """Whole responses by question."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Requests by question."""
    faulty: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of a whole response, by question: of its prompt and of its reply."""
    under_way: int = 0
    most_under_way: int = 0
    url: str = ""

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, ready: threading.Event, port: int = 0) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. Returns whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        question = blake2b(body, digest_size=16).hexdigest()
        number = self.attempts[question]
        self.attempts[question] += 1
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await asyncio.sleep(self.delay)
            if self.key and headers.get("authorization") != f"bearer {self.key.lower()}":
                return await _send(writer, 401, {"error": {"message": f"wrong key {headers.get('authorization')}"}})
            fault = self._fault(question, number)
            self.faulty[fault] += bool(fault)
            return await self._respond(writer, json.loads(body), question, fault)
        finally:
            self.under_way -= 1

    def _fault(self, question: str, number: int) -> str:
        draw = _hash(self.seed, question, number)
        return self.faults[draw // 1000 % len(self.faults)] if draw % 1000 < 1000 * self.share else ""

    async def _respond(self, writer: asyncio.StreamWriter, body: Any, question: str, fault: str) -> bool:
        error = {"error": {"message": "not now", "type": fault}}
        after = {"429 with seconds": str(self.retry_after), "429 with a date": formatdate(time(), usegmt=True)}
        if fault.startswith("429"):
            return await _send(writer, 429, error, {"retry-after": after[fault]} if fault in after else {})
        if fault.isdigit():
            return await _send(writer, int(fault), error)
        if fault == "page":
            return await _send(writer, 200, "<html>back soon</html>", {"content-type": "text/html"})
        if fault == "dropped":
            return False
        if fault == "hang":
            await self._stop.wait()
            return False
        response = self._response(body)
        text = json.dumps(response).encode()
        if fault == "cut JSON":
            return await _send(writer, 200, text[: len(text) // 2])
        if fault == "cut body":
            writer.write(_head(200, len(text), {}) + text[: len(text) // 2])
            await writer.drain()
            return False
        if fault == "trickle":
            writer.write(_head(200, len(text), {}))
            for i in range(len(text)):
                writer.write(text[i : i + 1])
                await writer.drain()
                await asyncio.sleep(0.05)
            return False
        open = await _send(writer, 200, text)
        self.completed[question] += 1
        usage = response["usage"]
        self.tokens[question] = usage["prompt_tokens"], usage["completion_tokens"]
        return open

    def _response(self, body: Mapping[str, Any]) -> dict[str, Any]:
        choice = self.answer(body)
        tokens = len(json.dumps(body["messages"]).split()), len(str(choice["message"]["content"]).split())
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice],
                "usage": usage}  # fmt: skip


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    several = {"content-type": "application/json", "content-length": str(length), **headers}
    return "\r\n".join([f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in several.items()), "", ""]).encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, body: object, headers: Mapping[str, str] | None = None
) -> bool:
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    writer.write(_head(status, len(content), headers or {}) + content)
    await writer.drain()
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    with ChatServer(delay=parser.parse_args().delay) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
