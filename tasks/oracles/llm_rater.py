"""A language model behind a server that rates single answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tasks.contract import Bounds, Execution, SpecError, data_file
from tasks.kinds import Scorer


def llm_rater(
    *,
    url: str,
    model: str,
    version: str = "",
    mode: Literal["rating", "rubric", "criteria"] = "rating",
    criteria: dict[str, float] = {},
    scale: Annotated[float, Bounds(above=0)] = 1.0,
    template: str | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    temperature: Annotated[float, Bounds(min=0)] = 0.0,
    max_tokens: Annotated[int, Bounds(min=1)] = 1024,
    replies: Annotated[int, Bounds(min=1)] = 1,
    seed: int | None = None,
    extra_body: str = "{}",
    api_key_env: Execution[str | None] = None,
    concurrency: Execution[Annotated[int, Bounds(min=1)]] = 32,
    timeout: Execution[Annotated[float, Bounds(above=0)]] = 120.0,
    retries: Execution[Annotated[int, Bounds(min=0)]] = 8,
    max_queries: Execution[Annotated[int, Bounds(min=1)] | None] = None,
    max_cost: Execution[Annotated[float, Bounds(above=0)] | None] = None,
    price_in: Execution[Annotated[float, Bounds(min=0)]] = 0.0,
    price_out: Execution[Annotated[float, Bounds(min=0)]] = 0.0,
    max_unparsed: Execution[Annotated[float, Bounds(min=0, max=1)]] = 0.1,
    batch_folder: Execution[str | None] = None,
) -> Scorer:
    """A model behind any server that speaks OpenAI's chat interface, shown one answer: how good is it?

    Two answers are compared by P = σ(scale · difference of their scores). Responses are stored, and questions, budgets
    and faults handled, as `llm_judge` does. Raises SpecError, DataError as it does.

    Args:
        url: of the server, up to and without `/chat/completions`.
        model: its name at the server.
        version: what you declare of it: another one asks everything anew.
        mode: rating: one number from 1 to 10, beside a reference answer if there is one (arXiv 2306.05685); rubric:
            points that add up, 0 to 5 (arXiv 2401.10020); criteria: a grade from 1 to 10 for each of `criteria`, and
            their weighted mean.
        criteria: of the mode `criteria`: text of each criterion with its weight, `{"States only facts": 2, …}`.
        scale: how many logits one point is worth where answers are compared.
        template: a file of your own instead of the shipped `tasks/data/rater_*.jinja`: blocks `system` and `user` with
            the values prompt, answer, criteria, mark, and reference where the prompt's `truth` has a reference answer.
        lowest: least number that a reply may state; default: that of the mode.
        highest: largest such number.
        max_tokens: of a reply.
        replies: per question, whose values are averaged; needs a temperature above 0.
        seed: sent with each request, plus the number of the reply.
        extra_body: further fields of each request, a JSON object; null takes a field away.
        api_key_env: the variable of the environment that holds the key; default: the server wants none.
        concurrency: requests under way at once.
        timeout: seconds for one request, to its last byte.
        retries: further attempts after 429, 5xx, a lost connection, a time-out or a response that was cut.
        max_queries: questions that a step may ask, over all its attempts.
        max_cost: what a step may cost, in the currency of the prices, over all its attempts.
        price_in: of a million tokens of prompts.
        price_out: of a million tokens of replies.
        max_unparsed: the share of replies that may say nothing that can be read; those are null.
        batch_folder: for files of the Batch API: questions are written there, and the step waits for their output.
    """
    from tasks.asking.asker import QUESTIONS_PER_CALL, Asker
    from tasks.asking.endpoint import AskingLimits, Endpoint
    from tasks.asking.prompts import template_in
    from tasks.asking.questions import Questionnaire, Read
    from tasks.asking.requests import ChatOptions, further_fields
    from tasks.asking.template_files import template_file
    from tasks.asking.unparsed import Unparsed
    from tasks.asking.verdicts import rating_of, weighted_grade

    limits = AskingLimits(
        api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries, max_queries=max_queries,
        max_cost=max_cost, price_in=price_in, price_out=price_out,
    )  # fmt: skip
    asker = Asker(Endpoint(url, model, version), limits, batch_folder)
    _check_criteria(mode, criteria)
    least, most = (0.0, 5.0) if mode == "rubric" else (1.0, 10.0)
    least, most = least if lowest is None else lowest, most if highest is None else highest
    read: Read = partial(rating_of, low=least, high=most)
    if mode == "criteria":
        read = partial(weighted_grade, weights=[*criteria.values()], low=least, high=most)
        own = data_file("rater_criteria.jinja")
    elif mode == "rubric":
        own = data_file("rater_rubric.jinja")
    else:
        own = data_file("rater_rating.jinja")
    options = ChatOptions(model, temperature, max_tokens, replies, seed, further_fields(extra_body))
    asked = Questionnaire(
        asker, options, template_in(template_file(template, own)), read, Unparsed(max_unparsed),
        {"criteria": [*criteria]},
    )  # fmt: skip
    scorer = Scorer.asking(score=asked.score, scale=scale)
    scorer.questions_per_call = QUESTIONS_PER_CALL
    return scorer


def _check_criteria(mode: str, criteria: dict[str, float]) -> None:
    if (mode == "criteria") != bool(criteria):
        raise SpecError("`criteria` belongs to `mode: criteria`, which needs at least one: its text and its weight")
    if criteria and (min(criteria.values()) < 0 or sum(criteria.values()) <= 0):
        raise SpecError(f"`criteria` has the weights {[*criteria.values()]}; they must be at least 0, and not all 0")


def identity(*, online: bool, base: Path, template: str | None = None, **parameters: object) -> dict[str, str | Path]:
    """The user's template, by its content. The server's url, model and version are parameters, so they are keyed."""
    from tasks.asking.template_files import template_identity

    return template_identity(template, base)
