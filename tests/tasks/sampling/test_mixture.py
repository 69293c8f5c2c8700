"""Samples of the geometric mixture of a policy and its reference, token by token."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch

from tasks.contract import Chosen, SpecError
from tasks.kinds import Policy
from tasks.sampling.decoding import DecodingModel, cache_shapes
from tasks.sampling.mixture import MixtureSampler
from tasks.sampling.requests import Engine, Options, Request, SampledAnswer, check_mixture, close_engine
from tasks.template import stop_ids
from tasks.training.model import open_model
from tests.models import tiny_policy

REQUESTS = [Request([1, 4, 10 + i % 3, *range(20, 20 + i)], 1000 + i, 9) for i in range(24)]


class Held:
    """A reference that a trainer holds in this process."""

    def __init__(self, policy: Policy, ref: Policy) -> None:
        self.model = open_model(ref, torch.float32)
        self._own = open_model(policy, torch.float32)

    def decoding(self) -> DecodingModel:
        return DecodingModel(self.model, cache_shapes(self.model))

    def answer_on(self, engine: Engine) -> None:
        engine.update(self.model.state_dict().items())

    def restore(self, engine: Engine) -> None:
        engine.update(self._own.state_dict().items())


class Alone:
    """An engine that cannot decode together with another model, like one in a process of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, requests: Sequence[Request], options: Options, on_progress: Any) -> list[SampledAnswer]:
        return self._engine.generate(requests, options, on_progress)

    def update(self, *weights: Any) -> None:
        self._engine.update(*weights)


class Both(NamedTuple):
    policy: Policy
    ref: Policy
    held: Held


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    policy, ref = (tiny_policy(tmp_path_factory.mktemp(f"p{seed}"), seed=seed, ending=2.5) for seed in (0, 1))
    yield Both(policy, ref, Held(policy, ref))
    close_engine()


def options_of(policy: Policy) -> Options:
    return Options(temperature=0.9, stop_ids=stop_ids(policy))


def engine_of(policy: Policy, batch: int = 10) -> Any:
    return Chosen("engines", "transformers", {"batch": batch})(policy)


def drawn(sampler: Engine | MixtureSampler, policy: Policy) -> list[SampledAnswer]:
    return sampler.generate(REQUESTS, options_of(policy), lambda n: None)


def test_a_mixture_of_0_is_the_policy_and_of_1_the_reference(both: Both) -> None:
    """The very texts and numbers of a plain engine with the same seeds."""
    of_ref = drawn(engine_of(both.ref), both.policy)
    engine = engine_of(both.policy)
    of_policy = drawn(engine, both.policy)
    assert drawn(MixtureSampler(engine, both.held, 0.0), both.policy) == of_policy
    assert drawn(MixtureSampler(engine, both.held, 1.0), both.policy) == of_ref
    assert drawn(engine, both.policy) == of_policy
    assert sum(a.tokens != b.tokens for a, b in zip(of_policy, of_ref, strict=True)) > 20


def test_between_them_each_token_is_drawn_from_the_normalised_product(both: Both) -> None:
    """log π_mix = (1 − m)·log π + m·log π_ref − log Z at every token, whatever batch it was decoded in."""
    engine, m = engine_of(both.policy, batch=5), 0.25
    answers = drawn(MixtureSampler(engine, both.held, m), both.policy)
    for request, answer in zip(REQUESTS, answers, strict=True):
        ids = torch.tensor([[*request.prompt_tokens, *answer.tokens]])
        with torch.no_grad():
            own, ref = (model(ids).logits[0].log_softmax(-1) for model in (both.held._own, both.held.model))
        mixed = ((1 - m) * own + m * ref).log_softmax(-1)
        first = len(request.prompt_tokens) - 1
        expected = mixed[range(first, first + len(answer.tokens)), answer.tokens]
        assert answer.token_logps == pytest.approx(expected.tolist(), abs=1e-4)
    alone = drawn(MixtureSampler(engine_of(both.policy, batch=1), both.held, m), both.policy)
    assert [a.tokens for a in alone] == [a.tokens for a in answers]


def test_first_tokens_have_the_probabilities_of_the_mixture(both: Both) -> None:
    prompt, draws = [1, 4, 10], 4000
    engine = engine_of(both.policy, batch=draws)
    requests = [Request(prompt, seed, 1) for seed in range(draws)]
    answers = MixtureSampler(engine, both.held, 0.5).generate(requests, Options(), lambda n: None)
    with torch.no_grad():
        scores = [model(torch.tensor([prompt])).logits[0, -1] for model in (both.held._own, both.held.model)]
    expected = ((scores[0] + scores[1]) / 2).softmax(0)
    counts = torch.tensor([a.tokens[0] for a in answers]).bincount(minlength=len(expected))
    likely = expected * draws > 20
    assert int(likely.sum()) > 8
    z = (counts - expected * draws)[likely] / (expected * draws)[likely].sqrt()
    assert float(z.abs().max()) < 4


def test_an_engine_of_its_own_process_takes_the_weights_of_the_reference_and_gives_them_back(both: Both) -> None:
    of_ref = drawn(engine_of(both.ref), both.policy)
    engine = engine_of(both.policy)
    of_policy = drawn(engine, both.policy)
    alone: Any = Alone(engine)
    assert drawn(MixtureSampler(alone, both.held, 1.0), both.policy) == of_ref
    assert drawn(alone, both.policy) == of_policy
    with pytest.raises(SpecError, match=r"mixture = 0\.5 .* set `engine: transformers`, or a mixture of 0"):
        drawn(MixtureSampler(alone, both.held, 0.5), both.policy)


def test_a_mixture_is_refused_by_the_name_of_the_engine() -> None:
    for engine, mixture in (("transformers", 0.5), ("vllm", 0.0), ("vllm", 1.0)):
        check_mixture(engine, mixture)
    with pytest.raises(SpecError, match=r"mixture = 0\.125 .* engine vllm cannot do"):
        check_mixture("vllm", 0.125)
