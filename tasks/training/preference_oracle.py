"""A preference model as a live oracle: two texts in, P(the first beats the second) out.

`PreferenceModel.open` calls it. What each order gives is reported as it is: `compare` queries both orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.comparison_text import both_answers, letter_question
from tasks.kinds import Oracle, Policy, PreferenceModel
from tasks.message import Message, uses_tools
from tasks.rendering import Rendered, Template
from tasks.training.device import this_device
from tasks.training.letters import check_letters, letter_answers
from tasks.training.logps import AnswerLogps
from tasks.training.model import keep_memory, open_model, positions_of
from tasks.training.padding import QUESTIONS_TO_SORT
from tasks.training.preference_mark import preference_output
from tasks.training.reward_scorer import reward_scorer
from tasks.training.rows import Rows, rows_of_ids
from tasks.training.score import score_rows

Prompts = Sequence[Sequence[Message]]
Texts = Sequence[str]
LogOdds = Callable[[Prompts, Texts, Texts], Sequence[float | None]]
"""(prompts, first answers, second answers) → log-odds that the first is better, None where there is no answer."""


def preference_oracle(
    *, path: str, base: str | None = None, dtype: Literal["auto", "float32", "bfloat16"] = "auto"
) -> Oracle:
    """The oracle behind a preference model: P(a beats b) = σ(log-odds with a shown first). Not antisymmetric.

    A cross-encoder and a PairRM give the log-odds themselves. A causal language model answers with a letter: the
    log-odds are those of the softmax over the two letters' tokens, log π(A) − log π(B). A comparison that is longer
    than the model can read has no answer (None), but for a PairRM, which cuts its texts; nor has one whose prompt the
    layout or the template cannot express. Raises DataError if the checkpoint is no preference model.

    Source: RLHFlow's pair-preference model (`RLHF-Reward-Modeling/pair-pm`), Dong et al., arXiv 2405.07863, section
    2. The prompt here begins with the BOS of the model's template, as in training.

    Args:
        path: directory of a model of `train_preference`, of a PairRM, or of a causal language model that answers with
            a letter.
        base: directory of the adapter's base.
        dtype: of the weights, and of what is computed with them; `auto`: float32 on a CPU, bfloat16 on a GPU.
    """
    source = PreferenceModel(Path(path), base=PreferenceModel(Path(base)) if base else None)
    log_odds = _opened(source, dtype)

    def compare(prompts: Prompts, a: Texts, b: Texts, truths: Sequence[str | None]) -> list[float | None]:
        return [None if x is None else _sigmoid(x) for x in log_odds(prompts, a, b)]

    oracle = Oracle.of(compare=compare, antisymmetric=False)
    oracle.questions_per_call = QUESTIONS_TO_SORT
    return oracle


def _opened(source: PreferenceModel, dtype: Literal["auto", "float32", "bfloat16"]) -> LogOdds:
    output = preference_output(source.path)
    if output == "pair_rm":
        from tasks.training.pair_rm import pair_rm_log_odds

        return pair_rm_log_odds(source, dtype)
    return _by_letter(source, dtype) if output == "letter" else _by_score(source, dtype)


def _by_score(source: PreferenceModel, dtype: Literal["auto", "float32", "bfloat16"]) -> LogOdds:
    """A reward model that reads both answers as one."""
    base = str(source.base.path) if source.base else None
    scorer = reward_scorer(path=str(source.path), base=base, dtype=dtype)

    def log_odds(prompts: Prompts, a: Texts, b: Texts) -> Sequence[float | None]:
        return scorer.score(prompts, [both_answers(*two) for two in zip(a, b, strict=True)], [None] * len(a))

    return log_odds


def _by_letter(source: PreferenceModel, dtype: str) -> LogOdds:
    keep_memory()
    check_letters(source)
    device = this_device()
    policy = Policy(source.path, base=source.base)
    model = AnswerLogps(open_model(policy, device.dtype(dtype)).to(device.torch_device))
    template, longest = Template(source), positions_of(source)

    def log_odds(prompts: Prompts, a: Texts, b: Texts) -> Sequence[float | None]:
        questions = [letter_question(*row) for row in zip(prompts, a, b, strict=True)]
        pairs = letter_answers(template, questions)
        fits = [
            i for i, pair in enumerate(pairs)
            if pair and not uses_tools(prompts[i]) and (longest is None or _length(pair[0]) <= longest)
        ]  # fmt: skip
        found: list[float | None] = [None] * len(questions)
        if fits:
            logps = score_rows(model, _rows([pair for i in fits if (pair := pairs[i])]), device, 0)
            for i, value in zip(fits, (logps[0::2] - logps[1::2]).tolist(), strict=True):
                found[i] = value
        return found

    return log_odds


def _length(answer: Rendered) -> int:
    return answer.shared + len(answer.answer)


def _rows(pairs: Sequence[tuple[Rendered, Rendered]]) -> Rows:
    """A row for every question, with both letters as its answers."""
    shared = [min(a.shared, b.shared) for a, b in pairs]
    answers = [letter.answer_after(length) for pair, length in zip(pairs, shared, strict=True) for letter in pair]
    single = rows_of_ids([a.prompt[:length] for (a, _), length in zip(pairs, shared, strict=True)], answers)
    return Rows(
        single.prompts, single.answers, np.arange(len(pairs) + 1) * 2, single.prompt_ids[::2], single.answer_ids
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
