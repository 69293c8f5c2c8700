"""Where a graph begins: prompts, demonstrations, pairs, policies and oracles come in here."""

from __future__ import annotations

from typing import Annotated, Literal

from tasks.contract import Choice, Chosen
from tasks.kinds import Demonstrations, Oracle, Prompts
from tasks.source import Source


def load_prompts(*, source: Annotated[Chosen, Choice("sources", other="path")], split: str = "train") -> Prompts:
    """Prompts of one split of a source.

    Args:
        source: a world, or a file, directory or hub dataset.
        split: name of the split.
    """
    return _opened(source).prompts(split)


def load_demonstrations(
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
    split: str = "train",
    answers: Literal["mixed", "golden"] = "mixed",
) -> Demonstrations:
    """Gold answers to the prompts of one split of a source.

    Args:
        source: a world, or a file, directory or hub dataset.
        split: name of the split.
        answers: `mixed`: as people wrote them; `golden`: the best ones, where the source tells them apart.
    """
    return _opened(source).demonstrations(split, answers)


def load_oracle(*, oracle: Annotated[Chosen, Choice("oracles")]) -> Oracle:
    """Who decides which of two answers is better, as a specification that later steps open.

    Args:
        oracle: a rule, a model or people.
    """
    made = oracle()
    if not isinstance(made, Oracle):
        raise TypeError(f"{oracle.module} must return an Oracle, not {type(made).__name__}")
    return made.chosen_as(oracle)


def _opened(source: Chosen) -> Source:
    opened = source()
    if not isinstance(opened, Source):
        raise TypeError(f"{source.module} must return a Source, not {type(opened).__name__}")
    return opened.pinned(source.identity)
