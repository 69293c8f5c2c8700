"""An enumerable world of texts: a vocabulary of three letters and EOS, nothing else, so no answer lies outside.

At most three tokens, cut without EOS: 40 answers to each of 4 prompts. The tokenizer, sampling and scoring are real;
distributions are read by the real `logps`.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from scipy.special import logsumexp

from tasks.kinds import Completions, Policy, Prompts, RewardModel, Scorer
from tasks.template import template_digest
from tasks.train import logps
from tests.enumerable import Matrix
from tests.workspace import Workspace

WORDS, EOS, LONGEST = ["<eos>", "a", "b", "c"], 0, 3
PROMPTS = ["<eos> a", "<eos> b", "<eos> c", "<eos> <eos>"]
"""All of two tokens: were one the beginning of another, answers to them would share their contexts."""
ANSWERS = [
    *((*letters, EOS) for n in range(LONGEST) for letters in product((1, 2, 3), repeat=n)),
    *product((1, 2, 3), repeat=LONGEST),
]
TEXTS = [" ".join(WORDS[i] for i in answer if i != EOS) for answer in ANSWERS]
"""No two answers have one text, because only those of fewer than three letters end."""


def letters_policy(folder: Path) -> Policy:
    """A Llama 64 × 2 of random weights; prompt x renders to its letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", chat_template=template).save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=4, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, pad_token_id=None, bos_token_id=None, eos_token_id=EOS,
        initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return Policy(folder)


def letters_value(policy: Policy, folder: Path) -> RewardModel:
    """A value network's start that knows nothing: the policy's weights with a head of zeros."""
    from tasks.training.reward import open_reward_model, save_reward_model

    folder.mkdir()
    model = open_reward_model(policy, torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    save_reward_model(model, policy, folder)
    return RewardModel(folder)


def letters_prompts() -> Prompts:
    rows = [{"prompt_id": f"p{x}", "prompt": [{"role": "user", "content": text}]} for x, text in enumerate(PROMPTS)]
    return Prompts.of(pa.Table.from_pylist(rows))


def letters_oracle(rewards: Matrix) -> Scorer:
    """`rewards`, `(prompts, answers)`, looked up by the texts."""
    prompts, answers = ({text: i for i, text in enumerate(texts)} for texts in (PROMPTS, TEXTS))

    def score(asked, told, truths):  # type: ignore[no-untyped-def]
        return [float(rewards[prompts[p[-1]["content"]], answers[t]]) for p, t in zip(asked, told, strict=True)]

    return Scorer.scoring(score)


def letters_distribution(policy: Policy, folder: Path) -> Matrix:
    """Log-probability of every answer, `(prompts, answers)`; they sum to one."""
    rows = [
        {"prompt_id": f"p{x}", "prompt": [], "completion_id": f"c{y}", "completion": "", "stream": 0, "k": y,
         "prompt_tokens": [WORDS.index(w) for w in text.split()], "completion_tokens": list(answer),
         "token_logps": [], "finish_reason": "stop"}
        for x, text in enumerate(PROMPTS) for y, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    table = Completions.of(pa.Table.from_pylist(rows), {"template": template_digest(policy)})
    found = logps(policy, table, Workspace(folder / "read")).frame["logps"].to_numpy()
    found = found.reshape(len(PROMPTS), len(ANSWERS))
    np.testing.assert_allclose(logsumexp(found, axis=1), 0, atol=1e-5)
    return found
