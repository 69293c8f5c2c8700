"""The enumerable world with texts: a tokenizer whose words are its letters, so that sampling and scoring are real."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tasks.kinds import Policy, Prompts, Scorer
from tests.enumerable import ANSWERS, EOS, LETTERS, PROMPTS, Matrix

WORDS = ["<pad>", "<bos>", "<eos>", *(f"p{x}" for x in range(PROMPTS)), "a", "b", "c"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


def with_words(policy: Policy) -> Policy:
    """Give an enumerable policy its tokenizer: prompt x renders to `[1, 3 + x]`, the letters are a, b and c."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE,
    ).save_pretrained(policy.path)  # fmt: skip
    return policy


def letters_of(answer: int) -> str:
    """An answer's text: no two answers have the same, because only those of fewer than three letters end."""
    return " ".join(WORDS[token] for token in ANSWERS[answer] if token != EOS)


TEXTS = [letters_of(y) for y in range(len(ANSWERS))]
assert len(set(TEXTS)) == len(ANSWERS)
assert {WORDS[i] for i in LETTERS} == {"a", "b", "c"}


def prompts() -> Prompts:
    rows = [{"prompt_id": f"p{x}", "prompt": [{"role": "user", "content": f"p{x}"}]} for x in range(PROMPTS)]
    return Prompts.of(pa.Table.from_pylist(rows))


def oracle(rewards: Matrix) -> Scorer:
    """The world's rewards, `(prompts, answers)`, told by the texts."""
    places = {text: y for y, text in enumerate(TEXTS)}
    return Scorer.scoring(
        lambda asked, told, _: [
            float(rewards[int(p[-1]["content"][1:]), places[t]]) for p, t in zip(asked, told, strict=True)
        ]
    )


def value_start(policy: Policy, folder: Path) -> Path:
    """A classification checkpoint made from a policy, with a head drawn anew."""
    import torch

    from tasks.training.reward import open_reward_model, save_reward_model

    folder.mkdir()
    save_reward_model(open_reward_model(policy, torch.float32), policy, folder)
    return folder
