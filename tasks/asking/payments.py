"""What a step has paid, kept beside its work: it counts on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Self

from tasks.asking.endpoint import AskingLimits
from tasks.asking.requests import ChatRequest, Tokens

FILE = "paid.jsonl"


class Payments:
    """One line before a request is sent and one when it ends, so that nothing that may cost is forgotten.

    What a response counted is paid for certain. Where a response was lost (time-out, dropped connection, cut body, or
    a kill while it was awaited) the server may want it paid all the same, and nobody here can know: such attempts are
    counted apart, each with the most that it can cost.
    """

    def __init__(self, folder: Path, limits: AskingLimits, rank: int = 0) -> None:
        self._limits = limits
        self.queries = 0
        """Attempts of questions that were answered."""
        self.paid = 0.0
        self.lost = 0
        """Attempts whose response was lost."""
        self.perhaps_paid = 0.0
        """The most that the lost ones can cost."""
        self._path = folder / (f"{FILE}.rank{rank}" if rank else FILE)
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._read()
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file:
            self._file.close()

    def sent(self, request: ChatRequest) -> None:
        """Before each attempt."""
        self._write("sent", request, request.at_most)

    def answered(self, request: ChatRequest, tokens: Tokens) -> None:
        self._write("answered", request, tokens)
        self._count("answered", tokens)

    def failed(self, request: ChatRequest, billed: bool) -> None:
        """An attempt without a response. billed: it may be paid all the same."""
        self._write("lost" if billed else "failed", request, request.at_most)
        self._count("lost" if billed else "failed", request.at_most)

    def _count(self, what: str, tokens: Tokens) -> None:
        cost = self._limits.cost(*tokens)
        if what == "answered":
            self.queries += 1
            self.paid += cost
        elif what == "lost":
            self.lost += 1
            self.perhaps_paid += cost

    def _write(self, what: str, request: ChatRequest, tokens: Tokens) -> None:
        assert self._file is not None
        self._file.write(json.dumps([what, request.digest, *tokens]) + "\n")
        self._file.flush()

    def _read(self) -> None:
        """Earlier attempts of the step. Requests under way when it was killed are lost."""
        under_way: dict[str, Tokens] = {}
        text = self._path.read_text("utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                what, question, prompt, reply = json.loads(line)
            except ValueError:
                continue  # a kill cut it
            if what == "sent":
                under_way[question] = Tokens(prompt, reply)
            else:
                under_way.pop(question, None)
                self._count(what, Tokens(prompt, reply))
        for tokens in under_way.values():
            self._count("lost", tokens)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("" if not text or text.endswith("\n") else "\n")
            file.writelines(json.dumps(["lost", q, *tokens]) + "\n" for q, tokens in under_way.items())
