"""A target answer for every pair: a third answer of its row, which a loss makes likelier by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tasks.contract import DataError
from tasks.kinds import Model, Table
from tasks.training.rows import Ints, Ragged, Rows, rows_of

_LISTED = 3
"""Prompts that a message lists."""


def with_targets(rows: Rows, targets: Table, policy: Model) -> Rows:
    """Pairs with a third answer each: the one that `targets` has to their prompt, by its id.

    Raises DataError where a prompt has no target or several, or where the target's tokens do not continue the prompt
    as the pair has it.
    """
    given = rows_of(targets, policy)
    several = [prompt for prompt, count in Counter(given.prompt_ids).items() if count > 1]
    if several:
        raise DataError(
            f"{len(several)} of {len(set(given.prompt_ids))} prompts have more than one target answer "
            f"({_listed(several)}); the table `targets` takes one answer to each prompt"
        )
    place = {prompt: i for i, prompt in enumerate(given.prompt_ids)}
    missing = [prompt for prompt in dict.fromkeys(rows.prompt_ids) if prompt not in place]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(set(rows.prompt_ids))} prompts of the pairs have no target answer "
            f"({_listed(missing)}); the table `targets` must answer each of them"
        )
    of_row = np.array([place[prompt] for prompt in rows.prompt_ids], np.int64)
    answers = [_answer(rows, row, given, target) for row, target in enumerate(of_row.tolist())]
    split = [row for row, answer in enumerate(answers) if answer is None]
    if split:
        raise DataError(
            f"{len(split)} targets do not continue the tokens of their pair's prompt "
            f"({_listed([rows.prompt_ids[row] for row in split])}): the prompt was cut or rendered in another way in "
            "one of both tables"
        )
    return _merged(rows, [answer for answer in answers if answer is not None], given, of_row)


def _answer(rows: Rows, row: int, given: Rows, target: int) -> Ints | None:
    """The tokens of a target behind the prompt of a pair; None where they do not follow it."""
    prompt = rows.prompts.at(row)
    whole = np.concatenate([given.prompts.at(target), given.answers.at(target)])
    follows = len(whole) > len(prompt) and np.array_equal(whole[: len(prompt)], prompt)
    return whole[len(prompt) :] if follows else None


def _merged(rows: Rows, answers: list[Ints], given: Rows, of_row: Ints) -> Rows:
    lists: list[Any] = []
    ids: list[str] = []
    for row, target in enumerate(answers):
        own = rows.answers_of(row)
        lists += [*(rows.answers.at(a) for a in own), target]
        ids += [*(rows.answer_ids[a] for a in own), given.answer_ids[int(of_row[row])]]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    merged = Ragged(np.concatenate(lists).astype(np.int32), offsets)
    return Rows(rows.prompts, merged, np.arange(len(rows) + 1) * 3, rows.prompt_ids, ids, has_targets=True)


def _listed(prompts: list[str]) -> str:
    return ", ".join(prompts[:_LISTED]) + (", …" if len(prompts) > _LISTED else "")
