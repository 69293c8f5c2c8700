"""Chat templates of the field in the shapes that their models publish, with tiny tokenizers of the same two kinds.

`family(folder, name)` writes what is needed to render and tokenize (tokenizer, template, generation_config.json and a
config.json, no weights); `expected` is what transformers itself renders, which every table of tokens must equal.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tasks.kinds import Policy

Message = dict[str, str]
TEXTS = (
    "Why is the sky blue ?", "Because light scatters .", "Tell me a story about a cat .", "No idea .",
    "Once upon a time a cat sat .", "You are terse .", "system user assistant model",
) * 20  # fmt: skip

_ALTERNATE = (
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% endfor %}"
)
_SPLIT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
LLAMA2 = (
    _SPLIT_SYSTEM + _ALTERNATE + "{% for m in rest %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: '"
    " + date_string + '\n\n<|eot_id|>' }}" + LLAMA3.removeprefix("{{ bos_token }}")
)
MISTRAL = (
    "{{ bos_token }}{% set rest = messages %}" + _ALTERNATE + "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set rest = messages %}" + _ALTERNATE + "{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}" + _SPLIT_SYSTEM + _ALTERNATE + "{% for m in rest %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}{{ m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_TURNS = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + _TURNS + "{% endfor %}" + _ASK
QWEN2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + _TURNS + "{% endfor %}" + _ASK
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set content = m.content %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}{{ '<|im_end|>\n' }}{% else %}" + _TURNS + "{% endif %}{% endfor %}" + _ASK
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}"
    "{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}"
    "{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)


class Family(NamedTuple):
    """What a checkpoint of this family has beside its weights."""

    template: str
    kind: str
    """`byte`: byte-level BPE; `words`: spaces are ▁ and a text begins with one; `spaces`: without the one in front."""
    end: str
    """What ends an assistant's turn."""
    eos: str = ""
    """The tokenizer's eos_token, where that is another one."""
    stops: tuple[str, ...] = ()
    """eos_token_id of generation_config.json, where it lists several."""
    bos: str = "<s>"
    special: tuple[str, ...] = ()


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
_GEMMA_TURN = ("<start_of_turn>",)
_QWEN_STOPS = ("<|im_end|>", "<|endoftext|>")
FAMILIES = {
    "llama2": Family(LLAMA2, "words", "</s>"),
    "llama3": Family(LLAMA3, "byte", "<|eot_id|>", "<|end_of_text|>", ("<|end_of_text|>", "<|eot_id|>"),
                     "<|begin_of_text|>", _HEADERS),
    "llama31": Family(LLAMA31, "byte", "<|eot_id|>", "", (), "<|begin_of_text|>", _HEADERS),
    "mistral": Family(MISTRAL, "words", "</s>"),
    "gemma2": Family(GEMMA, "spaces", "<end_of_turn>", "<eos>", ("<eos>", "<end_of_turn>"), "<bos>", _GEMMA_TURN),
    "gemma3": Family(GEMMA3, "spaces", "<end_of_turn>", "<eos>", ("<eos>", "<end_of_turn>"), "<bos>", _GEMMA_TURN),
    "phi3": Family(PHI3, "words", "<|end|>", "<|endoftext|>", ("<|endoftext|>", "<|end|>", "<|assistant|>"), "<s>",
                   ("<|user|>", "<|assistant|>", "<|system|>")),
    "qwen2": Family(QWEN2, "byte", "<|im_end|>", "", _QWEN_STOPS, "", ("<|im_start|>", "<|endoftext|>")),
    "qwen3": Family(QWEN3, "byte", "<|im_end|>", "", _QWEN_STOPS, "", ("<|im_start|>", "<|endoftext|>")),
    "qwen3_base": Family(QWEN3, "byte", "<|im_end|>", "<|endoftext|>", _QWEN_STOPS, "", ("<|im_start|>",)),
    "chatml": Family(CHATML, "byte", "<|im_end|>", "", (), "<s>", ("<|im_start|>",)),
    "zephyr": Family(ZEPHYR, "words", "</s>"),
    "deepseek": Family(DEEPSEEK, "byte", "<|end▁of▁sentence|>", "", (), "<|begin▁of▁sentence|>"),
    "deepseek_r1": Family(DEEPSEEK_R1, "byte", "<|end▁of▁sentence|>", "", (), "<|begin▁of▁sentence|>",
                          ("<|User|>", "<|Assistant|>", "<think>", "</think>")),
}  # fmt: skip
QWEN_BASE = FAMILIES["qwen3_base"]._replace(stops=())
"""As Qwen's base models come: ChatML's turns end in <|im_end|>, and generation stops at <|endoftext|> only."""


def family(folder: Path, name: str | Family, positions: int = 512) -> Policy:
    """The files of a family without weights; a test that needs a model saves one of `len(tokenizer)` rows beside."""
    from transformers import PreTrainedTokenizerFast

    shape = FAMILIES[name] if isinstance(name, str) else name
    folder.mkdir(parents=True, exist_ok=True)
    eos = shape.eos or shape.end
    special = tuple(dict.fromkeys([*filter(None, [shape.bos]), "<unk>", eos, shape.end, *shape.special]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(shape.kind, special, shape.bos), unk_token="<unk>", eos_token=eos,
        pad_token="<unk>", bos_token=shape.bos or None, chat_template=shape.template,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[t for t in special if t not in (shape.bos, "<unk>", eos)],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    stops = tokenizer.convert_tokens_to_ids(list(shape.stops or (eos,)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops, "max_new_tokens": 16}))
    config = {"model_type": "llama", "max_position_embeddings": positions, "vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(config))
    return Policy(folder, digest=f"family-{folder}")


@cache
def _trained(kind: str, special: tuple[str, ...]) -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "byte":
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        alphabet = [*map(chr, range(33, 127)), "▁", "\n"]
        bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        if kind == "words":
            bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False,
    ))  # fmt: skip
    return bpe.to_str()


def _tokenizer(kind: str, special: tuple[str, ...], bos: str) -> Any:
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_str(_trained(kind, special))
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, special.index(bos))]
        )
    return made


def expected(policy: Policy, conversation: Sequence[Mapping[str, Any]], end: str, tools: Any = None) -> list[int]:
    """Ids of the whole conversation by transformers alone, up to and with the last `end`."""
    from datetime import datetime

    tokenizer = _opened(policy.path)
    ids = tokenizer.apply_chat_template(
        list(conversation), tools=tools, tokenize=True, return_dict=False,
        strftime_now=datetime(2024, 7, 26).strftime,
    )  # fmt: skip
    last = len(ids) - 1 - ids[::-1].index(tokenizer.convert_tokens_to_ids(end))
    return list(ids[: last + 1])


@cache
def _opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
