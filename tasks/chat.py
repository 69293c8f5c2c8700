"""What a checkpoint's chat template writes: conversations as text, and how it ends an answer.

Templates that ask for today's date get a fixed one (`TODAY`), so that no result depends on the clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message, for_template, needs_tools, tools_of, without_tools
from tasks.template import stop_ids, tokenizer_of

TODAY = datetime(2024, 7, 26)
"""The day that templates are given for today's, e.g. Llama 3.1's: the one that its template names by itself."""
_QUESTION, _ANSWER = "alignflow-question", "alignflow-answer"


class Refusal(NamedTuple):
    """Why a conversation cannot be rendered, in the template's own words where it has some."""

    reason: str


class Ending(NamedTuple):
    """What a template writes behind an assistant's text."""

    turn: str
    """Up to and with the token that ends the turn."""
    rest: str
    stop: int
    """That token's id."""


class ChatTemplate:
    """A checkpoint's chat template, with its tokenizer and the tokens that end an answer.

    whole: only whole conversations are rendered, which need neither a generation prompt nor a token that ends an
    answer. Raises DataError where the template cannot serve: it leaves out what the user says, has no generation
    prompt, or (at `ending`) ends an answer with a token that sampling does not stop at.
    """

    def __init__(self, policy: Model, *, whole: bool = False) -> None:
        self.path, self.tokenizer = policy.path.resolve(), tokenizer_of(policy)
        self.stops = frozenset[int]() if whole else stop_ids(policy)
        if not whole:
            self._probe()

    def texts(self, conversations: Sequence[Sequence[Message]], *, generation: bool = False) -> list[str | Refusal]:
        """Every conversation as text; generation: with the generation prompt behind it."""
        from jinja2 import TemplateError

        try:
            texts: list[str | Refusal] = list(self._apply(conversations, generation))
        except (TemplateError, TypeError, ValueError):
            texts = [self._one(c, generation) for c in conversations]
        complete = [_complete(c, text) for c, text in zip(conversations, texts, strict=True)]
        return [self._with_tools(c, text, generation) for c, text in zip(conversations, complete, strict=True)]

    def _with_tools(self, conversation: Sequence[Message], text: str | Refusal, generation: bool) -> str | Refusal:
        """The text, if the template reads the tools and calls of the conversation: without them it writes another."""
        if isinstance(text, str):
            for what, rest in without_tools(conversation):
                if self._one(rest, generation) == text:
                    return Refusal(f"the chat template leaves out {what}")
        return text

    def _one(self, conversation: Sequence[Message], generation: bool) -> str | Refusal:
        from jinja2 import TemplateError

        try:
            return self._apply([conversation], generation)[0]
        except (TemplateError, TypeError, ValueError) as e:
            return Refusal(f"the chat template refuses it: {' '.join(str(e).split())}{_hint(conversation)}")

    def _apply(self, conversations: Sequence[Sequence[Message]], generation: bool) -> list[str]:
        made: list[str] = []
        for tools, group in groupby(conversations, lambda c: json.dumps(tools_of(c))):
            made += self.tokenizer.apply_chat_template(
                [[for_template(m) for m in c] for c in group], tools=json.loads(tools), tokenize=False,
                add_generation_prompt=generation, strftime_now=TODAY.strftime,
            )  # fmt: skip
        return made

    @cached_property
    def ending(self) -> Ending:
        """Raises DataError where sampling would not stop at what the template ends an assistant's turn with."""
        (whole,) = self.texts([_turns(_QUESTION, _ANSWER)])
        if isinstance(whole, Refusal) or _ANSWER not in whole:
            words = whole.reason if isinstance(whole, Refusal) else "it leaves out the answer"
            raise DataError(f"the chat template of {self.path} cannot render an answer: {words}")
        tail = whole[whole.rindex(_ANSWER) + len(_ANSWER) :]
        places = [(tail.find(name), -len(name), i) for i, name in self._stop_names().items() if name in tail]
        if not places:
            raise DataError(self._no_stop(tail))
        place, length, stop = min(places)
        return Ending(tail[: place - length], tail[place - length :], stop)

    def name(self, token: int) -> str:
        """A token as messages show it."""
        return f"'{self.tokenizer.convert_ids_to_tokens(token)}'"

    def _probe(self) -> None:
        (asked,), (bare,) = self.texts([_turns(_QUESTION)], generation=True), self.texts([_turns(_QUESTION)])
        if isinstance(asked, Refusal):
            raise DataError(
                f"the chat template of {self.path} cannot render a question: {asked.reason}; give the checkpoint a "
                "chat_template.jinja that does"
            )
        (whole,) = self.texts([_turns(_QUESTION, _ANSWER)])
        follows = isinstance(whole, str) and asked == bare and whole.startswith(asked)
        gap = str(whole)[len(asked) :].partition(_ANSWER)[0] if follows else ""
        if gap.strip():
            raise DataError(
                f"the chat template of {self.path} has no generation prompt: answers begin with {gap!r}, which it does "
                "not write for add_generation_prompt; end the template with {% if add_generation_prompt %}"
                f"{{{{ {gap!r} }}}}{{% endif %}}"
            )

    def _stop_names(self) -> dict[int, str]:
        return {i: str(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(self.stops)}

    def _no_stop(self, tail: str) -> str:
        stops = ", ".join(f"'{name}' (id {i})" for i, name in self._stop_names().items())
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        special = next((i for i in ids if i in self.tokenizer.added_tokens_decoder), None)
        ends = f"with {self.name(special)} (id {special})" if special is not None else f"with {tail!r}"
        what = f"ends an answer {ends}" if tail.strip() else "writes nothing behind an answer"
        todo = (
            f"add {special} to eos_token_id in generation_config.json" if special is not None
            else "have the template end an assistant's turn with {{ eos_token }}"
        )  # fmt: skip
        return f"the chat template of {self.path} {what}, and sampling stops at {stops}: {todo}"


def _turns(*texts: str) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=False)]


def _hint(conversation: Sequence[Message]) -> str:
    """What a template may have refused a conversation for."""
    if any(m["role"] == "system" for m in conversation):
        return "; `system: into_user` of its source moves system texts into the user's message"
    return "; it may not be made for calls of tools" if needs_tools(conversation) else ""


def _complete(conversation: Sequence[Message], text: str | Refusal) -> str | Refusal:
    """The text, if every message stands in it. Thoughts of earlier answers may be left out, as reasoning models do."""
    if isinstance(text, Refusal):
        return text
    for message in conversation:
        said = message["content"]
        if message["role"] == "assistant":
            said = said.rpartition("</think>")[2]
        if said.strip() not in text:
            return Refusal(f"the chat template leaves out the {message['role']}'s message")
    return text
