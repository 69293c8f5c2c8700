"""What can be reached step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def closure(roots: Iterable[T], below: Callable[[T], Iterable[T]]) -> dict[T, None]:
    """The roots and everything below them, each once, in the order in which it is reached."""
    reached = dict.fromkeys(roots)
    todo = list(reached)
    for one in todo:
        new = dict.fromkeys(b for b in below(one) if b not in reached)
        reached |= new
        todo += new
    return reached
