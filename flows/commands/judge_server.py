"""The server behind the page on which people judge pairs of answers. It knows no user and no password.

Anyone who has the token can judge. It is part of the printed address, behind `#`, which browsers send to nobody, and
the page sends it as a header with every request; pages of other origins have neither the token nor may they set that
header. As for Prefect's pages, `Host` and `Origin` are checked first (`flows/run/prefect/serving.py`).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from flows.commands.judge_text import TextPart, message_text, segments
from flows.run.prefect.serving import refusal
from tasks.contract import DataError
from tasks.people.survey import Judgement, Survey, SurveyQuestion, check_annotator, next_question, on_left

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).with_name("judge_page.html")
LOOKED_AT_SECONDS = 300.0
"""How long a question counts as being looked at by the person who got it last."""
MOST_SECONDS = 3600.0
"""A longer look is a pause."""


class ShownMessage(BaseModel):
    """A message of the prompt."""

    role: str
    parts: list[TextPart]


class ShownQuestion(BaseModel):
    """A question as one person sees it."""

    id: str
    prompt: list[ShownMessage]
    left: list[TextPart]
    right: list[TextPart]


class Shown(BaseModel):
    """What the page shows next."""

    survey: str
    instructions: list[TextPart]
    ties: bool
    question: ShownQuestion | None
    """None: there is nothing left for this person."""
    own: int
    """Pairs that she has judged."""
    left: int
    """Pairs that she may still judge."""
    complete: int
    """Pairs that have all judgements which they need."""
    questions: int


class Person(BaseModel):
    """Who sends a request."""

    annotator: Annotated[str, Field(max_length=200)]


class Decision(Person):
    """What she answers to a question."""

    question: str
    choice: Literal["left", "right", "tie", "skip"]
    seconds: Annotated[float, Field(ge=0)] = 0.0


def judging_app(survey: Survey, token: str, *, any_host: bool = False) -> ASGIApp:
    """The page and its requests. any_host: answer under every name; else only under the names of this machine."""
    looks = _Looks()

    def authorized(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "this address has no valid token: open the one that `alignflow judge` printed")

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    allowed = [Depends(authorized)]

    @app.get("/")
    def page() -> HTMLResponse:
        text = PAGE.read_text()
        return HTMLResponse(text, headers=_headers(text))

    @app.post("/next", dependencies=allowed)
    def next_one(person: Person) -> Shown:
        return _next(survey, _checked(person), looks)

    @app.post("/judgements", dependencies=allowed)
    def judge(decision: Decision) -> Shown:
        annotator = _checked(decision)
        try:
            survey.judge(_judgement(decision, annotator))
        except DataError as e:
            raise HTTPException(409, str(e)) from None
        return _next(survey, annotator, looks)

    @app.post("/undo", dependencies=allowed)
    def undo(person: Person) -> Shown:
        annotator = _checked(person)
        question = survey.undo(annotator)
        if question is None:
            raise HTTPException(409, "there is nothing to undo")
        looks.note(annotator, question)
        return _shown(survey, survey.question(question), annotator)

    return _Checked(app, any_host)


class _Looks:
    """Who looks at which question now, so that two people at once get different ones."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}
        self.choosing = Lock()
        """Held while one person's next question is chosen."""

    def note(self, annotator: str, question: str) -> None:
        self._last[annotator] = (question, time.monotonic())

    def of_others(self, annotator: str) -> Counter[str]:
        now = time.monotonic()
        looks = list(self._last.items())
        return Counter(q for who, (q, at) in looks if who != annotator and now - at < LOOKED_AT_SECONDS)


def _checked(person: Person) -> str:
    name = " ".join(person.annotator.split())
    try:
        check_annotator(name)
    except DataError as e:
        raise HTTPException(422, str(e)) from None
    return name


def _judgement(decision: Decision, annotator: str) -> Judgement:
    """The decision as a choice between the two texts, independent of their places on the page."""
    left = on_left(decision.question, annotator)
    choice = {"left": left, "right": "y" if left == "x" else "x"}.get(decision.choice, decision.choice)
    seconds = min(decision.seconds, MOST_SECONDS)
    return Judgement(decision.question, annotator, choice, left, seconds, time.time())


def _next(survey: Survey, annotator: str, looks: _Looks) -> Shown:
    with looks.choosing:
        question = next_question(survey, annotator, looks.of_others(annotator))
        looks.note(annotator, question.id if question else "")
    return _shown(survey, question, annotator)


def _shown(survey: Survey, question: SurveyQuestion | None, annotator: str) -> Shown:
    terms, progress = survey.terms, survey.progress(annotator)
    return Shown(
        survey=survey.name, instructions=segments(terms.instructions) if terms.instructions else [], ties=terms.ties,
        question=_shown_question(question, annotator) if question else None, own=progress.own, left=progress.left,
        complete=progress.complete, questions=progress.questions,
    )  # fmt: skip


def _shown_question(question: SurveyQuestion, annotator: str) -> ShownQuestion:
    texts = {"x": segments(question.x), "y": segments(question.y)}
    left = on_left(question.id, annotator)
    prompt = [ShownMessage(role=m["role"], parts=segments(message_text(m))) for m in question.prompt]
    return ShownQuestion(id=question.id, prompt=prompt, left=texts.pop(left), right=texts.popitem()[1])


def _headers(page: str) -> dict[str, str]:
    """Only the script and the style of the page itself may run, and it may talk to this server alone."""

    def digest_of(tag: str) -> str:
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    policy = {
        "default-src": "'none'", "script-src": f"'sha256-{digest_of('script')}'",
        "style-src": f"'sha256-{digest_of('style')}'", "connect-src": "'self'", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-store", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
    }  # fmt: skip


class _Checked:
    """An ASGI application behind the check of `Host` and `Origin`."""

    def __init__(self, app: ASGIApp, any_host: bool) -> None:
        self._app, self._any_host = app, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        answer = self._app
        if scope["type"] == "http" and (why := self._refusal(Headers(scope=scope))):
            answer = PlainTextResponse(f"{why}\n", 403)
        await answer(scope, receive, send)

    def _refusal(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._any_host:
            other = origin is not None and origin.partition("://")[2] != host
            return f"pages of {origin!r} may not send requests here" if other else ""
        return refusal(host, origin)
