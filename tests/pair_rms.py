"""Random PairRM checkpoints in both published layouts, made in under a second."""

import json
from collections.abc import Sequence
from pathlib import Path

PREFIXES = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
TEXTS = ("hello ! hi why is the sky blue ? because light scatters .", "no idea . tell me a story about the cat .")
BLENDER_CONFIG = {
    "ranker_type": "pairranker", "model_type": "deberta", "model_name": "microsoft/deberta-v3-large",
    "cache_dir": "./hf_models/deberta-v3-large/", "load_checkpoint": None, "source_maxlength": 24,
    "candidate_maxlength": 12, "n_tasks": 1, "num_pos": 5, "num_neg": 5, "sub_sampling_mode": "all_pair",
    "sub_sampling_ratio": 0.4, "loss_type": "instructgpt", "reduce_type": "linear", "inference_mode": "bubble",
    "drop_out": 0.05, "fp16": True,
}  # fmt: skip
"""config.json of llm-blender/PairRM, with other lengths."""


def tiny_pair_rm(
    folder: Path, layout: str = "hf", *, texts: Sequence[str] = (), outputs: int = 1, seed: int = 0, spread: float = 0.5
) -> Path:
    """A random PairRM. layout: `hf` as llm-blender/PairRM-hf, `blender` as llm-blender/PairRM.

    texts: what the tokenizer learns its words from, besides TEXTS. The sizes are a DeBERTa-v3's, smaller.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import DebertaV2Config, DebertaV2Model

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer([*TEXTS, *texts])
    tokenizer.save_pretrained(folder)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, max_relative_positions=-1,
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
        max_position_embeddings=512, layer_norm_eps=1e-7, pad_token_id=0, initializer_range=spread,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = DebertaV2Model(config).state_dict()
        head = {
            "1.weight": torch.randn(64, 128) / 8, "1.bias": torch.randn(64) / 8,
            "4.weight": torch.randn(outputs, 64) / 4, "4.bias": torch.randn(outputs) / 8,
        }  # fmt: skip
    weights = {f"pretrained_model.{n}": x for n, x in backbone.items()} | {
        f"head_layer.{n}": x for n, x in head.items()
    }
    save_file({n: x.contiguous() for n, x in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    if layout == "blender":
        described = {**BLENDER_CONFIG, "n_tasks": outputs}
    else:
        names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")
        ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(PREFIXES)), strict=True))
        described = {
            **config.to_dict(), "architectures": ["DebertaV2PairRM"], "n_tasks": outputs, "drop_out": 0.05,
            "torch_dtype": "float32", **ids,
        }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described, indent=2))
    return folder


def _tokenizer(texts):  # type: ignore[no-untyped-def]
    """Words behind `▁`, as DeBERTa-v3's tokenizer has them, with its special tokens and the four prefixes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = Tokenizer(models.Unigram())
    pieces.normalizer = normalizers.NFKC()
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    pieces.train_from_iterator(
        texts, trainers.UnigramTrainer(special_tokens=special, unk_token="[UNK]", vocab_size=400, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    tokenizer.add_tokens(list(PREFIXES))
    return tokenizer
