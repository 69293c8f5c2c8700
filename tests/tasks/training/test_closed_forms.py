"""The enumerable world: so few answers that the whole distribution is known, and so is the optimum of each loss.

Three letters and EOS, at most three tokens, cut without EOS: 1 + 3 + 9 + 27 = 40 answers to each of 4 prompts. Other
tokens are out of reach. Each fit is the real one; its result is read by the real `logps`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp, wrightomega

from tasks.contract import Chosen
from tasks.kinds import Completions, Policy, Preferences, Table, WinRates
from tasks.template import template_digest
from tasks.train import fit, logps
from tests.workspace import Workspace

EOS, LETTERS, PROMPTS, LONGEST = 2, (7, 8, 9), 4, 3
ANSWERS = [
    *((*letters, EOS) for n in range(LONGEST) for letters in product(LETTERS, repeat=n)),
    *product(LETTERS, repeat=LONGEST),
]
N = len(ANSWERS)
Matrix = npt.NDArray[np.float64]


class World(NamedTuple):
    ref: Policy
    log_ref: Matrix
    """`(prompts, answers)`."""
    rewards: Matrix


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    ref = _uneven_policy(folder / "ref")
    log_ref = _distribution(ref, folder)
    return World(ref, log_ref, np.random.default_rng(3).normal(size=(PROMPTS, N)))


def _uneven_policy(folder: Path) -> Policy:
    """A Llama 64 × 2; channel 0 of its residual stream is constant and keeps the other tokens from ever being drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=10, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=EOS,
        initializer_range=0.06,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 2.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[[0, 1, 3, 4, 5, 6], 0] = -300.0
    model.save_pretrained(folder)
    return Policy(folder)


def _row(prompt: int, answer: int) -> dict[str, object]:
    return {
        "prompt_id": f"p{prompt}", "prompt": [], "completion_id": f"c{answer}", "completion": "",
        "prompt_tokens": [1, 3 + prompt], "completion_tokens": list(ANSWERS[answer]), "stream": 0, "k": answer,
        "token_logps": [], "finish_reason": "stop",
    }  # fmt: skip


def _everything(policy: Policy) -> Table:
    rows = [_row(x, y) for x in range(PROMPTS) for y in range(N)]
    return Completions.of(pa.Table.from_pylist(rows), {"template": template_digest(policy)})


def _distribution(policy: Policy, folder: Path) -> Matrix:
    """Log-probability of every answer; they sum to one, which checks cutting, EOS and masking at once."""
    table = logps(policy, _everything(policy), Workspace(folder / "read"))
    found = table.frame["logps"].to_numpy().reshape(PROMPTS, N)
    np.testing.assert_allclose(logsumexp(found, axis=1), 0, atol=1e-5)
    return found


def _kl(a: Matrix, b: Matrix) -> float:
    """KL(a ‖ b), mean over prompts, nats."""
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def _normalised(logits: Matrix) -> Matrix:
    return logits - logsumexp(logits, axis=1, keepdims=True)


SETTINGS = {"lr": 2e-3, "schedule": "cosine", "warmup": 0.02, "max_grad_norm": 1e3, "checkpoint_every": 10**6}


def test_there_are_forty_answers_and_the_reference_is_uneven(world: World) -> None:
    assert N == 40
    assert _kl(world.log_ref, np.full((PROMPTS, N), -np.log(N))) > 0.1


@pytest.mark.slow
def test_dpo_with_soft_labels_reaches_the_reward_tilted_reference(world: World, tmp_path: Path) -> None:
    """π* ∝ π_ref·exp(r/β) for labels σ(r_a − r_b) on pairs with full support (arXiv 2305.18290, eq. 4)."""
    beta = 0.5
    target = _normalised(world.log_ref + world.rewards / beta)
    assert _kl(world.log_ref, target) > 0.5
    rows = [
        {"prompt_id": f"p{x}", "prompt": [], "chosen_id": f"c{a}", "rejected_id": f"c{b}", "chosen": "", "rejected": "",
         "prompt_tokens": [1, 3 + x], "chosen_tokens": list(ANSWERS[a]), "rejected_tokens": list(ANSWERS[b]),
         "p": float(1 / (1 + np.exp(world.rewards[x, b] - world.rewards[x, a])))}
        for x in range(PROMPTS) for a in range(N) for b in range(a)
    ]  # fmt: skip
    data = Preferences.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    ref_logps = logps(world.ref, _everything(world.ref), Workspace(tmp_path))
    soft = Chosen("losses/pairwise", "dpo", {"beta": beta, "labels": "soft"})
    trained = fit(
        world.ref, data, Workspace(tmp_path), ref_logps, loss=soft, steps=2000, batch=128, **{**SETTINGS, "lr": 3e-3}
    )
    found = _distribution(trained, tmp_path)
    assert _kl(found, target) < 1e-4


def _sppo(world: World, folder: Path, eta: float, rates: Matrix, log_z: str, listed: Matrix) -> Matrix:
    """The policy after SPPO on all answers, weighted by the reference: the regression in expectation."""
    weights = np.exp(world.log_ref) * N
    rows = [
        {**_row(x, y), "win_rate": rates[x, y], "opponents": N, "weight": weights[x, y],
         "prompt_win_rates": [float(listed[x, 0])]}
        for x in range(PROMPTS) for y in range(N)
    ]  # fmt: skip
    data = WinRates.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    ref_logps = logps(world.ref, data, Workspace(folder))
    loss = Chosen("losses/pointwise", "sppo", {"eta": eta, "log_z": log_z})
    work = Workspace(folder)
    trained = fit(world.ref, data, work, ref_logps, loss=loss, steps=800, batch=PROMPTS * N, **SETTINGS)
    return _distribution(trained, folder)


def _win_rates(world: World) -> Matrix:
    """P(y ≻ π_ref) by Bradley-Terry, exactly; sharpened, so that targets are far from the reference."""
    differences = 3 * (world.rewards[:, :, None] - world.rewards[:, None, :])
    return np.einsum("xab,xb->xa", 1 / (1 + np.exp(-differences)), np.exp(world.log_ref))


@pytest.mark.slow
def test_sppo_with_the_exact_log_z_reaches_the_exponential_weights(world: World, tmp_path: Path) -> None:
    """π ∝ π_ref·exp(η·P) (arXiv 2405.00675, eq. 4.4). One listed win rate of log Z / η makes the estimate exact."""
    eta, rates = 8.0, _win_rates(world)
    log_z = logsumexp(world.log_ref + eta * rates, axis=1, keepdims=True)
    target = world.log_ref + eta * rates - log_z
    assert _kl(world.log_ref, target) > 0.5
    found = _sppo(world, tmp_path, eta, rates, "estimated", log_z / eta)
    assert _kl(found, target) < 1e-4


@pytest.mark.slow
def test_sppo_with_half_eta_reaches_its_own_optimum_and_not_the_exponential_weights(
    world: World, tmp_path: Path
) -> None:
    """ρ = π/π_ref solves log ρ + c·ρ = η(P − ½), c such that E ρ = 1: ρ = ω(log c + t)/c, the Lambert W."""
    eta, rates = 8.0, _win_rates(world)
    t, ref = eta * (rates - 0.5), np.exp(world.log_ref)

    def ratios(x: int, c: float) -> Matrix:
        return np.real(wrightomega(np.log(c) + t[x])) / c

    levels = [brentq(lambda c, x=x: ref[x] @ ratios(x, c) - 1, 1e-12, 1e3) for x in range(PROMPTS)]
    own = np.log(np.stack([ref[x] * ratios(x, c) for x, c in enumerate(levels)]))
    weights = _normalised(world.log_ref + eta * rates)
    found = _sppo(world, tmp_path, eta, rates, "half", rates)
    assert _kl(world.log_ref, own) > 0.5
    assert _kl(found, own) < 1e-4 < 1e-3 < _kl(found, weights)
