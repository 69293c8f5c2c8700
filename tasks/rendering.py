"""Conversion of messages to token ids, shared by sampling, training and scoring.

The model's own chat template renders the whole conversation, whose text is tokenized in one piece without further
special tokens. An answer is the part of it that follows the prompt:

    tokens(prompt) + tokens(answer) = tokens(apply_chat_template(prompt + answer)), up to the token that ends the turn

A prompt is rendered with the generation prompt. If its ids are not a prefix of the whole (the template drops the end of
the generation prompt, or a token spans the boundary), the answer begins where the two differ. A truncated answer ends
with its text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tasks.chat import ChatTemplate, Refusal
from tasks.contract import chunks
from tasks.kinds import Model
from tasks.message import Message

_ROWS = 4096
"""Conversations rendered and tokenized at a time, to limit memory."""


class AnswerText(NamedTuple):
    """An answer to render."""

    prompt: Sequence[Message]
    text: str
    ended: bool = True
    """Whether it ended by itself; an answer truncated by its length gets no token that ends the turn."""


class Rendered(NamedTuple):
    """Ids of a prompt and of one answer to it."""

    prompt: list[int]
    answer: list[int]
    shared: int
    """Length of the common prefix of the prompt's ids and the whole conversation's."""

    def answer_after(self, length: int) -> list[int]:
        """The answer's ids after the first `length` ids of the conversation, at most `shared`."""
        return self.prompt[length : self.shared] + self.answer


class Template:
    """A checkpoint's chat template and tokenizer.

    whole: only `conversations` is called. Raises DataError for an unsuitable template (see `ChatTemplate`).
    """

    def __init__(self, policy: Model, *, whole: bool = False) -> None:
        self._chat = ChatTemplate(policy, whole=whole)

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int] | Refusal]:
        """Ids of every prompt with the generation prompt: what an answer's first token is conditioned on."""
        return [ids for part in chunks(len(prompts), _ROWS) for ids in self._ids(self._prompt_texts(prompts[part]))]

    def answers(self, answers: Sequence[AnswerText]) -> list[Rendered | Refusal]:
        """Ids of every answer with its prompt. Equal prompts of one block are rendered once."""
        return [r for part in chunks(len(answers), _ROWS) for r in self._answers(answers[part])]

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | Refusal]:
        """Ids of every whole conversation without a generation prompt, as a reward model reads it."""
        parts = (conversations[part] for part in chunks(len(conversations), _ROWS))
        return [ids for part in parts for ids in self._ids(self._chat.texts(part))]

    def check(self) -> None:
        """Raises DataError unless answers can be rendered and sampling stops at their end."""
        _ = self._chat.ending

    def _answers(self, answers: Sequence[AnswerText]) -> Iterator[Rendered | Refusal]:
        prompts, which = _distinct([a.prompt for a in answers])
        prompt_texts = self._prompt_texts(prompts)
        prompt_ids = self._ids(prompt_texts)
        wholes = self._chat.texts([[*a.prompt, {"role": "assistant", "content": a.text}] for a in answers])
        texts = [
            self._answer_text(a, prompt_texts[i], whole)
            for a, i, whole in zip(answers, which, wholes, strict=True)
        ]  # fmt: skip
        for answer, i, ids in zip(answers, which, self._ids(texts), strict=True):
            prompt = prompt_ids[i]
            if isinstance(prompt, Refusal) or isinstance(ids, Refusal):
                yield prompt if isinstance(prompt, Refusal) else ids  # type: ignore[misc]
            else:
                yield self._split(prompt, ids, answer.ended)

    def _answer_text(self, answer: AnswerText, prompt: str | Refusal, whole: str | Refusal) -> str | Refusal:
        """The whole conversation up to the end of the answer."""
        if isinstance(prompt, Refusal) or isinstance(whole, Refusal):
            return prompt if isinstance(prompt, Refusal) else whole
        tail = self._chat.ending.turn + self._chat.ending.rest
        if not whole.endswith(tail):
            return Refusal("the chat template ends this answer differently from others")
        if not whole.startswith(prompt) and not self._same_history(answer.prompt, whole):
            return Refusal("the chat template renders the prompt differently when an answer follows")
        return whole.removesuffix(self._chat.ending.rest if answer.ended else tail)

    def _same_history(self, prompt: Sequence[Message], whole: str) -> bool:
        """Whether only the generation prompt differs, as in templates that begin a thought there."""
        (bare,) = self._chat.texts([prompt])
        return isinstance(bare, str) and whole.startswith(bare)

    def _split(self, prompt: list[int], whole: list[int], ended: bool) -> Rendered | Refusal:
        chat, shared = self._chat, _common_length(prompt, whole)
        answer = whole[shared:]
        first = next((i for i, token in enumerate(answer) if token in chat.stops), len(answer))
        if self._has_text(answer[first + 1 :]):
            return Refusal(f"{chat.name(answer[first])} occurs inside the answer and would end it")
        if first == len(answer) and ended:
            return Refusal(f"the tokenizer does not encode {chat.name(chat.ending.stop)} after this answer as one id")
        return Rendered(prompt, answer[: first + ended], shared)

    def _has_text(self, ids: list[int]) -> bool:
        return bool(ids) and bool(self._chat.tokenizer.decode(ids, skip_special_tokens=True).strip())

    def _prompt_texts(self, prompts: Sequence[Sequence[Message]]) -> list[str | Refusal]:
        answered = Refusal("the prompt ends with the assistant's own turn")
        texts = self._chat.texts(prompts, generation=True)
        return [answered if p and p[-1]["role"] == "assistant" else t for p, t in zip(prompts, texts, strict=True)]

    def _ids(self, texts: Sequence[str | Refusal]) -> list[list[int] | Refusal]:
        plain = [t for t in texts if isinstance(t, str)]
        if not plain:
            return [t for t in texts if isinstance(t, Refusal)]
        ids = iter(self._chat.tokenizer(plain, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        return [t if isinstance(t, Refusal) else next(ids) for t in texts]


def _common_length(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _distinct(prompts: Sequence[Sequence[Message]]) -> tuple[list[Sequence[Message]], list[int]]:
    """The distinct prompts, and the index of each given prompt among them."""
    places: dict[tuple[tuple[str | None, ...], ...], int] = {}
    keys = (tuple((m["role"], m["content"], m.get("extra")) for m in p) for p in prompts)
    which = [places.setdefault(key, len(places)) for key in keys]
    first = {number: place for place, number in reversed(list(enumerate(which)))}
    return [prompts[first[number]] for number in range(len(places))], which
