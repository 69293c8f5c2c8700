"""The line of a prompt that weighs objectives: written, drawn and read."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tasks.contract import DataError, SpecError

_NAME = re.compile(r"[\w-]+")
_LINE = re.compile(r"[\w-]+ [0-9.e-]+(?:, [\w-]+ [0-9.e-]+)*")


def check_objectives(objectives: Sequence[str]) -> None:
    """Raise SpecError for names that a line cannot hold."""
    wrong = [name for name in objectives if not _NAME.fullmatch(name)]
    if wrong or len(set(objectives)) != len(objectives) or not objectives:
        raise SpecError(f"`objectives` = {list(objectives)}; they must be different names of letters, digits, - and _")


def fixed_weights(objectives: Sequence[str], weights: Sequence[float] | None) -> list[float] | None:
    """Given weights as shares of their sum. Raises SpecError where they do not fit the objectives."""
    if weights is None:
        return None
    suitable = len(weights) == len(objectives) and all(0 <= w < math.inf for w in weights) and sum(weights) > 0
    if not suitable:
        raise SpecError(f"`weights` = {list(weights)}; it must have a number of at least 0 for each of the "
                        f"{len(objectives)} objectives, and not all may be 0")  # fmt: skip
    return [weight / math.fsum(weights) for weight in weights]


def drawn_weights(prompt: str, objectives: int, levels: int, seed: int) -> list[float]:
    """Multiples of 1/levels that add up to 1, each such combination equally likely; by the prompt's id."""
    import numpy as np

    from tasks.ids import digest

    noise = np.random.default_rng(int(digest(prompt, str(seed), "weights"), 16))
    bars = sorted(noise.choice(levels + objectives - 1, objectives - 1, replace=False))
    ends = [-1, *map(int, bars), levels + objectives - 1]
    return [(b - a - 1) / levels for a, b in pairwise(ends)]


def weights_line(objectives: Sequence[str], weights: Sequence[float]) -> str:
    """`quality 0.75, length 0.25`"""
    return ", ".join(f"{name} {weight:.3g}" for name, weight in zip(objectives, weights, strict=True))


def with_line(prompt: Sequence[Mapping[str, Any]], line: str) -> list[dict[str, Any]]:
    """The conversation with the line before its last user message. Raises DataError without such a message."""
    messages = [dict(message) for message in prompt]
    last = next((m for m in reversed(messages) if m["role"] == "user"), None)
    if last is None:
        raise DataError("a prompt has no user message that weights could be written into")
    last["content"] = f"{line}\n{last['content']}"
    return messages


def weights_in(prompt: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[float]:
    """The weights that a conversation's last user message begins with, which add up to 1. Raises DataError."""
    text = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), "")
    line = text.split("\n", 1)[0]
    named = dict(part.split(" ") for part in line.split(", ")) if _LINE.fullmatch(line) else {}
    if named.keys() != set(objectives):
        raise DataError(f"a prompt begins with {line[:60]!r}, which does not give the weights of {list(objectives)}: "
                        "make the prompts by `write_weights` with the same objectives")  # fmt: skip
    weights = [float(named[name]) for name in objectives]
    return [weight / math.fsum(weights) for weight in weights]
