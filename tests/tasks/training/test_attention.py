"""Attention that a model asks for is the one it gets: in training, in log-probabilities and in sampling."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.contract import DataError
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy
from tasks.sampling.requests import Options, Request
from tasks.template import stop_ids
from tasks.training.device import this_device
from tasks.training.logps import AnswerLogps
from tasks.training.model import open_model, packing_for
from tasks.training.reward import open_reward_model
from tasks.training.rows import rows_of
from tests.devices import H100
from tests.families import family
from tests.tasks.training.tables import tokenized, win_rates
from tests.tasks.training.test_logps import gradients, our_logps, plain_logps

_CAPPED = {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 1, "final_logit_softcapping": 30.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "scores capped": ("gemma2", {**_CAPPED, "sliding_window": 4096}),
    "scores capped, window of 6": ("gemma2", {**_CAPPED, "sliding_window": 6}), "prompts shared": ("llama", {}),
    "window of 6": ("mistral", {"sliding_window": 6}),
    "window of 6 in some layers": ("gemma3_text", {"sliding_window": 6, "query_pre_attn_scalar": 1}),
}  # fmt: skip


def _saved(folder: Path, architecture: str, **options: Any) -> Policy:
    """A checkpoint of large random weights, so that attention is far from uniform and its cap is felt."""
    policy = family(folder, "gemma2")
    config = AutoConfig.for_model(
        architecture, vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"], hidden_size=32,
        intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=256, initializer_range=0.6, pad_token_id=0, bos_token_id=0, eos_token_id=2, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    kept = (folder / "generation_config.json").read_text()
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    (folder / "generation_config.json").write_text(kept)
    return policy


def _eager(policy: Policy) -> Any:
    """The model as transformers alone opens it, with attention written out."""
    return AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.mark.parametrize(("architecture", "options"), MODELS.values(), ids=MODELS.keys())
def test_logps_gradients_and_samples_are_those_of_eager_attention(
    architecture: str, options: dict[str, Any], tmp_path: Path
) -> None:
    policy = _saved(tmp_path / "model", architecture, **options)
    rows = rows_of(tokenized(win_rates(10), policy, tmp_path), policy)
    plain, ours = _eager(policy), open_model(policy, torch.float32)
    expected = plain_logps(plain, rows)
    expected.sum().backward()
    wanted = gradients(plain)

    found = our_logps(AnswerLogps(ours), rows, packing_for(ours, this_device(), 4096))
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=2e-3, atol=2e-2, msg=name)

    requests = [Request(rows.prompts.at(i).tolist(), seed, 24) for i in (0, 5) for seed in (1, 2, 3)]
    engine = TransformersEngine(policy, 4, 1.0, "float32")
    for request, answer in zip(
        requests, engine.generate(requests, Options(stop_ids=stop_ids(policy)), lambda _: None), strict=True
    ):
        ids = torch.tensor([[*request.prompt_tokens, *answer.tokens]])
        scores = plain(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        own = torch.tensor(answer.token_logps)
        torch.testing.assert_close(own, scores[len(request.prompt_tokens) - 1 :].detach(), rtol=1e-4, atol=1e-3)


def test_prompts_are_shared_in_eager_attention_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = _saved(tmp_path / "model", "llama")
    rows = rows_of(tokenized(win_rates(10), policy, tmp_path), policy)
    monkeypatch.setattr("tasks.training.model.attention_of", lambda config: "eager")
    ours = open_model(policy, torch.float32)
    assert packing_for(ours, this_device(), 4096).share
    found = our_logps(AnswerLogps(ours), rows, packing_for(ours, this_device(), 4096))
    torch.testing.assert_close(found, plain_logps(_eager(policy), rows), rtol=1e-5, atol=1e-3)


def test_a_cap_that_attention_leaves_out_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = _saved(tmp_path / "model", *(MODELS["scores capped"][:1]), **MODELS["scores capped"][1])
    monkeypatch.setattr("tasks.training.model.attention_of", lambda config: "sdpa")
    with pytest.raises(DataError, match=r"gives -\d+\.\d+ with sdpa attention and -\d+\.\d+ with attn_implementation"):
        open_model(policy, torch.float32)


def test_attention_that_is_written_out_gets_smaller_batches_on_a_gpu() -> None:
    """Its memory grows with the square of a row's length."""

    def tokens(implementation: str) -> int:
        text = SimpleNamespace(hidden_size=4096, num_hidden_layers=32)
        config = SimpleNamespace(_attn_implementation=implementation, get_text_config=lambda: text)
        return packing_for(SimpleNamespace(config=config), H100, 0).tokens

    assert (tokens("sdpa"), tokens("eager")) == (8192, 2048)


def test_a_reward_model_with_capped_scores_is_opened_with_eager_attention_and_else_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = _saved(tmp_path / "model", *(MODELS["scores capped"][:1]), **MODELS["scores capped"][1])
    assert open_reward_model(policy, torch.float32).config._attn_implementation == "eager"
    monkeypatch.setattr("tasks.training.reward.attention_of", lambda config: "sdpa")
    with pytest.raises(DataError, match=r"ForSequenceClassification gives .* with sdpa attention"):
        open_reward_model(policy, torch.float32)
