"""A policy that knows nothing yet: a byte-level BPE trained on texts, and a Llama of random weights.

Everything is a pure function of the texts and the numbers: equal ones give equal bytes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.contract import SpecError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<bot>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<bot>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<user>{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
_SMALLEST = len(SPECIAL) + 256


def write_tokenizer(directory: Path, texts: Iterable[str], vocab: int, positions: int) -> Any:
    """Train a byte-level BPE of at most `vocab` entries (256 are the bytes, six are special) and save it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab < _SMALLEST:
        raise SpecError(f"vocab = {vocab}; {_SMALLEST} entries are the bytes and the special tokens")
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIAL), initial_alphabet=bytes_, show_progress=False,
    ))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"], chat_template=CHAT_TEMPLATE, model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.save_pretrained(directory)
    return tokenizer


def write_llama(directory: Path, tokenizer: Any, seed: int, init_std: float, max_new_tokens: int, **sizes: int) -> None:
    """Save a Llama with tied embeddings and random float32 weights, and how long its answers may be."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=init_std, **sizes, **ids
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    model.generation_config = GenerationConfig(max_new_tokens=max_new_tokens, **ids)
    model.save_pretrained(directory)
