"""The enumerable world: so few answers that the whole distribution of a policy is known.

Three letters and EOS, at most three tokens, cut without EOS: 1 + 3 + 9 + 27 = 40 answers to each of 4 prompts. Other
tokens are out of reach. Distributions are read by the real `logps`.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy.special import logsumexp

from tasks.kinds import Completions, Policy, Table
from tasks.template import template_digest
from tasks.train import logps
from tests.workspace import Workspace

EOS, PROMPTS, LONGEST = 2, 4, 3


def answers_of(letters: tuple[int, ...], eos: int, longest: int = LONGEST) -> list[tuple[int, ...]]:
    """All answers of at most `longest` tokens; only those of fewer letters end."""
    ended = [(*answer, eos) for n in range(longest) for answer in product(letters, repeat=n)]
    return [*ended, *product(letters, repeat=longest)]


LETTERS = (7, 8, 9)
ANSWERS = answers_of(LETTERS, EOS)
ASKED = [[1, 3 + prompt] for prompt in range(PROMPTS)]
N = len(ANSWERS)
Matrix = npt.NDArray[np.float64]
Answers = Sequence[tuple[int, ...]]


class World(NamedTuple):
    ref: Policy
    log_ref: Matrix
    """`(prompts, answers)`."""
    rewards: Matrix

    answers: Answers = ANSWERS
    prompts: Sequence[list[int]] = ASKED

    @property
    def asked(self) -> Sequence[list[int]]:
        """Tokens of the prompts that the world has."""
        return self.prompts[: len(self.log_ref)]


def uneven_policy(
    folder: Path,
    letters: tuple[int, ...] = LETTERS,
    *,
    layers: int = 2,
    spread: float = 0.06,
    sharpness: float = 1.0,
    floor: float = -300.0,
) -> Policy:
    """A Llama of width 64; channel 0 of its residual stream is constant and keeps other tokens from ever being drawn.

    spread: standard deviation of its weights; sharpness: factor of its logits; floor: weight by which channel 0 keeps
    the others out (far below, their float32 log-probabilities differ between attention kernels).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=10, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=EOS,
        initializer_range=spread,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 2.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight *= sharpness
        model.lm_head.weight[[i for i in range(10) if i not in (EOS, *letters)], 0] = floor
    model.save_pretrained(folder)
    return Policy(folder)


def row(prompt: int, answer: int, asked: Sequence[list[int]] = ASKED, answers: Answers = ANSWERS) -> dict[str, object]:
    return {
        "prompt_id": f"p{prompt}", "prompt": [], "completion_id": f"c{answer}", "completion": "",
        "prompt_tokens": asked[prompt], "completion_tokens": list(answers[answer]), "stream": 0, "k": answer,
        "token_logps": [], "finish_reason": "stop",
    }  # fmt: skip


def everything(policy: Policy, asked: Sequence[list[int]] = ASKED, answers: Answers = ANSWERS) -> Table:
    rows = [row(x, y, asked, answers) for x in range(len(asked)) for y in range(len(answers))]
    return Completions.of(pa.Table.from_pylist(rows), {"template": template_digest(policy)})


def distribution(
    policy: Policy, folder: Path, asked: Sequence[list[int]] = ASKED, answers: Answers = ANSWERS
) -> Matrix:
    """Log-probability of every answer; they sum to one, which checks cutting, EOS and masking at once."""
    table = logps(policy, everything(policy, asked, answers), Workspace(folder / "read"))
    found = table.frame["logps"].to_numpy().reshape(len(asked), len(answers))
    np.testing.assert_allclose(logsumexp(found, axis=1), 0, atol=1e-5)
    return found


def kl(a: Matrix, b: Matrix) -> float:
    """KL(a ‖ b), mean over prompts, nats."""
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def normalised(logits: Matrix) -> Matrix:
    return logits - logsumexp(logits, axis=1, keepdims=True)


def world_in(folder: Path) -> World:
    """The uneven reference, its distribution, and rewards drawn from N(0, 1)."""
    ref = uneven_policy(folder / "ref")
    return World(ref, distribution(ref, folder), np.random.default_rng(3).normal(size=(PROMPTS, N)))


def small_world_in(folder: Path, prompts: int = 2) -> World:
    """The same with two letters and at most two tokens: 7 answers, so that one batch contains all pairs.

    One layer with larger weights reaches an optimum within fewer steps.
    """
    letters = LETTERS[:2]
    ref = uneven_policy(folder / "ref", letters, layers=1, spread=0.2, sharpness=0.4, floor=-3e3)
    answers = answers_of(letters, EOS, 2)
    rewards = np.random.default_rng(3).normal(size=(prompts, len(answers))) / 2
    return World(ref, distribution(ref, folder, ASKED[:prompts], answers), rewards, answers)


def closed_world_in(folder: Path) -> World:
    """One prompt and 7 answers over a vocabulary of two letters and EOS, in which every token can be drawn.

    Where losses of pairs, which only see differences, train a policy for many rounds, mass leaks to masked tokens once
    the channel that keeps them out has drifted. Here there are none: probabilities sum to one whatever is trained.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=3, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, pad_token_id=None, bos_token_id=None, eos_token_id=EOS,
        initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight *= 0.4
    model.save_pretrained(folder / "ref")
    ref, prompts, answers = Policy(folder / "ref"), [[0, 1]], answers_of((0, 1), EOS, 2)
    log_ref = distribution(ref, folder, prompts, answers)
    return World(ref, log_ref, np.zeros_like(log_ref), answers, prompts)
