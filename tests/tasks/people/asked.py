"""A survey of small questions."""

from pathlib import Path

from tasks.people.survey import Judgement, Survey, Terms, question_id


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


PAIRS = [(prompt("cats ?"), "good", "bad"), (prompt("dogs ?"), "=1+1", "fine"), (prompt("owls ?"), "one\ntwo", "three")]
IDS = [question_id(*pair) for pair in PAIRS]


def survey_of(folder: Path, *, needed: int = 1, ties: bool = True) -> Survey:
    """A survey `round1` of three questions."""
    survey = Survey(folder, "round1")
    survey.post("step-1", PAIRS, needed, Terms("Be kind.", ties))
    return survey


def judged(question: str, annotator: str, choice: str, at: float = 1.0) -> Judgement:
    return Judgement(question, annotator, choice, "x", 2.0, at)
