"""Letters as answers: the tokens by which a causal language model says which of two answers is better."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.comparison_text import LETTERS, letter_question
from tasks.contract import DataError
from tasks.kinds import Model
from tasks.message import Message
from tasks.rendering import AnswerText, Rendered, Template


def letter_answers(
    template: Template, questions: Sequence[Sequence[Message]]
) -> list[tuple[Rendered, Rendered] | None]:
    """Ids of every question with each letter behind it; None where the template refuses the question."""
    texts = [AnswerText(question, letter, ended=False) for question in questions for letter in LETTERS]
    answers = iter(template.answers(texts))
    pairs = zip(answers, answers, strict=True)
    return [(a, b) if isinstance(a, Rendered) and isinstance(b, Rendered) else None for a, b in pairs]


def check_letters(model: Model) -> None:
    """Raises DataError unless the model's answers A and B differ in one token, their last.

    Then the softmax over both letters' log-probabilities is that over the two tokens, whatever precedes them.
    """
    question = letter_question([{"role": "user", "content": "Why is the sky blue?"}], "Yes.", "No idea.")
    (pair,) = letter_answers(Template(model), [question])
    if pair is None:
        raise DataError(f"the chat template of {model.path} cannot render a comparison and a letter as its answer")
    ids = [answer.prompt[: answer.shared] + answer.answer for answer in pair]
    if len(ids[0]) != len(ids[1]) or ids[0][:-1] != ids[1][:-1] or ids[0][-1] == ids[1][-1]:
        shown = [answer.answer for answer in pair]
        raise DataError(
            f"the tokenizer of {model.path} encodes the answers {LETTERS[0]} and {LETTERS[1]} as {shown[0]} and "
            f"{shown[1]}: a preference model that answers with a letter needs two different single tokens; use "
            "`answers_as: log_odds`, or a tokenizer that has them"
        )
