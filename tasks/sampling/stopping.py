"""The end of an answer (stop tokens, stop strings, length), shared by both engines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from tasks.sampling.requests import Options, SampledAnswer

_SLACK = 8
"""Extra tokens decoded when looking for a stop string: special tokens and parts of characters have no text."""


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of sampled tokens, without special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def ids_without_text(tokenizer: Any, size: int) -> list[int]:
    """The ids below `size` without an entry in the tokenizer, e.g. of a padded embedding.

    They are never sampled, because they have no text. Log-probabilities, here and in training, are those of the model's
    whole distribution, including such ids.
    """
    known = set(tokenizer.get_vocab().values())
    return [i for i in range(size) if i not in known]


def finished_answer(tokenizer: Any, tokens: list[int], token_logps: list[float], options: Options) -> SampledAnswer:
    """The answer of sampled tokens, of which some may follow a stop string."""
    body = tokens[:-1] if tokens and tokens[-1] in options.stop_ids else tokens
    text = text_of(tokenizer, body)
    if _first(text, options.stop) is None:
        return SampledAnswer(text, tokens, token_logps, "stop" if len(body) < len(tokens) else "length")
    needed = bisect_left(
        range(1, len(body)), True, key=lambda n: _first(text_of(tokenizer, body[:n]), options.stop) is not None
    )
    text = text_of(tokenizer, body[: needed + 1])
    return SampledAnswer(text[: _first(text, options.stop)], body[: needed + 1], token_logps[: needed + 1], "stop")


def reached_stop(tokenizer: Any, answers: Sequence[list[int]], stop: Sequence[str]) -> list[bool]:
    """Which of the unfinished answers contain a stop string that their last token completed."""
    if not stop or not answers:
        return [False] * len(answers)
    tail = max(len(s.encode()) for s in stop) + _SLACK
    texts = tokenizer.batch_decode(
        [tokens[-tail:] for tokens in answers], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [_first(text, stop) is not None for text in texts]


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Position of the earliest stop string; None if there is none."""
    places = [place for s in stop if (place := text.find(s)) >= 0]
    return min(places, default=None)
