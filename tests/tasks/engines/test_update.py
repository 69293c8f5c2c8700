"""New weights for a loaded engine, for real: it must answer as one that was loaded with them."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contract import Chosen, SpecError
from tasks.kinds import Policy
from tasks.rendering import Template
from tasks.sampling.requests import Answer, Engine, Options, Request, close_engine
from tasks.sampling.weights import check_file_names, meta_model
from tasks.training.model import open_model
from tests.models import tiny_policy

TEXTS = ("where does the swan live ?", "a", "good question !")
ENGINES = [
    "transformers",
    pytest.param("vllm", marks=pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vLLM")),
]


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    close_engine()


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
    """As a trainer has it: parameters in float32, those that are tied under both names."""
    return dict(open_model(policy, torch.float32).requires_grad_().state_dict(keep_vars=True))


def loaded(engine: str, policy: Policy) -> Engine:
    made: Engine = Chosen("engines", engine, {})(policy)
    return made


def greedy(engine: Engine, policy: Policy) -> list[Answer]:
    prompts = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
    return engine.generate([Request(p, 0, 12) for p in prompts], Options(temperature=0.0), lambda n: None)


def assert_alike(ours: list[Answer], theirs: list[Answer]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.tokens == b.tokens
        assert a.token_logps == pytest.approx(b.token_logps, abs=1e-4)


@pytest.mark.parametrize("make", [untied_policy, tied_policy])
@pytest.mark.parametrize("name", ENGINES)
def test_an_updated_engine_answers_as_one_loaded_with_these_weights(
    name: str, make: Callable[[Path, int], Policy], tmp_path: Path
) -> None:
    a, b = make(tmp_path / "a", 1), make(tmp_path / "b", 2)
    as_b = greedy(loaded(name, b), a)
    engine = loaded(name, a)
    as_a = greedy(engine, a)
    assert all(x.tokens != y.tokens for x, y in zip(as_a, as_b, strict=True))
    engine.update(state_of(b).items())
    assert_alike(greedy(engine, a), as_b)
    engine.update((name, tensor) for name, tensor in open_model(a, torch.float32).named_parameters())
    assert_alike(greedy(engine, a), as_a)
    engine.update(state_of(b).items())
    assert_alike(greedy(engine, a), as_b)
    assert_alike(greedy(loaded(name, a), a), as_a)


@pytest.mark.parametrize("name", ENGINES)
def test_weights_that_do_not_fit_are_named_and_change_nothing(name: str, tmp_path: Path) -> None:
    a, b = tied_policy(tmp_path / "a", 1), tied_policy(tmp_path / "b", 2)
    engine = loaded(name, a)
    before = greedy(engine, a)
    good = state_of(b)
    norm = "model.norm.weight"
    bad = {
        "has no weights model.norn.weight": good | {"model.norn.weight": good[norm]},
        "missing: model.norm.weight": {n: t for n, t in good.items() if n != norm},
        r"model.norm.weight \[31\], should be \[32\]": good | {norm: good[norm][:31]},
        "lm_head.weight are tied in this model": good | {"lm_head.weight": good["lm_head.weight"] + 1},
    }
    for text, weights in bad.items():
        with pytest.raises(SpecError, match=text):
            engine.update(weights.items())
    assert loaded(name, a) is engine
    assert_alike(greedy(engine, a), before)


def test_files_that_name_weights_otherwise_than_the_model_are_refused(tmp_path: Path) -> None:
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


def test_weights_in_another_type_are_cast(tmp_path: Path) -> None:
    a, b = untied_policy(tmp_path / "a", 1), untied_policy(tmp_path / "b", 2)
    half = {n: t.bfloat16() for n, t in state_of(b).items()}
    engine = loaded("transformers", a)
    engine.update(half.items())
    own = engine.model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(own[n], t.float()) for n, t in half.items())


def test_a_policy_without_digest_that_was_written_again_is_loaded_again(tmp_path: Path) -> None:
    a = Policy(untied_policy(tmp_path / "a", 1).path)
    engine = loaded("transformers", a)
    assert loaded("transformers", Policy(a.path)) is engine
    before = greedy(engine, a)
    untied_policy(tmp_path / "a", 2)
    assert greedy(loaded("transformers", Policy(a.path)), a) != before
