"""The text layout of PairRM: a prompt and two answers, each behind a prefix token, as ids.

[CLS] <|source|> prompt [SEP] [CLS] <|candidate1|> first [SEP] [CLS] <|candidate2|> second [SEP]
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message, uses_tools
from tasks.template import plain_tokenizer_of
from tasks.training.pair_rm_files import PREFIXES, PairRMFiles

Ids = list[int]
_TURNS = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
"""The instruction before a dialogue, in the spelling that the model was trained with (`get_pair_from_conv`)."""


class Dialogue(NamedTuple):
    """A prompt as PairRM reads it."""

    source: str
    before: str
    """What precedes the text of each answer: the answers of earlier turns."""


def dialogue(prompt: Sequence[Message]) -> Dialogue | None:
    """The texts of a prompt; None where the layout has no place for it (tools, turns that do not alternate).

    A single question is its text alone. Earlier turns are numbered, and the model's earlier answers stand before each
    answer. A system message precedes the text, on a line of its own.

    Source: `Blender.compare` and `get_pair_from_conv` of LLM-Blender, which prepend an instruction without the newline.
    """
    system = [m["content"] for m in prompt if m["role"] == "system"]
    turns = [m for m in prompt if m["role"] != "system"]
    asked, answered = turns[::2], turns[1::2]
    alternate = all(m["role"] == "user" for m in asked) and all(m["role"] == "assistant" for m in answered)
    if uses_tools(prompt) or len(turns) % 2 == 0 or not alternate:
        return None
    if len(turns) == 1:
        return Dialogue("\n".join([*system, turns[0]["content"]]), "")
    shown = [f"USER: {m['content']}\nAssistant: <Response {i}>" for i, m in enumerate(asked, 1)]
    earlier = [f"<Response {i}>: {m['content']}\n" for i, m in enumerate(answered, 1)]
    source = "\n".join([*system, _TURNS + "\n".join(shown)])
    return Dialogue(source, "".join(earlier) + f"<Response {len(asked)}>: ")


class PairRMTexts:
    """Makes ids of questions.

    The prompt is cut at `source_tokens`; what it leaves of the whole length is shared by both answers, which are cut
    at half of it each. Special and prefix tokens inside a text are not read as such: they become spaces, and whatever
    the tokenizer still makes of them is left out, so that no answer can write itself another place.
    Raises DataError if the tokenizer encodes the layout otherwise, or config.json has other ids than the tokenizer.

    Source: `tokenize_pair` and `CrossCompareCollator` of LLM-Blender (`llm_blender/blender/blender_utils.py`,
    `pair_ranker/collator.py`). The collator replaces [SEP] alone, and gives the answers what the longest prompt of a
    batch leaves; with batches of one, as in SPPO's `scripts/rank.py`, that is the rule here.
    """

    def __init__(self, source: Model, files: PairRMFiles) -> None:
        self._path, self._files = source.path, files
        self._tokenizer = _with_prefixes(plain_tokenizer_of(source))
        self.ids: Mapping[str, int] = {
            name: int(self._tokenizer.convert_tokens_to_ids(token)) for name, token in PREFIXES.items()
        }
        """Id of each prefix token by its name in PREFIXES."""
        self._check_ids()
        tokens = [*PREFIXES.values(), *self._tokenizer.all_special_tokens]
        self._reserved = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
        unknown = self._tokenizer.unk_token_id
        self._reserved_ids = {*self.ids.values(), *self._tokenizer.all_special_ids} - {unknown}

    def encoded(
        self, prompts: Sequence[Sequence[Message]], first: Sequence[str], second: Sequence[str]
    ) -> list[Ids | None]:
        """Ids of every question; None where the layout cannot express its prompt. Equal texts are encoded once."""
        shown = [dialogue(prompt) for prompt in prompts]
        known = [i for i, one in enumerate(shown) if one is not None]
        sources = self._texts({d.source for d in shown if d}, "source_prefix_id")
        answers = self._texts(
            {d.before + text for texts in (first, second) for d, text in zip(shown, texts, strict=True) if d},
            "cand1_prefix_id",
        )
        made: list[Ids | None] = [None] * len(prompts)
        for i in known:
            one = shown[i]
            assert one is not None
            left, right = (answers[one.before + texts[i]] for texts in (first, second))
            made[i] = self._joined(sources[one.source], left, right)
        return made

    def _joined(self, source: Ids, first: Ids, second: Ids) -> Ids:
        source = _cut(source, self._files.source_tokens)
        each = (self._files.source_tokens + 2 * self._files.candidate_tokens - len(source)) // 2
        first, second = _cut(first, each), _cut(second, each)
        as_second = {self.ids["cand1_prefix_id"]: self.ids["cand2_prefix_id"]}
        return [*source, *first, *(as_second.get(i, i) for i in second)]

    def _texts(self, texts: set[str], prefix: str) -> dict[str, Ids]:
        """Ids of each text behind its prefix: [CLS] prefix text [SEP]."""
        ordered = sorted(texts)
        if not ordered:
            return {}
        plain = [PREFIXES[prefix] + self._reserved.sub(" ", text) for text in ordered]
        encoded = self._tokenizer(plain, add_special_tokens=True)["input_ids"]
        return {text: self._checked(ids, self.ids[prefix]) for text, ids in zip(ordered, encoded, strict=True)}

    def _checked(self, ids: Ids, prefix: int) -> Ids:
        """Ids without reserved ones in the text. Raises DataError where the prefix or the separator is missing."""
        separator = self._tokenizer.sep_token_id
        if prefix not in ids or ids[-1] != separator or separator is None:
            raise DataError(f"the tokenizer of {self._path} encodes {PREFIXES['source_prefix_id']!r} and an answer "
                            f"as {ids[:4]} … {ids[-2:]}; it must write [CLS], one token for the prefix, the text and "
                            "[SEP]: use the tokenizer that was published with the model")  # fmt: skip
        start = ids.index(prefix) + 1
        return [*ids[:start], *(i for i in ids[start:-1] if i not in self._reserved_ids), separator]

    def _check_ids(self) -> None:
        wrong = {n: i for n, i in self._files.prefix_ids.items() if self.ids[n] != i}
        if wrong:
            name, number = next(iter(wrong.items()))
            raise DataError(f"{self._path}: config.json has {name} = {number}, and the tokenizer encodes "
                            f"{PREFIXES[name]} as {self.ids[name]}: use the tokenizer that was published with the "
                            "model")  # fmt: skip


def _with_prefixes(tokenizer: Any) -> Any:
    """The tokenizer with the prefix tokens, in LLM-Blender's order; one of the plain backbone does not have them."""
    vocabulary = tokenizer.get_vocab()
    if all(token in vocabulary for token in PREFIXES.values()):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(PREFIXES.values()))
    return tokenizer


def _cut(ids: Ids, most: int) -> Ids:
    """At most so many ids, of which the last one, the separator, is kept."""
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
