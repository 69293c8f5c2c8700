"""The one place where messages become token ids: sampling, training and scoring share what is rendered here.

Whatever is read by a model is what its own chat template makes of the whole conversation, as text, tokenized in one
piece and without a further special token. An answer is what stands behind its prompt in that text:

    tokens(prompt) + tokens(answer) = tokens(apply_chat_template(prompt + answer)), up to the token that ends the turn

A prompt is rendered with the generation prompt. If its ids are not the first ids of the whole (the template drops the
end of the generation prompt, or the answer's first letters melt into one token with it), the answer begins where the
two part. An answer that was cut off ends with its text.

Templates that ask for today's date get a fixed one (`TODAY`), so that no result depends on the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from tasks.contract import DataError, chunks
from tasks.kinds import Model
from tasks.template import stop_ids, tokenizer_of

Message = dict[str, str]
TODAY = datetime(2024, 7, 26)
"""The day that templates are given for today's, e.g. Llama 3.1's: the one that its template names by itself."""
_ROWS = 4096
"""Conversations rendered and tokenized at a time, so that their texts need little memory."""
_QUESTION, _ANSWER = "alignflow-question", "alignflow-answer"


class Refusal(NamedTuple):
    """Why a conversation cannot be rendered, in the template's own words where it has some."""

    reason: str


class Answer(NamedTuple):
    """An answer to be rendered."""

    prompt: Sequence[Message]
    text: str
    ended: bool = True
    """Whether it ended by itself; an answer cut off by its length gets no token that ends the turn."""


class Rendered(NamedTuple):
    """Ids of a prompt and of one answer to it."""

    prompt: list[int]
    answer: list[int]
    shared: int
    """How many of the prompt's ids the whole conversation begins with; fewer than all where the two part."""

    def answer_after(self, length: int) -> list[int]:
        """The answer's ids behind the first `length` ids of the whole, at most `shared`."""
        return self.prompt[length : self.shared] + self.answer


class Ending(NamedTuple):
    """What a template writes behind an assistant's text."""

    turn: str
    """Up to and with the token that ends the turn."""
    rest: str
    stop: int
    """That token's id."""


class Template:
    """A checkpoint's chat template and tokenizer.

    whole: only `conversations` are read, which need neither a generation prompt nor a token that ends an answer.
    Raises DataError where the template cannot serve: it leaves out what the user says, has no generation prompt, or
    ends an answer with a token that sampling does not stop at (`check`, or where answers are rendered).
    """

    def __init__(self, policy: Model, *, whole: bool = False) -> None:
        self.path, self.tokenizer = policy.path.resolve(), tokenizer_of(policy)
        self.stops = frozenset[int]() if whole else stop_ids(policy)
        if not whole:
            self._probe()

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int] | Refusal]:
        """Ids of every prompt with the generation prompt: what an answer's first token is conditioned on."""
        return [ids for part in chunks(len(prompts), _ROWS) for ids in self._ids(self._prompt_texts(prompts[part]))]

    def answers(self, answers: Sequence[Answer]) -> list[Rendered | Refusal]:
        """Ids of every answer with its prompt. Equal prompts that stand together are rendered once."""
        return [made for part in chunks(len(answers), _ROWS) for made in self._answers(answers[part])]

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | Refusal]:
        """Ids of every conversation as a whole, no generation prompt: what a reward model reads."""
        parts = (conversations[part] for part in chunks(len(conversations), _ROWS))
        return [ids for part in parts for ids in self._ids(self._texts(part))]

    def check(self) -> None:
        """Raises DataError unless answers can be rendered, and sampling stops where they end."""
        _ = self.ending

    @cached_property
    def ending(self) -> Ending:
        """Raises DataError where sampling would not stop at what the template ends an assistant's turn with."""
        (whole,) = self._texts([_turns(_QUESTION, _ANSWER)])
        if isinstance(whole, Refusal) or _ANSWER not in whole:
            words = whole.reason if isinstance(whole, Refusal) else "it leaves out the answer"
            raise DataError(f"the chat template of {self.path} cannot render an answer: {words}")
        tail = whole[whole.rindex(_ANSWER) + len(_ANSWER) :]
        places = [(tail.find(name), -len(name), i) for i, name in self._stop_names().items() if name in tail]
        if not places:
            raise DataError(self._no_stop(tail))
        place, length, stop = min(places)
        return Ending(tail[: place - length], tail[place - length :], stop)

    def _answers(self, answers: Sequence[Answer]) -> Iterator[Rendered | Refusal]:
        prompts, which = _distinct([a.prompt for a in answers])
        prompt_texts = self._prompt_texts(prompts)
        prompt_ids = self._ids(prompt_texts)
        wholes = self._texts([[*a.prompt, {"role": "assistant", "content": a.text}] for a in answers])
        texts = [
            self._answer_text(a, prompt_texts[i], whole)
            for a, i, whole in zip(answers, which, wholes, strict=True)
        ]  # fmt: skip
        for answer, i, ids in zip(answers, which, self._ids(texts), strict=True):
            asked = prompt_ids[i]
            if isinstance(asked, Refusal) or isinstance(ids, Refusal):
                yield asked if isinstance(asked, Refusal) else ids  # type: ignore[misc]
            else:
                yield self._split(asked, ids, answer.ended)

    def _answer_text(self, answer: Answer, prompt: str | Refusal, whole: str | Refusal) -> str | Refusal:
        """The whole conversation up to where the answer ends."""
        if isinstance(prompt, Refusal) or isinstance(whole, Refusal):
            return prompt if isinstance(prompt, Refusal) else whole
        tail = self.ending.turn + self.ending.rest
        if not whole.endswith(tail):
            return Refusal("the chat template ends this answer otherwise than others")
        if not whole.startswith(prompt) and not self._same_history(answer.prompt, whole):
            return Refusal("the chat template renders the prompt otherwise once an answer follows")
        return whole.removesuffix(self.ending.rest if answer.ended else tail)

    def _same_history(self, prompt: Sequence[Message], whole: str) -> bool:
        """Whether only the generation prompt differs, as in templates that open a thought there."""
        (bare,) = self._texts([prompt])
        return isinstance(bare, str) and whole.startswith(bare)

    def _split(self, prompt: list[int], whole: list[int], ended: bool) -> Rendered | Refusal:
        shared = _common(prompt, whole)
        answer = whole[shared:]
        first = next((i for i, token in enumerate(answer) if token in self.stops), len(answer))
        if first + 1 < len(answer) and self.tokenizer.decode(answer[first + 1 :], skip_special_tokens=True).strip():
            return Refusal(f"{self._name(answer[first])} stands inside the answer and would end it")
        if first == len(answer) and ended:
            return Refusal(
                f"the tokenizer does not read {self._name(self.ending.stop)} behind this answer as one token"
            )
        return Rendered(prompt, answer[: first + ended], shared)

    def _prompt_texts(self, prompts: Sequence[Sequence[Message]]) -> list[str | Refusal]:
        answered = Refusal("the prompt ends with the assistant's own turn")
        texts = self._texts(prompts, generation=True)
        return [answered if p and p[-1]["role"] == "assistant" else t for p, t in zip(prompts, texts, strict=True)]

    def _texts(self, conversations: Sequence[Sequence[Message]], *, generation: bool = False) -> list[str | Refusal]:
        """Every conversation as text."""
        from jinja2 import TemplateError

        try:
            texts: list[str | Refusal] = list(self._apply(conversations, generation))
        except (TemplateError, TypeError, ValueError):
            texts = [self._one(c, generation) for c in conversations]
        return [_complete(c, text) for c, text in zip(conversations, texts, strict=True)]

    def _one(self, conversation: Sequence[Message], generation: bool) -> str | Refusal:
        from jinja2 import TemplateError

        try:
            return self._apply([conversation], generation)[0]
        except (TemplateError, TypeError, ValueError) as e:
            system = any(m["role"] == "system" for m in conversation)
            hint = "; `system: into_user` of its source moves system texts into the user's message" if system else ""
            return Refusal(f"the chat template refuses it: {' '.join(str(e).split())}{hint}")

    def _apply(self, conversations: Sequence[Sequence[Message]], generation: bool) -> list[str]:
        if not conversations:
            return []
        made: list[str] = self.tokenizer.apply_chat_template(
            [list(c) for c in conversations], tokenize=False, add_generation_prompt=generation,
            strftime_now=TODAY.strftime,
        )  # fmt: skip
        return made

    def _ids(self, texts: Sequence[str | Refusal]) -> list[list[int] | Refusal]:
        plain = [t for t in texts if isinstance(t, str)]
        made = (
            self.tokenizer(plain, add_special_tokens=False, return_attention_mask=False) if plain else {"input_ids": []}
        )
        ids = iter(made["input_ids"])
        return [t if isinstance(t, Refusal) else next(ids) for t in texts]

    def _probe(self) -> None:
        (asked,), (bare,) = self._texts([_turns(_QUESTION)], generation=True), self._texts([_turns(_QUESTION)])
        if isinstance(asked, Refusal):
            raise DataError(
                f"the chat template of {self.path} cannot render a question: {asked.reason}; give the checkpoint a "
                "chat_template.jinja that does"
            )
        (whole,) = self._texts([_turns(_QUESTION, _ANSWER)])
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

    def _name(self, token: int) -> str:
        return f"'{self.tokenizer.convert_ids_to_tokens(token)}'"

    def _no_stop(self, tail: str) -> str:
        stops = ", ".join(f"'{name}' (id {i})" for i, name in self._stop_names().items())
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        special = next((i for i in ids if i in self.tokenizer.all_special_ids), None)
        ends = f"with {self._name(special)} (id {special})" if special is not None else f"with {tail!r}"
        what = f"ends an answer {ends}" if tail.strip() else "writes nothing behind an answer"
        todo = (
            f"add {special} to eos_token_id in generation_config.json" if special is not None
            else "have the template end an assistant's turn with {{ eos_token }}"
        )  # fmt: skip
        return f"the chat template of {self.path} {what}, and sampling stops at {stops}: {todo}"


def _turns(*texts: str) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=False)]


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


def _common(a: list[int], b: list[int]) -> int:
    """How many first ids both have in common."""
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _distinct(prompts: Sequence[Sequence[Message]]) -> tuple[list[Sequence[Message]], list[int]]:
    """Each prompt once, and for every place which of them stands there."""
    places: dict[tuple[tuple[str, str], ...], int] = {}
    which = [places.setdefault(tuple((m["role"], m["content"]) for m in p), len(places)) for p in prompts]
    first = {number: place for place, number in reversed(list(enumerate(which)))}
    return [prompts[first[number]] for number in range(len(places))], which
