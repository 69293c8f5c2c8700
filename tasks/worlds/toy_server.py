"""A judge for a first try of `llm_judge` and `llm_rater`: a server on loopback that answers by the toy world's rules.

    python -m tasks.worlds.toy_server [--port 8808] [--seed 0]

It speaks as much of OpenAI's chat interface as the shipped templates need. Instead of a language model it parses the
question (the last one of a conversation) and the answers out of the prompt and applies the oracle that the request
names as its `model` (toy_judge, toy_gold, toy_length, toy_cycle). It knows the world whose seed it was given, and
refuses other questions: it measures nothing about language models.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasks.contract import Chosen, DataError
from tasks.kinds import Oracle, Scorer
from tasks.worlds import SPLITS
from tasks.worlds.toy import ToyWorld

UNKEYED = {"tasks.contract.Chosen": "no step runs this server; its answers are those of the server that a key names"}

ORACLES = ("toy_judge", "toy_gold", "toy_length", "toy_cycle")
_SECTION = r"\[{name} begins, (?P<mark>[0-9a-f]+)\]\n(?P<text>.*?)\n\[{name} ends, (?P=mark)\]"


class ToyJudge:
    """Completions of chats by the rules of the toy world of a seed."""

    def __init__(self, seed: int = 0) -> None:
        self._world = ToyWorld(seed)

    @cached_property
    def _truths(self) -> Mapping[str, str]:
        return {q.text: q.truth for split in SPLITS for q in self._world.questions(split)}

    def completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a request. Raises DataError where it cannot be answered."""
        if request["model"] not in ORACLES:
            raise DataError(f"there is no model '{request['model']}'; there are {', '.join(ORACLES)}")
        oracle: Oracle = Chosen("oracles", request["model"], {})()
        prompt = "\n\n".join(m["content"] for m in request["messages"])
        question = _section("conversation", prompt).rpartition("\nuser: ")[2]
        truth = self._truths.get(question)
        if truth is None:
            raise DataError(f"'{question[:80]}' is no question of this toy world: start the server with its seed")
        logprobs: dict[str, Any] | None = None
        if "[answer A begins" in prompt:
            p = _p(oracle, _section("answer A", prompt), _section("answer B", prompt), truth)
            text, logprobs = _choice(p, bool(request.get("logprobs")))
        else:
            text = _rating(oracle, _section("answer", prompt), truth, prompt)
        return _response(request["model"], prompt, text, logprobs)


def _section(name: str, prompt: str) -> str:
    """The text between two marks with one number."""
    if (found := re.search(_SECTION.format(name=name), prompt, re.S)) is None:
        raise DataError(f"the prompt has no part '{name}' between marks as the shipped templates write them")
    return found["text"]


def _p(oracle: Oracle, a: str, b: str, truth: str) -> float:
    """P(a beats b), of a scorer by Bradley-Terry."""
    if isinstance(oracle, Scorer):
        scores = [float(s or 0) for s in oracle.score([None] * 2, [a, b], [truth] * 2)]
        return 1 / (1 + math.exp(oracle.scale * (scores[1] - scores[0])))
    (p,) = oracle.compare([None], [a], [b], [truth])
    return float(p or 0)


def _choice(p: float, as_letter: bool) -> tuple[str, dict[str, Any] | None]:
    if not as_letter:
        verdict = "[[A]]" if p > 0.5 else "[[B]]" if p < 0.5 else "[[C]]"
        return f"By the rules of the toy world, A is better with probability {p:.3f}.\n{verdict}", None
    two = [{"token": t, "logprob": math.log(max(x, 1e-300))} for t, x in (("A", p), ("B", 1 - p))]
    first = max(two, key=lambda one: float(str(one["logprob"])))
    return str(first["token"]), {"content": [{**first, "top_logprobs": two}]}


def _rating(oracle: Oracle, answer: str, truth: str, prompt: str) -> str:
    """A score of about −3 to 4, moved to the range of the template; equal grades for all criteria."""
    if not isinstance(oracle, Scorer):
        raise DataError("this oracle only compares two answers; name one that scores: toy_judge, toy_gold, toy_length")
    (score,) = oracle.score([None], [answer], [truth])
    share = min(1.0, max(0.0, (float(score or 0) + 3) / 7))
    criteria = max((int(n) for n in re.findall(r"^\[\[(\d+): 5\]\]$", prompt, re.M)), default=0)
    if criteria:
        return "\n".join(f"[[{i}: {1 + 9 * share:.2f}]]" for i in range(1, criteria + 1))
    return f"[[{5 * share:.2f}]]" if "from 0 to 5" in prompt else f"[[{1 + 9 * share:.2f}]]"


def _response(model: str, prompt: str, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """Words count as tokens."""
    used = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "toy", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{**choice, "logprobs": logprobs}], "usage": {**used, "total_tokens": sum(used.values())},
    }  # fmt: skip


class ToyServer(ThreadingHTTPServer):
    """The server on loopback; port 0: a free one."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0, seed: int = 0) -> None:
        self.judge = ToyJudge(seed)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """What oracles are given as `url`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, ToyServer)
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            status, answer = 200, self.server.judge.completion(json.loads(content))
        except (ValueError, LookupError, TypeError) as e:
            status, answer = 400, {"error": {"message": str(e), "type": "invalid_request_error"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """One line per request would hide what matters."""


def serve_toy_judge() -> None:
    parser = argparse.ArgumentParser(description="A judge on loopback that answers by the toy world's rules.")
    parser.add_argument("--port", type=int, default=8808)
    parser.add_argument("--seed", type=int, default=0, help="of the toy world")
    given = parser.parse_args()
    with ToyServer(given.port, given.seed) as server:
        print(f"{server.url} answers as {', '.join(ORACLES)}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    serve_toy_judge()
