"""Both engines on the CPU, with the same policy, side by side: each is loaded once."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from tasks.contract import Chosen
from tasks.kinds import Policy
from tasks.rendering import Template
from tasks.sampling.requests import Options, Request, SampledAnswer, close_engine
from tasks.template import stop_ids, tokenizer_of
from tests.models import tiny_policy

ENGINES = ("transformers", "vllm")
TEXTS = ("where does the swan live ?", "a", "tell me what the bear eats and how big it is .", "good question !", "hm")
DRAWS, K = 3000, 6
pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def padded_policy(directory: Path) -> Policy:
    """A policy with ten ids more than its tokenizer, which together have between a tenth and nine tenths of the
    probability."""
    policy = tiny_policy(directory, seed=3)
    size = len(tokenizer_of(policy))
    model = AutoModelForCausalLM.from_pretrained(policy.path)
    model.resize_token_embeddings(size + 10, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[size:, :] = 0
        model.lm_head.weight[size:, 0] = 3.7
    model.save_pretrained(policy.path)
    return policy


class Case:
    """Questions to both engines; `answers` has those of each, by engine and question."""

    def __init__(self, policy: Policy) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(policy.path)
        self.size = len(tokenizer_of(policy))
        self.stops = stop_ids(policy)
        self.prompts = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
        self.answers: dict[tuple[str, str], list[SampledAnswer]] = {}
        for name in ENGINES:
            self._generate(name, policy)

    def _generate(self, name: str, policy: Policy) -> None:
        engine = Chosen("engines", name, {})(policy)

        def answers(requests: list[Request], **options: object) -> list[SampledAnswer]:
            wanted = Options(stop_ids=self.stops, **options)  # type: ignore[arg-type]
            answered: list[SampledAnswer] = engine.generate(requests, wanted, lambda n: None)
            return answered

        def keep(question: str, requests: list[Request], **options: object) -> None:
            self.answers[name, question] = answers(requests, **options)

        greedy = [Request(p, 0, 24) for p in self.prompts]
        keep("greedy", greedy, temperature=0.0)
        stop = self.answers["transformers", "greedy"][2].text[4:7]
        keep("stop", greedy, temperature=0.0, stop=(stop, "never"))
        some = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
        varied = [Request(p, 100 * i + k, 16) for i, p in enumerate(self.prompts) for k in range(K)]
        keep("varied", varied, **some)
        self.answers[name, "reversed"] = answers(varied[::-1], **some)[::-1]
        by_draw = [answers(varied[k::K], **some) for k in range(K)]
        self.answers[name, "one of each prompt per call"] = [a for row in zip(*by_draw, strict=True) for a in row]
        how = Options(stop_ids=self.stops, **some)  # type: ignore[arg-type]
        parts = engine.generate_parts([varied[:7], varied[7:8], [], varied[8:]], how, lambda n: None)
        self.answers[name, "parts"] = [a for part in parts for a in part]
        abandoned = engine.generate_parts([varied[:7], varied[7:]], how, lambda n: None)
        next(abandoned)
        abandoned.close()
        keep("after an abandoned call", varied, **some)
        keep("first", [Request(self.prompts[0], seed, 1) for seed in range(DRAWS)])
        keep("cut", [Request(self.prompts[0], seed, 1) for seed in range(DRAWS)], temperature=1.3, top_k=40, top_p=0.7)
        # vLLM reads 4,096 tokens at once on a CPU: one of 64 prompts of 100 tokens lies across the border.
        long = [[1, *[10 + (i * j) % 250 for j in range(1, 100)]] for i in range(1, 65)]
        keep("long", [Request(p, i, 4) for i, p in enumerate(long)])

    def distribution(self) -> np.ndarray:
        """Of the first token after the first prompt, by a plain forward pass, `(V,)`."""
        with torch.no_grad():
            logits = self.model(torch.tensor([self.prompts[0]])).logits
        return np.asarray(logits[0, -1].double().softmax(-1))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield Case(padded_policy(tmp_path_factory.mktemp("policy")))
    close_engine()


@pytest.mark.parametrize("question", ["greedy", "stop", "varied", "long"])
def test_both_engines_give_the_same_text_and_log_probabilities(case: Case, question: str) -> None:
    ours, theirs = case.answers["transformers", question], case.answers["vllm", question]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.text, a.tokens, a.finish_reason) == (b.text, b.tokens, b.finish_reason)
        assert a.token_logps == pytest.approx(b.token_logps, abs=1e-3)
    assert len({tuple(a.tokens) for a in ours}) > len(ours) // 2


@pytest.mark.parametrize("question", ["first", "cut"])
def test_both_engines_draw_the_same_tokens_up_to_near_ties(case: Case, question: str) -> None:
    ours, theirs = case.answers["transformers", question], case.answers["vllm", question]
    assert sum(a.tokens != b.tokens for a, b in zip(ours, theirs, strict=True)) <= 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("arrangement", ["reversed", "one of each prompt per call", "parts", "after an abandoned call"])
def test_draws_depend_on_neither_order_nor_batch_nor_the_number_per_request(
    case: Case, engine: str, arrangement: str
) -> None:
    assert [a.tokens for a in case.answers[engine, arrangement]] == [a.tokens for a in case.answers[engine, "varied"]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("question", ["greedy", "varied"])
def test_log_probabilities_are_the_untruncated_ones(case: Case, engine: str, question: str) -> None:
    answers = case.answers[engine, question]
    for number, answer in enumerate(answers):
        prompt = case.prompts[number * len(case.prompts) // len(answers)]
        with torch.no_grad():
            logps = case.model(torch.tensor([prompt + answer.tokens])).logits[0].log_softmax(-1)
        plain = logps[range(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1), answer.tokens]
        assert answer.token_logps == pytest.approx(plain.tolist(), abs=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_draws_follow_the_models_distribution_without_ids_that_have_no_text(case: Case, engine: str) -> None:
    expected = case.distribution()
    assert 0.1 < expected[case.size :].sum() < 0.9
    expected[case.size :] = 0
    assert _fits(case.answers[engine, "first"], expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_truncated_draws_follow_the_truncated_distribution(case: Case, engine: str) -> None:
    weights = case.distribution() ** (1 / 1.3)
    weights[case.size :] = 0
    order = np.argsort(-weights)[:40]
    share = weights[order] / weights[order].sum()
    kept = order[np.cumsum(share) - share < 0.7]
    expected = np.zeros_like(weights)
    expected[kept] = weights[kept]
    assert _fits(case.answers[engine, "cut"], expected)


def _fits(answers: list[SampledAnswer], weights: np.ndarray) -> bool:
    """Whether the first tokens may come from `weights`: a chi-square test in which tokens that are expected fewer than
    5 times count as one."""
    counts = np.bincount([a.tokens[0] for a in answers], minlength=len(weights))
    expected = weights / weights.sum() * len(answers)
    rare = expected < 5
    observed, expected = (np.append(x[~rare], x[rare & (weights > 0)].sum()) for x in (counts, expected))
    some = expected > 0
    return bool(counts[weights == 0].sum() == 0 and stats.chisquare(observed[some], expected[some]).pvalue > 1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_ends_before_the_stop_string(case: Case, engine: str) -> None:
    full, answer = case.answers["transformers", "greedy"][2], case.answers[engine, "stop"][2]
    assert answer.text == full.text[: full.text.index(full.text[4:7])]
    assert answer.finish_reason == "stop"
    assert answer.tokens == full.tokens[: len(answer.tokens)]
    assert len(answer.token_logps) == len(answer.tokens) < len(full.tokens)
    assert answer.tokens[-1] not in case.stops


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_of_maximum_length_has_no_eos(case: Case, engine: str) -> None:
    for answer in case.answers[engine, "varied"]:
        assert (answer.tokens[-1] in case.stops) == (answer.finish_reason == "stop")
        assert len(answer.tokens) == 16 or answer.finish_reason == "stop"
    assert {a.finish_reason for a in case.answers[engine, "greedy"]} == {"stop", "length"}
