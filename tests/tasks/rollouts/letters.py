"""An enumerable world of texts: a vocabulary of three letters and EOS, nothing else, so no answer lies outside.

At most three tokens, cut without EOS: 40 answers to each of 4 prompts. The tokenizer, sampling and scoring are real;
distributions are read by the real `logps`.
"""

from pathlib import Path

import pyarrow as pa
import torch

from tasks.kinds import Policy, Prompts, RewardModel, Scorer
from tests.enumerable import Matrix, answers_of, distribution
from tests.tasks.rollouts.small import value_from

WORDS, EOS = ["<eos>", "a", "b", "c"], 0
PROMPTS = ["<eos> a", "<eos> b", "<eos> c", "<eos> <eos>"]
"""All of two tokens: were one the beginning of another, answers to them would share their contexts."""
ANSWERS = answers_of((1, 2, 3), EOS)
TEXTS = [" ".join(WORDS[i] for i in answer if i != EOS) for answer in ANSWERS]
"""No two answers have one text, because only those of fewer than three letters end."""


def letters_policy(folder: Path, *, seed: int = 1, hidden: int = 64, layers: int = 2, std: float = 0.1) -> Policy:
    """A Llama 64 × 2 of random weights; prompt x renders to its letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", chat_template=template).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, pad_token_id=None, bos_token_id=None, eos_token_id=EOS,
        initializer_range=std,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return Policy(folder)


def letters_value(policy: Policy, folder: Path) -> RewardModel:
    """The start of a value network: the policy's weights with a head of zeros."""
    return value_from(policy, folder, zero=True)


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
    """Log-probability of every answer, `(prompts, answers)`."""
    return distribution(policy, folder, [[WORDS.index(w) for w in text.split()] for text in PROMPTS], ANSWERS)
