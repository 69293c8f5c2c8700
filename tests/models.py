"""Tiny policies made from nothing in under a second: a real tokenizer, a real chat template, random weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.kinds import Policy

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<bot>")
TEXTS = (
    "where does the swan live and what does it eat ?", "the swan lives in the swamp . it eats roots .",
    "certainly . the fox is tiny .", "good question ! the bear eats fish .", "tell me where the mole lives .",
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<user>' if m['role'] == 'user' else '<bot>' }} {{ m['content'] }}"
    "{% if m['role'] != 'user' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def tiny_policy(
    directory: Path,
    *,
    seed: int = 0,
    vocab: int = 320,
    hidden: int = 32,
    layers: int = 2,
    positions: int = 128,
    sharpness: float = 2.5,
    ending: float = 5.0,
    texts: Sequence[str] = TEXTS,
    generation: dict[str, object] | None = None,
) -> Policy:
    """A random Llama with a byte-level BPE tokenizer whose plain encoding adds a BOS, as the template does too.

    sharpness: standard deviation of the logits, so that greedy choices are no ties and yet all tokens can be drawn.
    ending: logit of EOS above the others' mean; the other special tokens are never drawn.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(texts, vocab)
    tokenizer.save_pretrained(directory)
    _model(len(tokenizer), tokenizer, seed, hidden, layers, positions, sharpness, ending).save_pretrained(directory)
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return Policy(directory, digest=f"tiny-{seed}-{vocab}-{hidden}-{layers}-{positions}-{sharpness}-{ending}")


def _tokenizer(texts: Sequence[str], vocab: int):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"], chat_template=TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _model(size, tokenizer, seed, hidden, layers, positions, sharpness, ending):  # type: ignore[no-untyped-def]
    """Channel 0 of the residual stream is a constant that no layer writes to: the head reads a bias from it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        # vLLM's attention on a CPU knows heads of 32 channels and more.
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=positions,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=hidden**-0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float().eval()
        with torch.no_grad():
            model.model.embed_tokens.weight.normal_()
            model.lm_head.weight.normal_(std=sharpness * hidden**-0.5)
            model.model.embed_tokens.weight[:, 0] = 2.0
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[0] = 0
                layer.mlp.down_proj.weight[0] = 0
            model.lm_head.weight[:, 0] = 0
            model.lm_head.weight[tokenizer.convert_tokens_to_ids([*SPECIAL])] = 0
            model.lm_head.weight[tokenizer.convert_tokens_to_ids([*SPECIAL]), 0] = -30.0
            model.lm_head.weight[tokenizer.eos_token_id] = 0
            model.lm_head.weight[tokenizer.eos_token_id, 0] = ending
    return model
