"""How files write which of two answers is better."""

from typing import Any

_FIRST = frozenset(["1", "a", "first", "left", "model_a", "response_1", "output_1", "answer_1", "response1", "output1",
                    "chosen"])  # fmt: skip
_SECOND = frozenset(["2", "b", "second", "right", "model_b", "response_2", "output_2", "answer_2", "response2",
                     "output2", "rejected"])  # fmt: skip
_TIE = frozenset(["0", "tie", "tied", "equal", "same", "both", "neither", "draw", "tie (bothbad)"])


def written_verdict(value: Any) -> float | None:
    """1: the first answer is better, 0: the second, ½: a tie; None for what is not a verdict.

    Numbers: 1 and 2 are the answers and 0 is a tie, as PandaLM has them; words such as A, B, tie, model_a, response_2.
    """
    word = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().lower()
    word = word.removesuffix(".0")
    return 1.0 if word in _FIRST else 0.0 if word in _SECOND else 0.5 if word in _TIE else None
