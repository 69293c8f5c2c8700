"""ROUGE-L of short texts: the longest common subsequence of their words."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return _WORD.findall(text.lower())


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    """Its length, in words.

    Bit by bit in one number (Hyyrö, 2004): each word of b takes as many steps as an addition of numbers of |a| bits.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    rest = full
    for word in b:
        matches = rest & places.get(word, 0)
        rest = (rest + matches | rest - matches) & full
    return len(a) - rest.bit_count()


class Similarity:
    """Which texts of a growing collection a new one resembles: F1 of ROUGE-L, as Self-Instruct filters.

    Source: Wang et al., arXiv 2212.10560, section 2.2; Lin, ROUGE, 2004. Texts without a word resemble none.
    """

    def __init__(self, limit: float, texts: Iterable[str] = ()) -> None:
        self._limit = limit
        self._texts: dict[tuple[str, ...], list[str]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        words = words_of(text)
        if words:
            self._texts[tuple(words)] = words

    def resembles(self, text: str) -> bool:
        """Whether F1 = 2·LCS / (words of both) reaches the limit with any text of the collection."""
        words = words_of(text)
        return bool(words) and any(self._is_near(words, other) for other in self._texts.values())

    def _is_near(self, a: list[str], b: list[str]) -> bool:
        needed = self._limit * (len(a) + len(b)) / 2
        return min(len(a), len(b)) >= needed and longest_common_subsequence(a, b) >= needed
