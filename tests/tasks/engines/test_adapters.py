"""Adapters beside one loaded base: both engines answer as the base and each adapter would alone."""

import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from tasks.contract import Chosen
from tasks.engines import vllm as vllm_module
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy
from tasks.rendering import Template
from tasks.sampling.requests import Answer, Engine, Options, Request, close_engine
from tasks.template import stop_ids
from tasks.training.adapters import adapter_in, learning_parameters
from tasks.training.model import open_model
from tests.adapters import adapted_model, adapter_policy
from tests.models import tiny_policy

TEXTS = ("where does the swan live ?", "a", "tell me what the bear eats and how big it is .", "hm")
K = 3
ENGINES = ("transformers", "vllm")
ORDER = ("base", "first", "second", "base", "wide", "first")
"""The policies in the order in which one engine answers as them."""


def options(policy: Policy) -> Options:
    return Options(temperature=0.9, stop_ids=stop_ids(policy))


def drawn(engine: Engine, policy: Policy) -> list[Answer]:
    prompts = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
    asked = [Request(p, 10 * i + k, 12) for i, p in enumerate(prompts) for k in range(K)]  # type: ignore[arg-type]
    return engine.generate(asked, options(policy), lambda n: None)


def logps_of(model: Any, policy: Policy, answers: list[Answer]) -> list[list[float]]:
    """Log-probabilities of each answer's tokens by a trainer's model."""
    prompts = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
    found = []
    for number, answer in enumerate(answers):
        prompt: Any = prompts[number // K]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer.tokens])).logits[0].log_softmax(-1)
        found.append(logps[range(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1), answer.tokens].tolist())
    return found


def assert_answers_of(model: Any, policy: Policy, answers: list[Answer]) -> None:
    for answer, logps in zip(answers, logps_of(model, policy, answers), strict=True):
        assert answer.token_logps == pytest.approx(logps, abs=1e-4)


class Case(NamedTuple):
    """One kind of engine: `answers[i]` are those of the i-th of ORDER, by one engine that was loaded `loads` times."""

    name: str
    policies: dict[str, Policy]
    answers: list[list[Answer]]
    loads: int
    after_update: list[Answer]
    after_whole_update: list[Answer]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    base = tiny_policy(tmp_path_factory.mktemp("base") / "policy", seed=4)
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "base": base,
        "first": adapter_policy(base, folder / "first", 1),
        "second": adapter_policy(base, folder / "second", 2, targets=("q_proj", "down_proj")),
        "wide": adapter_policy(base, folder / "wide", 3, rank=7),
    }


@pytest.fixture(scope="module", params=ENGINES)
def case(request: pytest.FixtureRequest, policies: dict[str, Policy], tmp_path_factory: Any) -> Iterator[Case]:
    name: str = request.param
    if name == "vllm" and not importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is not installed")
    kind: Any = TransformersEngine if name == "transformers" else vllm_module.VllmEngine
    chosen = Chosen("engines", name, {}, execution={"lora_rank": 8} if name == "vllm" else {})
    loads: list[Any] = []
    loader = "__init__" if name == "transformers" else "_load"
    real = getattr(kind, loader)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, loader, lambda self, *given: [loads.append(given), real(self, *given)][1])
        answers = [drawn(chosen(policies[which]), policies[which]) for which in ORDER]
        engine = chosen(policies["second"])
        trained = adapted_model(policies["base"], 9)
        engine.update(learning_parameters(trained).items(), adapter_in(trained))
        after_update = drawn(engine, policies["base"])
        assert chosen(policies["first"]) is engine
        other = tiny_policy(tmp_path_factory.mktemp("other") / "policy", seed=5)
        engine.update(open_model(other, torch.float32).state_dict().items())
        after_whole_update = drawn(engine, policies["base"])
    yield Case(name, policies, answers, len(loads), after_update, after_whole_update)
    close_engine()


def test_the_base_and_three_adapters_need_one_load(case: Case) -> None:
    assert case.loads == 1


def test_the_log_probabilities_of_answers_are_the_trainers(case: Case) -> None:
    for which, answers in zip(ORDER, case.answers, strict=True):
        policy = case.policies[which]
        assert_answers_of(open_model(policy, torch.float32), policy, answers)


def test_switching_changes_the_answers_and_switching_back_brings_back_the_same(case: Case) -> None:
    texts = [[a.tokens for a in answers] for answers in case.answers]
    assert texts[0] == texts[3]
    assert texts[1] == texts[5]
    for one, other in ((0, 1), (1, 2), (2, 4), (0, 4)):
        same = sum(a == b for a, b in zip(texts[one], texts[other], strict=True))
        assert same < len(texts[0]) // 4


def test_an_engine_answers_with_adapter_weights_that_a_trainer_sent(case: Case) -> None:
    assert_answers_of(adapted_model(case.policies["base"], 9), case.policies["base"], case.after_update)
