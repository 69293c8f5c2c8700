"""New weights for a loaded engine: it must answer as a model with these weights. One engine per kind and policy."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tasks.contract import Chosen, SpecError
from tasks.kinds import Policy
from tasks.rendering import Template
from tasks.sampling.requests import Engine, Options, Request, SampledAnswer, close_engine
from tasks.sampling.weights import check_file_names, meta_model
from tasks.template import stop_ids
from tasks.training.model import open_model
from tests.models import tiny_policy

TEXTS = ("where does the swan live ?", "a", "good question !")
ENGINES = ("transformers", "vllm")


def untied_policy(directory: Path, seed: int) -> Policy:
    return tiny_policy(directory, seed=seed)


def tied_policy(directory: Path, seed: int) -> Policy:
    """Its head is its embedding; vLLM pads its 300 rows to 320."""
    from transformers import LlamaConfig, LlamaForCausalLM

    policy = tiny_policy(directory, seed=seed, vocab=300)
    model = open_model(policy, torch.float32)
    settings = {**model.config.to_dict(), "tie_word_embeddings": True, "initializer_range": 0.3}
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(directory)
    return Policy(directory, digest=f"tied-{seed}")


def state_of(policy: Policy) -> dict[str, Any]:
    """Parameters in float32, tied ones under both names, as a trainer has them."""
    return dict(open_model(policy, torch.float32).requires_grad_().state_dict(keep_vars=True))


def loaded(engine: str, policy: Policy) -> Engine:
    made: Engine = Chosen("engines", engine, {})(policy)
    return made


def prompts_of(policy: Policy) -> list[list[int]]:
    return Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])  # type: ignore[return-value]


def greedy(engine: Engine, policy: Policy) -> list[SampledAnswer]:
    options = Options(temperature=0.0, stop_ids=stop_ids(policy))
    return engine.generate([Request(p, 0, 12) for p in prompts_of(policy)], options, lambda n: None)


def plain(policy: Policy) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probabilities of greedy answers, by the model alone."""
    model, answers = open_model(policy, torch.float32).eval(), []
    for prompt in prompts_of(policy):
        tokens: list[int] = []
        logps: list[float] = []
        while len(tokens) < 12 and not (tokens and tokens[-1] in stop_ids(policy)):
            with torch.no_grad():
                best = model(torch.tensor([prompt + tokens])).logits[0, -1].log_softmax(-1).max(-1)
            tokens.append(int(best.indices))
            logps.append(float(best.values))
        answers.append((tokens, logps))
    return answers


def assert_alike(answers: list[SampledAnswer], expected: list[tuple[list[int], list[float]]]) -> None:
    for answer, (tokens, logps) in zip(answers, expected, strict=True):
        assert answer.tokens == tokens
        assert answer.token_logps == pytest.approx(logps, abs=1e-4)


class Case(NamedTuple):
    """An engine that is loaded with policy `a`, and another policy of the same architecture."""

    name: str
    engine: Engine
    a: Policy
    b: Policy


@pytest.fixture(scope="module", params=[(name, make) for name in ENGINES for make in (untied_policy, tied_policy)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name, make = request.param
    if name == "vllm" and not importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is not installed")
    a, b = (make(tmp_path_factory.mktemp("policy"), seed) for seed in (1, 2))
    yield Case(name, loaded(name, a), a, b)
    close_engine()


def test_weights_that_do_not_fit_are_refused_and_change_nothing(case: Case) -> None:
    good = state_of(case.b)
    norm = "model.norm.weight"
    bad = {
        "has no weights model.norn.weight": good | {"model.norn.weight": good[norm]},
        "missing: model.norm.weight": {n: t for n, t in good.items() if n != norm},
        r"model.norm.weight \[31\], should be \[32\]": good | {norm: good[norm][:31]},
    }
    if torch.equal(good["lm_head.weight"], good["model.embed_tokens.weight"]):
        bad["lm_head.weight are tied in this model"] = good | {"lm_head.weight": good["lm_head.weight"] + 1}
    for text, weights in bad.items():
        with pytest.raises(SpecError, match=text):
            case.engine.update(weights.items())
    assert loaded(case.name, case.a) is case.engine
    assert_alike(greedy(case.engine, case.a), plain(case.a))


def test_an_updated_engine_answers_with_its_new_weights(case: Case) -> None:
    as_a, as_b = plain(case.a), plain(case.b)
    assert all(x != y for (x, _), (y, _) in zip(as_a, as_b, strict=True))
    case.engine.update(state_of(case.b).items())
    assert_alike(greedy(case.engine, case.a), as_b)
    case.engine.update(open_model(case.a, torch.float32).named_parameters())
    assert_alike(greedy(case.engine, case.a), as_a)
    case.engine.update(state_of(case.b).items())
    assert_alike(greedy(case.engine, case.a), as_b)


def test_the_cache_does_not_return_an_updated_engine(tmp_path: Path) -> None:
    a, b = untied_policy(tmp_path / "a", 1), untied_policy(tmp_path / "b", 2)
    engine = loaded("transformers", a)
    engine.update(state_of(b).items())
    assert loaded("transformers", a) is not engine
    assert_alike(greedy(loaded("transformers", a), a), plain(a))


def test_checkpoint_files_with_other_weight_names_than_the_model_are_refused(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    plain = tied_policy(tmp_path / "plain", 1)
    check_file_names(plain, meta_model(plain))
    config = MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    mixture = Policy(tmp_path / "mixture")
    with pytest.raises(SpecError, match=r"lack model\.layers\.0\.mlp\.gate\.weight, .*experts"):
        check_file_names(mixture, meta_model(mixture))


def test_weights_of_another_type_are_cast(tmp_path: Path) -> None:
    a, b = untied_policy(tmp_path / "a", 1), untied_policy(tmp_path / "b", 2)
    half = {n: t.bfloat16() for n, t in state_of(b).items()}
    engine = loaded("transformers", a)
    engine.update(half.items())
    own = engine.model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(own[n], t.float()) for n, t in half.items())


def test_a_policy_without_digest_is_loaded_again_after_its_files_changed(tmp_path: Path) -> None:
    a = Policy(untied_policy(tmp_path / "a", 1).path)
    engine = loaded("transformers", a)
    assert loaded("transformers", Policy(a.path)) is engine
    before = greedy(engine, a)
    untied_policy(tmp_path / "a", 2)
    assert greedy(loaded("transformers", Policy(a.path)), a) != before
