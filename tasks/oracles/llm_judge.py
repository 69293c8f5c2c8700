"""A language model behind a server as the judge of two answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tasks.contract import JSON, Bounds, Execution, data_file
from tasks.kinds import Oracle


def llm_judge(
    *,
    url: str,
    model: str,
    version: str = "",
    mode: Literal["verdict", "probability"] = "verdict",
    agree: bool = False,
    template: str | None = None,
    temperature: Annotated[float, Bounds(min=0)] = 0.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
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
) -> Oracle:
    """A model behind any server that speaks OpenAI's chat interface, shown both answers: which one is better?

    It depends on the order, so `compare` asks in both, or in one that depends on the pair alone (`orders: random`).
    Every response is stored under the server, the model, `version` and the whole request, and read again when it is
    needed: no question is paid twice. Raises SpecError for parameters that cannot be, DataError where the server
    refuses, a budget is used up, or too many replies cannot be read; what was answered is kept.

    Args:
        url: of the server, up to and without `/chat/completions`.
        model: its name at the server.
        version: what you declare of it: another one asks everything anew.
        mode: verdict: it explains and ends with [[A]], [[B]] or [[C]] (a tie): 1, 0 or ½ (arXiv 2306.05685);
            probability: it replies with a letter, and the log-probabilities of A and B give P (AlpacaEval).
        agree: each pair is asked in both orders and decided only where they agree; else it is a tie.
        template: a file of your own instead of the shipped `tasks/data/judge_*.jinja`: blocks `system` and `user` with
            the values prompt, a, b, mark.
        max_tokens: of a reply; default: 1,024 for a verdict, 1 for a letter.
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
    from tasks.asking.questions import Questionnaire
    from tasks.asking.requests import ChatOptions, further_fields
    from tasks.asking.template_files import template_file
    from tasks.asking.unparsed import Unparsed
    from tasks.asking.verdicts import probability_of, verdict_of

    limits = AskingLimits(
        api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries, max_queries=max_queries,
        max_cost=max_cost, price_in=price_in, price_out=price_out,
    )  # fmt: skip
    asker = Asker(Endpoint(url, model, version), limits, batch_folder)
    fields: dict[str, JSON]
    if mode == "verdict":
        read, own, length, fields = verdict_of, data_file("judge_verdict.jinja"), 1024, {}
    else:
        read, own, length = probability_of, data_file("judge_probability.jinja"), 1
        fields = {"logprobs": True, "top_logprobs": 20}
    options = ChatOptions(model, temperature, max_tokens or length, replies, seed, further_fields(extra_body), fields)
    asked = Questionnaire(asker, options, template_in(template_file(template, own)), read, Unparsed(max_unparsed))
    oracle = Oracle.asking(compare=asked.compare_agreeing if agree else asked.compare, antisymmetric=agree)
    oracle.questions_per_call = QUESTIONS_PER_CALL
    return oracle


def identity(*, online: bool, base: Path, template: str | None = None, **parameters: object) -> dict[str, str | Path]:
    """The user's template, by its content. The server's url, model and version are parameters, so they are keyed."""
    from tasks.asking.template_files import template_identity

    return template_identity(template, base)
