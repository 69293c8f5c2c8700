"""Rendering by a checkpoint's chat template: conversations as text, and how the template ends an answer.

The current date in templates is fixed (`TODAY`), so that results do not depend on the clock.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message, for_template, tool_ablations, tools_of, uses_tools
from tasks.template import stop_ids, tokenizer_of

TODAY = datetime(2024, 7, 26)
"""Current date for templates: the default of Llama 3.1's template."""
_QUESTION, _ANSWER = "alignflow-question", "alignflow-answer"


class Refusal(NamedTuple):
    """Why a conversation cannot be rendered, if possible in the template's own words."""

    reason: str


class Ending(NamedTuple):
    """What a template writes after an assistant's text."""

    turn: str
    """Up to and including the token that ends the turn."""
    rest: str
    stop: int
    """Id of that token."""


class ChatTemplate:
    """A checkpoint's chat template, with its tokenizer and the tokens that end an answer.

    whole: only whole conversations are rendered, without a generation prompt or a token that ends an answer. Raises
    DataError if the template leaves out the user's message, has no generation prompt, or (at `ending`) ends an answer
    with a token at which sampling does not stop.
    """

    def __init__(self, policy: Model, *, whole: bool = False) -> None:
        self.path, self.tokenizer = policy.path.resolve(), tokenizer_of(policy)
        self.stops = frozenset[int]() if whole else stop_ids(policy)
        if not whole:
            self._probe()

    def texts(self, conversations: Sequence[Sequence[Message]], *, generation: bool = False) -> list[str | Refusal]:
        """Every conversation as text; generation: followed by the generation prompt."""
        from jinja2 import TemplateError

        try:
            texts: list[str | Refusal] = list(self._apply(conversations, generation))
        except (TemplateError, TypeError, ValueError):
            texts = [self._one(c, generation) for c in conversations]
        complete = [_check_complete(c, text) for c, text in zip(conversations, texts, strict=True)]
        return [self._with_tools(c, text, generation) for c, text in zip(conversations, complete, strict=True)]

    def _with_tools(self, conversation: Sequence[Message], text: str | Refusal, generation: bool) -> str | Refusal:
        """The text; a Refusal if it does not change when the tools or calls of the conversation are removed."""
        if isinstance(text, str):
            for what, rest in tool_ablations(conversation):
                if self._one(rest, generation) == text:
                    return Refusal(f"the chat template leaves out {what}")
        return text

    def _one(self, conversation: Sequence[Message], generation: bool) -> str | Refusal:
        from jinja2 import TemplateError

        try:
            return self._apply([conversation], generation)[0]
        except (TemplateError, TypeError, ValueError) as e:
            return Refusal(f"the chat template rejects it: {' '.join(str(e).split())}{_hint(conversation)}")

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
        """How the template ends an assistant's turn. Raises DataError if sampling would not stop there."""
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
        """The token's text, for messages."""
        return f"'{self.tokenizer.convert_ids_to_tokens(token)}'"

    def _probe(self) -> None:
        (prompt,), (bare,) = self.texts([_turns(_QUESTION)], generation=True), self.texts([_turns(_QUESTION)])
        if isinstance(prompt, Refusal):
            raise DataError(
                f"the chat template of {self.path} cannot render a question: {prompt.reason}; correct the checkpoint's "
                "chat_template.jinja"
            )
        (whole,) = self.texts([_turns(_QUESTION, _ANSWER)])
        follows = isinstance(whole, str) and prompt == bare and whole.startswith(prompt)
        gap = str(whole)[len(prompt) :].partition(_ANSWER)[0] if follows else ""
        if gap.strip():
            raise DataError(
                f"the chat template of {self.path} has no generation prompt: it writes {gap!r} before an answer but "
                "ignores add_generation_prompt; end the template with {% if add_generation_prompt %}"
                f"{{{{ {gap!r} }}}}{{% endif %}}"
            )

    def _stop_names(self) -> dict[int, str]:
        return {i: str(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(self.stops)}

    def _no_stop(self, tail: str) -> str:
        stops = ", ".join(f"'{name}' (id {i})" for i, name in self._stop_names().items())
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        special = next((i for i in ids if i in self.tokenizer.added_tokens_decoder), None)
        ends = f"with {self.name(special)} (id {special})" if special is not None else f"with {tail!r}"
        what = f"ends an answer {ends}" if tail.strip() else "writes nothing after an answer"
        todo = (
            f"add {special} to eos_token_id in generation_config.json" if special is not None
            else "end an assistant's turn with {{ eos_token }} in the template"
        )  # fmt: skip
        return f"the chat template of {self.path} {what}, but sampling stops at {stops}: {todo}"


def _turns(*texts: str) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=False)]


def _hint(conversation: Sequence[Message]) -> str:
    """A possible reason why a template rejects a conversation."""
    if any(m["role"] == "system" for m in conversation):
        return "; `system: into_user` of the source moves system texts into the user message"
    return "; it may not support tool calls" if uses_tools(conversation) else ""


def _check_complete(conversation: Sequence[Message], text: str | Refusal) -> str | Refusal:
    """The text; a Refusal if it lacks a message. Thoughts of earlier answers may be missing, as in reasoning models."""
    if isinstance(text, Refusal):
        return text
    for message in conversation:
        content = message["content"]
        if message["role"] == "assistant":
            content = content.rpartition("</think>")[2]
        if content.strip() not in text:
            return Refusal(f"the chat template leaves out the {message['role']} message")
    return text
