"""One attempt at one question, through the official client, and what an error of it means."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Self

from tasks.answers.store import Answer
from tasks.asking.endpoint import AskingLimits, Endpoint, key_of, without_key
from tasks.asking.reply import reply_of
from tasks.asking.requests import CHAT, ChatRequest
from tasks.asking.retries import LONGEST_WAIT, Failed, seconds_to_wait

if TYPE_CHECKING:
    import openai

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which another attempt may succeed."""
_SHOWN = 300
_NO_KEY = "none"
"""Sent where the server wants no key: the client's own default would be the key of another server."""


class Refused(Exception):
    """The server will not answer, however often it is asked."""


class Client:
    """A connection to a server, in one event loop."""

    def __init__(self, endpoint: Endpoint, limits: AskingLimits) -> None:
        import httpx2
        import openai

        self._endpoint, self._limits, self._key = endpoint, limits, key_of(limits)
        # The transport by aiohttp takes two thirds of the CPU time of the client's own.
        transport = openai.DefaultAioHttpClient(
            timeout=limits.timeout, limits=httpx2.Limits(max_connections=limits.concurrency)
        )
        self._client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY, base_url=endpoint.url, max_retries=0, timeout=limits.timeout,
            http_client=transport,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def answer(self, request: ChatRequest) -> Answer:
        """The response, with the tokens that the server counted. Raises Failed, or Refused for good.

        The time limit is one for the whole attempt, so a server that sends a byte now and then cannot hold it up. All
        attempts at a question have one idempotency key: a server that knows such keys is not paid twice for a response
        that was lost. Where the server did not count its tokens, the most that they can be counts.
        """
        import httpx2
        import openai

        began = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.timeout):
                response = await self._client.post(
                    CHAT, body=request.body, cast_to=httpx2.Response,
                    options={"headers": {"Idempotency-Key": request.digest}},
                )  # fmt: skip
        except (TimeoutError, openai.APITimeoutError):
            raise Failed(f"no whole response within {self._limits.timeout:g} s", billed=True) from None
        except openai.APIConnectionError as e:
            raise _unconnected(e) from None
        except openai.APIStatusError as e:
            raise self._by_status(e) from None
        raw = without_key(response.text, self._key)
        try:
            tokens = reply_of(raw).tokens
        except ValueError as e:
            raise Failed(f"the response cannot be used: {e}", billed=True) from None
        counted = tokens or request.at_most
        return Answer(
            None, raw, counted.prompt, counted.reply, time.monotonic() - began, self._limits.cost(*counted)
        )  # fmt: skip

    def _by_status(self, error: openai.APIStatusError) -> Exception:
        text = without_key(error.response.text, self._key)
        status = f"status {error.status_code}: {_message_in(text)}"
        wait = seconds_to_wait(error.response.headers.get("retry-after"))
        spent = "insufficient_quota" in text
        too_long = wait is not None and wait > LONGEST_WAIT
        if (error.status_code in PASSING or error.status_code >= 500) and not spent and not too_long:
            return Failed(status, retry_after=wait)
        return Refused(f"{self._endpoint.url} refuses the questions with {status}; {self._advice(error.status_code)}")

    def _advice(self, status: int) -> str:
        variable = self._limits.api_key_env
        if status in (401, 403):
            if variable is None:
                return "set `api_key_env` to the name of the variable that holds your key"
            return f"the key in {variable} is not one that may use the model '{self._endpoint.model}'"
        if status == 404:
            return f"check `url` (it ends before {CHAT}) and `model` ('{self._endpoint.model}')"
        if status in (400, 413, 422):
            return "check the length of what is judged, `max_tokens` and the further fields in `extra_body`"
        return "check the account, or run again later"


def _message_in(text: str) -> str:
    """The server's words, in one line that a terminal can show."""
    try:
        error = json.loads(text)
        text = str(error["error"]["message"] if "error" in error else error["message"])
    except (ValueError, LookupError, TypeError):
        pass
    line = " ".join(text.split())[:_SHOWN]
    return "".join(c if c.isprintable() else "?" for c in line)


def _unconnected(error: openai.APIConnectionError) -> Failed:
    """Where there was a connection, the request may have arrived."""
    cause = error.__cause__
    name = type(cause).__name__
    return Failed(f"the connection failed ({name}: {cause})", billed="Connect" not in name)
