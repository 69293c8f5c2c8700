"""People as an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tasks.contract import Bounds, Waiting
from tasks.kinds import Oracle
from tasks.people.survey import Judgement, Survey, SurveyQuestion, Terms, check_name
from tasks.people.votes import preference

if TYPE_CHECKING:
    from tasks.judging.session import Session

EVERY_QUESTION = 1_000_000
"""Questions in one call: people get all that a step asks at once."""


def people(
    *,
    survey: str,
    annotators: Annotated[int, Bounds(min=1)] = 1,
    combine: Literal["mean", "majority"] = "mean",
    ties: bool = True,
    instructions: str = "",
) -> Oracle:
    """People who compare two answers, on the page that `alignflow judge SURVEY` serves.

    A step that asks them writes its questions and waits: the run goes on with what does not need the answers, and ends
    with exit code 3. Once every question has its judgements, running again goes on. A question that was judged for
    another run is not asked again, as long as the survey has the same name. Notices say how far the people agree.

    Args:
        survey: name of the survey that the questions belong to; its judgements are shared by all steps that name it.
        annotators: judgements that each question needs, by different people; a skipped question counts as one.
        combine: how several judgements become P(a beats b); mean: the share of the votes, where a tie is half a vote
            for each; majority: 1 or 0, and ½ where both have as many votes. Without any vote there is no answer.
        ties: whether people may call two answers equally good.
        instructions: a text above the questions that says which answer is the better one.
    """
    check_name(survey)
    terms = Terms(instructions, ties)

    def compare(
        prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        return _compare(survey, annotators, combine, terms, (prompts, a, b), session)

    oracle = Oracle.asking(compare=compare, antisymmetric=True)
    oracle.questions_per_call = EVERY_QUESTION
    return oracle


def identity(*, survey: str, **_: Any) -> dict[str, str]:
    """What people answer is no part of a key: a step's result stays what it was when later judgements come.

    Raises SpecError for a name that no survey can have.
    """
    check_name(survey)
    return {}


def _compare(
    name: str, needed: int, combine: Literal["mean", "majority"], terms: Terms,
    columns: tuple[Sequence[Any], Sequence[str], Sequence[str]], session: Session,
) -> list[float | None]:  # fmt: skip
    request = "/".join(session.work.path.parts[-2:])
    survey = Survey(session.work.answers, name)
    try:
        ids = survey.post(request, zip(*columns, strict=True), needed, terms)
        of_question: dict[str, list[Judgement]] = {id: [] for id in ids}
        for judgement in survey.judgements():
            of_question.get(judgement.question, []).append(judgement)
        open_ones = [id for id, several in of_question.items() if len(several) < needed]
        if open_ones:
            missing = sum(needed - len(of_question[id]) for id in open_ones)
            raise Waiting(
                f"{len(open_ones)} of {len(of_question)} pairs are not judged yet ({missing} judgements are missing): "
                f"judge them with `alignflow judge {name}`"
            )
        _count(session, of_question, survey.began(request))
        _notice_agreement(session, [q for q in survey.questions() if q.id in of_question], of_question)
    finally:
        survey.close()
    p_of_x = {id: preference([j.choice for j in several], combine) for id, several in of_question.items()}
    return [
        p if p is None or first < second else 1 - p
        for p, first, second in zip(map(p_of_x.__getitem__, ids), *columns[1:], strict=True)
    ]


def _notice_agreement(
    session: Session, questions: Sequence[SurveyQuestion], of_question: dict[str, list[Judgement]]
) -> None:
    """Say how far the people agree, where there are several."""
    from tasks.people.verdicts import agreement_lines, verdicts

    several = verdicts(questions, [j for judgements in of_question.values() for j in judgements])
    session.work.count(annotators=len(several.people))
    for line in agreement_lines(several):
        session.work.notice(line)


def _count(session: Session, of_question: dict[str, list[Judgement]], began: float) -> None:
    """Questions that were complete before this step asked are reused ones."""
    new = {id: [j for j in several if j.at >= began] for id, several in of_question.items()}
    asked = sum(map(bool, new.values()))
    session.pay(
        asked=asked, reused=len(new) - asked, seconds=sum(j.seconds for several in new.values() for j in several)
    )
