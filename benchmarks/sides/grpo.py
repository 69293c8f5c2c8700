"""What both sides of `benchmarks/reinforcing.py` share: the work of a step, the reward, the clocks.

Each side's `train(folder, work, …)` reads `folder/policy` and the prompts of `folder/pairs.json`, and returns
`step_seconds`, `step_cpu_seconds` (mean of all steps but the first), `mean_length` of answers in tokens, `rewards` by
step, and the shares of a step's time that its parts took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.processes import Stopwatch

LR = 1e-4
"""Peak learning rate, which falls linearly to 0."""


class Work(NamedTuple):
    """Of one training: a step draws `k` answers of at most `answer` tokens to each of `prompts` prompts."""

    prompts: int
    k: int
    answer: int
    steps: int


def score(text: str) -> float:
    """The share of even words: w4 is one, w5 is none."""
    words = text.split()
    return sum(int(word[1:]) % 2 == 0 for word in words if word[1:].isdigit()) / max(1, len(words))


class StepTimes:
    """Clocks of steps and of their parts. The first step, which warms up, does not count."""

    def __init__(self) -> None:
        self._ends: list[Stopwatch] = []
        self._start = Stopwatch.start()
        self._parts: Counter[str] = Counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = Stopwatch.start()
        try:
            yield
        finally:
            if self._ends:
                self._parts[name] += begun.seconds().wall

    def step_ended(self) -> None:
        self._ends.append(self._start.seconds())

    def result(self, lengths: Sequence[float], rewards: Sequence[float]) -> dict[str, Any]:
        """lengths, rewards: of each step, means over its answers."""
        first, last = self._ends[0], self._ends[-1]
        wall, steps = last.wall - first.wall, len(self._ends) - 1
        counted = lengths[1:]
        return {
            "step_seconds": wall / steps, "step_cpu_seconds": (last.cpu - first.cpu) / steps,
            "mean_length": sum(counted) / len(counted), "rewards": list(rewards),
            "shares": {name: seconds / wall for name, seconds in self._parts.items()},
        }  # fmt: skip
