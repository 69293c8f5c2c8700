"""Both engines for real, on the CPU, side by side."""

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
from tasks.sampling.requests import Answer, Options, Request, close_engine
from tasks.template import stop_ids, tokenizer_of
from tests.models import tiny_policy

ENGINES = ("transformers", "vllm")
TEXTS = ("where does the swan live ?", "a", "tell me what the bear eats and how big it is .", "good question !", "hm")
DRAWS = 3000
pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


class Case:
    """What is asked of both engines; the answers of each, by question."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tokenizer = tokenizer_of(policy)
        self.stops = stop_ids(policy)
        self.prompts = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
        self.answers: dict[tuple[str, str], list[Answer]] = {}

    def ask(self, engine: str, question: str, requests: list[Request], options: Options) -> None:
        loaded = Chosen("engines", engine, {})(self.policy)
        self.answers[engine, question] = loaded.generate(requests, options, lambda n: None)

    def distribution(self) -> np.ndarray:
        """Of the first token after the first prompt, by a plain forward pass, `(V,)`."""
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(self.policy.path)(torch.tensor([self.prompts[0]])).logits
        return logits[0, -1].double().softmax(-1).numpy()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    case = Case(tiny_policy(tmp_path_factory.mktemp("policy"), seed=3))
    greedy = [Request(p, 0, 24) for p in case.prompts]
    varied = [Request(p, 100 * i + k, 16) for i, p in enumerate(case.prompts) for k in range(6)]
    first = [Request(case.prompts[0], seed, 1) for seed in range(DRAWS)]
    for engine in ENGINES:
        case.ask(engine, "greedy", greedy, Options(temperature=0.0, stop_ids=case.stops))
        case.ask(engine, "varied", varied, Options(temperature=0.8, top_k=50, top_p=0.9, stop_ids=case.stops))
        case.ask(engine, "turned", varied[::-1], Options(temperature=0.8, top_k=50, top_p=0.9, stop_ids=case.stops))
        case.ask(engine, "first", first, Options(stop_ids=case.stops))
        case.ask(engine, "cut", first, Options(temperature=1.3, top_k=40, top_p=0.7, stop_ids=case.stops))
        stop = case.answers["transformers", "greedy"][2].text[4:7]
        case.ask(engine, "stop", greedy, Options(temperature=0.0, stop=(stop, "never"), stop_ids=case.stops))
    yield case
    close_engine()


def test_greedy_answers_are_the_same_text_and_log_probabilities(case: Case) -> None:
    ours, theirs = case.answers["transformers", "greedy"], case.answers["vllm", "greedy"]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.text, a.tokens, a.finish_reason) == (b.text, b.tokens, b.finish_reason)
        assert a.token_logps == pytest.approx(b.token_logps, abs=1e-3)
    assert {a.finish_reason for a in ours} == {"stop", "length"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("question", ["greedy", "varied"])
def test_log_probabilities_are_the_untruncated_ones(case: Case, engine: str, question: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(case.policy.path)
    answers = case.answers[engine, question]
    for number, answer in enumerate(answers):
        prompt = case.prompts[number * len(case.prompts) // len(answers)]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer.tokens])).logits[0].log_softmax(-1)
        plain = logps[range(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1), answer.tokens]
        assert answer.token_logps == pytest.approx(plain.tolist(), abs=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_draws_follow_the_models_distribution(case: Case, engine: str) -> None:
    counts = np.bincount([a.tokens[0] for a in case.answers[engine, "first"]], minlength=len(case.distribution()))
    assert _chi_square(counts, case.distribution()) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_truncated_draws_follow_the_truncated_distribution(case: Case, engine: str) -> None:
    weights = case.distribution() ** (1 / 1.3)
    order = np.argsort(-weights)[:40]
    share = weights[order] / weights[order].sum()
    kept = order[np.cumsum(share) - share < 0.7]
    expected = np.zeros_like(weights)
    expected[kept] = weights[kept] / weights[kept].sum()
    counts = np.bincount([a.tokens[0] for a in case.answers[engine, "cut"]], minlength=len(weights))
    assert counts[expected == 0].sum() == 0
    assert _chi_square(counts, expected) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_seeds_and_not_the_order_decide_what_is_drawn(case: Case, engine: str) -> None:
    straight, turned = case.answers[engine, "varied"], case.answers[engine, "turned"][::-1]
    assert [a.tokens for a in straight] == [a.tokens for a in turned]
    assert len({tuple(a.tokens) for a in straight}) > len(straight) // 2


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_ends_before_the_stop_string(case: Case, engine: str) -> None:
    full = case.answers["transformers", "greedy"][2]
    answer = case.answers[engine, "stop"][2]
    stop = full.text[4:7]
    assert answer.text == full.text[: full.text.index(stop)]
    assert answer.finish_reason == "stop"
    assert answer.tokens == full.tokens[: len(answer.tokens)]
    assert len(answer.tokens) < len(full.tokens)
    assert len(answer.token_logps) == len(answer.tokens)
    assert answer.tokens[-1] not in case.stops


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cut_answer_has_no_eos(case: Case, engine: str) -> None:
    for answer in case.answers[engine, "varied"]:
        assert (answer.tokens[-1] in case.stops) == (answer.finish_reason == "stop")
        assert len(answer.tokens) == 16 or answer.finish_reason == "stop"


def test_more_prompts_than_vllm_reads_at_once_are_drawn_by_their_seeds(case: Case) -> None:
    """Its budget on a CPU is 4,096 tokens: one of 64 prompts of 100 tokens lies across the border."""
    prompts = [[1, *[10 + (i * j) % 250 for j in range(1, 100)]] for i in range(1, 65)]
    requests = [Request(p, i, 4) for i, p in enumerate(prompts)]
    options = Options(temperature=0.0, stop_ids=case.stops)
    ours, theirs = (
        Chosen("engines", engine, {})(case.policy).generate(requests, options, lambda n: None) for engine in ENGINES
    )
    assert [a.tokens for a in ours] == [b.tokens for b in theirs]


def _chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """p-value; tokens expected fewer than 5 times count as one."""
    rare = expected * counts.sum() < 5
    observed = [*counts[~rare], counts[rare].sum()] if rare.any() else counts
    wanted = [*expected[~rare], expected[rare].sum()] if rare.any() else expected
    wanted_, observed_ = np.array(wanted), np.array(observed)
    some = wanted_ > 0
    return float(stats.chisquare(observed_[some], wanted_[some] / wanted_.sum() * counts.sum()).pvalue)


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_without_a_text_are_never_drawn_and_keep_their_share_of_the_probability(
    engine: str, tmp_path: Path
) -> None:
    """Ten rows behind the tokenizer's: a padded embedding, here with the highest scores of all."""
    policy = tiny_policy(tmp_path / "padded")
    size = len(tokenizer_of(policy))
    model = AutoModelForCausalLM.from_pretrained(policy.path)
    model.resize_token_embeddings(size + 10, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[size:, :] = 0
        model.lm_head.weight[size:, 0] = 9.0
    model.save_pretrained(policy.path)
    (prompt,) = Template(policy).prompts([[{"role": "user", "content": TEXTS[0]}]])
    loaded = Chosen("engines", engine, {})(policy)
    for options in (Options(temperature=0.0), Options(), Options(temperature=1.2, top_k=40, top_p=0.9)):
        answers = loaded.generate([Request(prompt, seed, 8) for seed in range(20)], options, lambda n: None)
        assert max(max(a.tokens) for a in answers) < size
    with torch.no_grad():
        scores = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert scores[size:].exp().sum() > 0.9
    for answer in answers:
        assert answer.token_logps[0] == pytest.approx(float(scores[answer.tokens[0]]), abs=1e-3)
