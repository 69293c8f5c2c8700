"""A policy as a live judge, which rates answers by a rubric. `PolicyJudge.open` and the oracle `self_judge` call it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tasks.answers.store import Answer
from tasks.contract import Chosen, DataError, chunks
from tasks.ids import digest
from tasks.judging.rubric import Rubric
from tasks.judging.session import Session
from tasks.kinds import Policy, Scorer
from tasks.message import Message
from tasks.rendering import Template
from tasks.sampling.requests import Engine, Options, Request
from tasks.sampling.weights import weights_identity
from tasks.template import generation_config, stop_ids, template_digest, tokenizer_of
from tasks.training.candidates import CandidateLogps
from tasks.training.device import this_device
from tasks.training.model import positions_of

UNKEYED = {"tasks.contract.Chosen": "the engine's code is in the content of the judge, beside its name"}

QUESTIONS_PER_CALL = 512
_PART = 128
"""Judgements that are sampled before they are stored; at most so many, with vllm twice as many, are lost by a kill."""


@dataclass(frozen=True)
class Judgements:
    """How judgements are sampled."""

    n: int = 3
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    """None: max_new_tokens of generation_config.json, else the remaining positions."""
    seed: int = 0
    max_unparsed: float = 0.5
    """Largest share of judgements without a score."""


def policy_judge(
    *, policy: Sequence[Policy], rubric: Mapping[str, Any], judgements: Mapping[str, Any] | None,
    engine: Mapping[str, Any] | None, scale: float, dtype: str = "auto",
) -> Scorer:  # fmt: skip
    """The scorer that a policy of a store is by a rubric.

    Args:
        policy: one policy.
        rubric: see `Rubric`.
        judgements: see `Judgements`; None for expected scores.
        engine: name, parameters and code of the engine that samples; None for expected scores.
        scale: logits that one point is worth.
        dtype: that `expected` computes in; an engine has its own.
    """
    [judge] = policy
    if judgements is None or engine is None:
        return expected_score(judge, Rubric(**rubric), scale, dtype)
    chosen = Chosen("engines", engine["name"], engine["params"], engine["code"])
    sampling = Sampling(chosen, json.dumps(engine, sort_keys=True))
    return mean_judgement(judge, Rubric(**rubric), Judgements(**judgements), sampling, scale)


class Sampling(NamedTuple):
    """How an engine is loaded, and what identifies it beside the model."""

    load: Callable[[Policy], Engine]
    identity: str


def expected_score(policy: Policy, rubric: Rubric, scale: float, dtype: str) -> Scorer:
    """The scorer Σ s·π(s) / Σ π(s) over the scores s of a rubric, π(s) = P(the judgement begins with `lead` and s).

    An answer has no score (None) where the template refuses the question, or the policy cannot read so much. Nothing is
    loaded before the first question.
    """
    return Scorer.scoring(_Expected(policy, rubric, dtype).scores, scale=scale)


def mean_judgement(policy: Policy, rubric: Rubric, judgements: Judgements, sampling: Sampling, scale: float) -> Scorer:
    """The scorer that is the mean of the scores that n sampled judgements state, without those that state none.

    The noise of a judgement belongs to (seed, question, its number). An answer has no score (None) where none states
    one, and as with `expected_score`.
    """
    scorer = Scorer.asking(score=_Sampled(policy, rubric, judgements, sampling).scores, scale=scale)
    scorer.questions_per_call = QUESTIONS_PER_CALL
    return scorer


class _Questions:
    def __init__(self, policy: Policy, rubric: Rubric) -> None:
        self._policy, self._rubric = policy, rubric

    def of(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[list[Message]]:
        return [
            self._rubric.question(prompt, completion, self._special)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    @cached_property
    def _special(self) -> list[str]:
        """Texts of the tokens that are no text, the longest first."""
        tokens = tokenizer_of(self._policy).added_tokens_decoder.values()
        return sorted({str(token) for token in tokens if token.special}, key=lambda t: (-len(t), t))


class _Expected:
    def __init__(self, policy: Policy, rubric: Rubric, dtype: str) -> None:
        self._scores = np.array(rubric.scores, np.float64)
        self._questions = _Questions(policy, rubric)
        self._logps = CandidateLogps(policy, [rubric.judgement(score) for score in rubric.scores], dtype)

    def scores(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]
    ) -> list[float | None]:
        logps = self._logps(self._questions.of(prompts, completions))
        shares = np.exp(logps - logps.max(axis=1, keepdims=True))
        means = (shares * self._scores).sum(axis=1) / shares.sum(axis=1)
        return [None if np.isnan(mean) else float(mean) for mean in means]


class _Sampled:
    def __init__(self, policy: Policy, rubric: Rubric, judgements: Judgements, sampling: Sampling) -> None:
        self._policy, self._rubric, self._judgements, self._sampling = policy, rubric, judgements, sampling
        self._questions = _Questions(policy, rubric)
        self._parsed = self._unparsed = 0

    def scores(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        questions = self._questions.of(prompts, completions)
        requests = [(i, one) for i, several in enumerate(self._requests(questions)) for one in several]
        names = [digest(json.dumps(questions[i]), str(r.seed), str(r.max_tokens)) for i, r in requests]

        def ask(numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
            return self._answers([(n, requests[n][1]) for n in numbers])

        stated: list[list[float]] = [[] for _ in questions]
        for (i, _), answer in zip(requests, session.answers(self._identity, names, ask), strict=True):
            score = self._rubric.score_in(answer.raw) if answer is not None and answer.value else None
            if score is not None:
                stated[i].append(score)
        self._count(len(requests), sum(map(len, stated)), session)
        return [sum(several) / len(several) if several else None for several in stated]

    def _requests(self, questions: Sequence[Sequence[Message]]) -> Iterator[list[Request]]:
        """The n requests for each question; none where the template refuses it, or it leaves no room."""
        positions = positions_of(self._policy)
        longest = self._judgements.max_tokens or generation_config(self._policy.path).get("max_new_tokens")
        for question, ids in zip(questions, self._template.prompts(questions), strict=True):
            if not isinstance(ids, list):
                yield []
                continue
            rooms = [n for n in (longest, None if positions is None else positions - len(ids)) if n is not None]
            if not rooms:
                raise DataError(f"{self._policy.path} specifies neither positions nor max_new_tokens: set max_tokens")
            seeds = (self._seed(question, number) for number in range(self._judgements.n))
            yield [Request(ids, seed, min(rooms)) for seed in seeds] if min(rooms) > 0 else []

    def _seed(self, question: Sequence[Message], number: int) -> int:
        return int(digest("judgement", str(self._judgements.seed), json.dumps(question), str(number))[:16], 16) >> 1

    def _answers(self, requests: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Answer]]:
        """(number, judgement) when its part is complete; the value is whether it ended: a cut one has no score."""
        parts = [requests[part] for part in chunks(len(requests), _PART)]
        begun = time.monotonic()
        answered = self._sampling.load(self._policy).generate_parts(
            ([request for _, request in part] for part in parts), self._options, lambda finished: None
        )
        for part, made in zip(parts, answered, strict=True):
            begun, seconds = time.monotonic(), (time.monotonic() - begun) / len(part)
            for (number, request), one in zip(part, made, strict=True):
                sizes = len(request.prompt_tokens), len(one.tokens)
                yield number, Answer(one.finish_reason == "stop", one.text, *sizes, seconds)

    def _count(self, judgements: int, parsed: int, session: Session) -> None:
        """Raise DataError where too large a share of the judgements states no score."""
        self._parsed += parsed
        self._unparsed += judgements - parsed
        session.usage.unparsed += judgements - parsed
        total = self._parsed + self._unparsed
        if self._unparsed > self._judgements.max_unparsed * total:
            raise DataError(
                f"{self._unparsed} of {total} judgements state no score from {self._rubric.lowest} to "
                f"{self._rubric.highest} behind {self._rubric.lead!r}, and max_unparsed = "
                f"{self._judgements.max_unparsed:g} allows fewer. They lie in {session.work.answers}; give them more "
                "tokens, another rubric, or `how: expected`"
            )

    @cached_property
    def _template(self) -> Template:
        return Template(self._policy)

    @cached_property
    def _options(self) -> Options:
        j = self._judgements
        return Options(j.temperature, j.top_p, stop_ids=stop_ids(self._policy))

    @cached_property
    def _identity(self) -> str:
        """Of what answers a question: model, engine, options, kind of device. Seed and number are the question's."""
        j, policy = self._judgements, self._policy
        model = policy.digest or str(weights_identity(policy))
        options = json.dumps([j.temperature, j.top_p, sorted(self._options.stop_ids)])
        return digest(
            "policy_judge", model, template_digest(policy), self._sampling.identity, options, this_device().kind
        )
