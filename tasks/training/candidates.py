"""Log-probabilities of a few short answers to each question: how a language model chooses between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError
from tasks.kinds import Policy
from tasks.message import Message
from tasks.rendering import AnswerText, Rendered, Template
from tasks.training.device import this_device
from tasks.training.logps import AnswerLogps
from tasks.training.model import keep_memory, open_model, positions_of
from tasks.training.rows import Rows, rows_of_ids
from tasks.training.score import score_rows

Floats = npt.NDArray[np.float64]


class CandidateLogps:
    """The model is opened when it is first needed. Raises DataError where one candidate's tokens begin another's."""

    def __init__(self, policy: Policy, candidates: Sequence[str], dtype: str) -> None:
        self._policy, self._candidates, self._dtype = policy, candidates, dtype

    def __call__(self, questions: Sequence[Sequence[Message]]) -> Floats:
        """`(Q, C)` log-probabilities of the candidates as beginnings of an answer, nats; NaN where the template refuses
        a question, or it is too long for the model."""
        texts = [AnswerText(question, text, ended=False) for question in questions for text in self._candidates]
        made = self._template.answers(texts)
        size = len(self._candidates)
        several = [made[i : i + size] for i in range(0, len(made), size)]
        usable = [
            (i, ready) for i, one in enumerate(several)
            if len(ready := [r for r in one if isinstance(r, Rendered)]) == size and self._fits(ready)
        ]  # fmt: skip
        found = np.full((len(questions), size), np.nan)
        if usable:
            self._check(usable[0][1])
            logps = score_rows(self._model, _rows([ready for _, ready in usable]), self._device, 0)
            found[[i for i, _ in usable]] = logps.reshape(-1, size)
        return found

    def _fits(self, answers: Sequence[Rendered]) -> bool:
        longest = positions_of(self._policy)
        return longest is None or max(r.shared + len(r.answer) for r in answers) <= longest

    def _check(self, answers: Sequence[Rendered]) -> None:
        named = zip(answers, self._candidates, strict=True)
        ids = sorted((tuple(r.prompt[: r.shared] + r.answer), text) for r, text in named)
        for (first, text), (second, other) in pairwise(ids):
            if second[: len(first)] == first:
                raise DataError(
                    f"the tokenizer of {self._policy.path} begins {other!r} with the tokens of {text!r}, so the "
                    "probability of the one contains that of the other: choose a range of scores of one digit"
                )

    @cached_property
    def _template(self) -> Template:
        return Template(self._policy)

    @cached_property
    def _device(self):  # type: ignore[no-untyped-def]
        return this_device()

    @cached_property
    def _model(self) -> AnswerLogps:
        keep_memory()
        return AnswerLogps(open_model(self._policy, self._device.dtype(self._dtype)).to(self._device.torch_device))


def _rows(several: Sequence[Sequence[Rendered]]) -> Rows:
    """A row for every question, with all candidates as its answers."""
    size = len(several[0])
    shared = [min(r.shared for r in one) for one in several]
    answers = [r.answer_after(length) for one, length in zip(several, shared, strict=True) for r in one]
    single = rows_of_ids([one[0].prompt[:n] for one, n in zip(several, shared, strict=True) for _ in one], answers)
    first = rows_of_ids([one[0].prompt[:n] for one, n in zip(several, shared, strict=True)], [[0]] * len(several))
    starts = np.arange(len(several) + 1) * size
    return Rows(first.prompts, single.answers, starts, first.prompt_ids, single.answer_ids)
