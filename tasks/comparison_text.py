"""The text of a comparison: the one place that lays out a prompt and two answers for a model that reads both.

The letter layout is that of RLHFlow's pair-preference models (`RLHF-Reward-Modeling/pair-pm`).
"""

from collections.abc import Sequence

from tasks.message import Message

LETTERS = ("A", "B")
"""What a model that answers with a letter calls the first and the second answer."""


def both_answers(first: str, second: str) -> str:
    """Both answers as the text of one: what a cross-encoder reads behind the prompt."""
    return f"[RESPONSE {LETTERS[0]}] {first} [RESPONSE {LETTERS[1]}] {second}"


def letter_question(prompt: Sequence[Message], first: str, second: str) -> list[Message]:
    """The prompt and both answers as one user message, to which the model answers with the better one's letter."""
    turns = "".join(f"\n<turn> {message['role']}\n {message['content']}" for message in prompt)
    return [{"role": "user", "content": f"[CONTEXT] \n{turns}\n {both_answers(first, second)} \n"}]
