"""The Batch API by files: questions go out as JSONL, and the step waits until its output lies in the same folder.

Nothing is sent from here. A service, or `vllm run-batch`, reads the input and writes one line per request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.answers.store import Answer
from tasks.asking.endpoint import AskingLimits, Endpoint
from tasks.asking.payments import Payments
from tasks.asking.reply import reply_of
from tasks.asking.requests import CHAT, ChatRequest
from tasks.contract import DataError, Waiting
from tasks.files import atomic_replace
from tasks.ids import digest

INPUT = ".input.jsonl"
"""Ending of the files that are written here; every other `.jsonl` file in the folder is read as an output."""
REQUESTS_PER_FILE = 50_000
"""The limit of OpenAI's Batch API."""


class BatchFiles:
    """The folder of the files of a server's batches."""

    def __init__(self, folder: Path, endpoint: Endpoint, limits: AskingLimits) -> None:
        self._folder, self._limits = folder, limits
        self._prefix = digest(endpoint.identity)[:8]

    def answers(self, wanted: Mapping[int, ChatRequest], payments: Payments) -> Iterator[tuple[int, Answer]]:
        """(number, answer) for what the outputs hold. Raises Waiting if more is wanted, which is written as input.

        A question that an input has and no output yet is not written again. Raises DataError where more is wanted than
        the budget allows; then nothing is written.
        """
        numbers = {self._id(request): i for i, request in wanted.items()}
        found, errors = self._outputs(numbers.keys())
        for id, answer in found.items():
            payments.answered(wanted[numbers[id]], reply_of(answer.raw).tokens or wanted[numbers[id]].at_most)
            yield numbers[id], answer
        missing = {id: wanted[i] for id, i in numbers.items() if id not in found}
        if missing:
            self._wait_for(missing, errors)

    def _wait_for(self, missing: Mapping[str, ChatRequest], errors: Mapping[str, str]) -> None:
        sent = self._sent() - errors.keys()
        fresh = {id: request for id, request in missing.items() if id not in sent}
        self._check_budget(fresh)
        files = [self._write(part) for part in _parts(fresh)]
        text = f"{len(missing)} questions wait for the output of a batch"
        if files:
            names = ", ".join(map(str, files))
            text += f": send {names} to the server's Batch API (for vLLM: vllm run-batch -i INPUT -o OUTPUT --model …)"
        if errors:
            text += f"; {len(errors)} of them failed there before, one with {next(iter(errors.values()))}"
        raise Waiting(f"{text}; put the output as a .jsonl file into {self._folder} and run again")

    def _id(self, request: ChatRequest) -> str:
        return f"{self._prefix}-{request.digest}"

    def _write(self, requests: Mapping[str, ChatRequest]) -> Path:
        file = self._folder / f"{self._prefix}-{digest(*sorted(requests))[:12]}{INPUT}"
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = (
            {"custom_id": id, "method": "POST", "url": f"/v1{CHAT}", "body": request.body}
            for id, request in requests.items()
        )
        with atomic_replace(file) as fresh:
            fresh.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return file

    def _check_budget(self, requests: Mapping[str, ChatRequest]) -> None:
        limits = self._limits
        cost = sum(limits.cost(*request.at_most) for request in requests.values())
        if limits.max_queries is not None and len(requests) > limits.max_queries:
            raise DataError(f"a batch of {len(requests)} questions is more than `max_queries` = {limits.max_queries} "
                            "allows: raise it, or take fewer prompts")  # fmt: skip
        if limits.max_cost is not None and cost > limits.max_cost:
            raise DataError(f"a batch of {len(requests)} questions can cost {cost:.4g}, more than `max_cost` = "
                            f"{limits.max_cost:g} allows: raise it, or take fewer prompts")  # fmt: skip

    def _sent(self) -> set[str]:
        return {line["custom_id"] for file in self._folder.glob(f"*{INPUT}") for line in _lines(file)}

    def _outputs(self, wanted: object) -> tuple[dict[str, Answer], dict[str, str]]:
        """Answers, and the errors of those without one, by id."""
        answers: dict[str, Answer] = {}
        errors: dict[str, str] = {}
        outputs = (f for f in sorted(self._folder.glob("*.jsonl")) if not f.name.endswith(INPUT))
        for line in (line for file in outputs for line in _lines(file)):
            id, response = line["custom_id"], line.get("response") or {}
            if id not in wanted:  # type: ignore[operator]
                continue
            try:
                raw = json.dumps(response.get("body"), ensure_ascii=False)
                tokens = reply_of(raw).tokens
            except ValueError:
                errors[id] = json.dumps(line.get("error") or response.get("body"), ensure_ascii=False)[:200]
            else:
                known = tokens or (0, 0)
                answers[id] = Answer(None, raw, known[0], known[1], 0.0, self._limits.cost(*known))
        return answers, {id: error for id, error in errors.items() if id not in answers}


def _parts(requests: Mapping[str, ChatRequest]) -> Iterator[dict[str, ChatRequest]]:
    ids = list(requests)
    for start in range(0, len(ids), REQUESTS_PER_FILE):
        yield {id: requests[id] for id in ids[start : start + REQUESTS_PER_FILE]}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of a batch. Raises DataError where one has no `custom_id`."""
    for number, text in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            line["custom_id"]
        except (ValueError, LookupError, TypeError):
            raise DataError(f"{file}:{number} is not a line of a batch: it must be a JSON object with `custom_id` "
                            "(as .jsonl, only files of batches may lie in this folder)") from None  # fmt: skip
        yield line
