"""Models of known shapes with random weights, a tokenizer of words, and preference pairs of random words.

One word is one token, so lengths are exact and nothing has to be downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
SPECIAL = ("<pad>", "<bos>", "<eos>")
SPREAD = 0.6
"""Standard deviation of the logarithm of lengths."""


class Shape(NamedTuple):
    """Sizes of a Llama. They are those of the named model, whose architecture may differ in details."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    """Whether the head is the embedding."""
    head_dim: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' products, without embedding and head."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * self.hidden * (2 * queries + 2 * keys + 3 * self.ffn)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every product of one layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden)]
        return [*attention, (self.hidden, self.ffn), (self.hidden, self.ffn), (self.ffn, self.hidden)]


SHAPES = {
    "tiny": Shape(512, 64, 160, 2, 4, 2, True, 16),
    "toy": Shape(512, 128, 344, 3, 4, 4, True, 32),
    "20m": Shape(32_000, 256, 688, 6, 8, 8, False, 32),
    "30m": Shape(32_000, 384, 1_024, 8, 6, 6, True, 64),
    "smollm-135m": Shape(49_152, 576, 1_536, 30, 9, 3, True, 64),
    "qwen3-0.6b": Shape(151_936, 1_024, 3_072, 28, 16, 8, True, 128),
    "qwen2.5-1.5b": Shape(151_936, 1_536, 8_960, 28, 12, 2, True, 128),
    "llama3-8b": Shape(128_256, 4_096, 14_336, 32, 32, 8, False, 128),
}


def config_of(shape: Shape, positions: int = 8_192) -> Any:
    """The configuration of a transformers Llama of this shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied, max_position_embeddings=positions, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip


def write_tokenizer(folder: Path, vocab: int) -> None:
    """A tokenizer whose tokens are the words `w3`, `w4`, …, with a template that ends answers by `<eos>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {name: i for i, name in enumerate(SPECIAL)} | {f"w{i}": i for i in range(len(SPECIAL), vocab)}
    bare = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def random_model(shape: Shape, *, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> Any:
    """A Llama of random weights, made on the device."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return LlamaForCausalLM(config_of(shape))
    finally:
        torch.set_default_dtype(default)


def write_policy(
    folder: Path, shape: Shape, *, dtype: str = "float32", device: str = "cpu", ending: float | None = None
) -> None:
    """A policy directory: random weights, configuration, tokenizer.

    ending: mean length of its answers, in tokens, if nothing cuts them; None: they end as rarely as any word comes.
    """
    write_tokenizer(folder, shape.vocab)
    model = random_model(shape, dtype=dtype, device=device)
    if ending is not None:
        end_answers(model, ending)
    model.save_pretrained(folder)


def end_answers(model: Any, length: float) -> None:
    """Change random weights so that `<eos>` has a probability of about 1/length at every token.

    Channel 0 of the residual stream is made a constant, which alone tells the row of `<eos>` from the others.
    """
    import torch

    eos, embedding = model.config.eos_token_id, model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        words = torch.arange(len(SPECIAL), len(embedding), device=embedding.device)[None, :64]
        constant = model.model(words).last_hidden_state[0, :, 0].mean()
        head = model.get_output_embeddings().weight
        head[eos, 0] = head[:, 0].mean() + np.log(len(embedding) / (length - 1)) / constant


class Lengths(NamedTuple):
    """Medians of log-normal lengths, in tokens."""

    prompt: int
    answer: int


def write_pairs(file: Path, pairs: int, lengths: Lengths, vocab: int, seed: int = 0) -> None:
    """Pairs of random words as JSON: a list of {"prompt", "chosen", "rejected"}. A length is at most three medians."""
    rng = np.random.default_rng(seed)

    def text(median: int) -> str:
        length = int(np.clip(rng.lognormal(np.log(median), SPREAD), 4, 3 * median))
        return " ".join(f"w{i}" for i in rng.integers(len(SPECIAL), vocab, length))

    rows = [
        {"prompt": text(lengths.prompt), "chosen": text(lengths.answer), "rejected": text(lengths.answer)}
        for _ in range(pairs)
    ]
    file.write_text(json.dumps(rows))


def read_pairs(file: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(file.read_text())
    return rows


def shuffled_back(pairs: list[dict[str, str]]) -> list[dict[str, str]]:
    """The pairs in such an order that the trainer's own shuffle (seed 0, first epoch) restores the given one."""
    order = np.random.default_rng([0, 0]).permutation(len(pairs))
    shuffled = [pairs[0]] * len(pairs)
    for place, pair in zip(order.tolist(), pairs, strict=True):
        shuffled[place] = pair
    return shuffled


def preferences_of(pairs: list[dict[str, str]]) -> Any:
    """The pairs as the table that alignflow trains on."""
    import pyarrow as pa

    from tasks.kinds import Preferences

    return Preferences.of(pa.Table.from_pylist([
        {
            "prompt_id": str(i), "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": pair["chosen"], "rejected": pair["rejected"], "chosen_id": f"w{i}", "rejected_id": f"l{i}",
        }
        for i, pair in enumerate(pairs)
    ]))  # fmt: skip


class TokenCount(NamedTuple):
    """Tokens of some pairs. The end of each answer's turn counts as one of its tokens."""

    read: int
    """Every answer with its prompt: the prompt counts twice."""
    unique: int
    """Every prompt once."""
    answers: int


def count_tokens(pairs: list[dict[str, str]]) -> TokenCount:
    prompts = sum(len(pair["prompt"].split()) for pair in pairs)
    answers = sum(len(pair[side].split()) + 1 for pair in pairs for side in ("chosen", "rejected"))
    return TokenCount(2 * prompts + answers, prompts + answers, answers)


def useful_flops(shape: Shape, tokens: TokenCount, products: int = 3) -> float:
    """Floating-point operations that the products of the layers and the head need.

    Every unique token once through the layers, every answer token once through the head; attention's own products,
    which depend on lengths, are left out. products: with every weight, 3 for forward and backward, 1 for a forward.
    """
    return 2.0 * products * (shape.layer_weights * tokens.unique + shape.head_weights * tokens.answers)
