"""Oracles that are models, beside a bare batched forward loop over the same texts: answers or pairs per second.

`bare` encodes all texts in one call of the tokenizer, sorts them by length, and calls the model's own forward on
padded batches of as many tokens as the oracle's. `task` is the whole step (`score` or `compare`) with an oracle that is
already open: distinct questions, journal, store of answers, table. Both compute with float32 weights that are random,
in one process, after a pass of each to warm up. In each round both run once on texts of that round's seed, in turns
that begin with the other one each time; the ratio is that of their times in the same round, and its median counts.
Ratios of CPU seconds suffer less from other work on the machine than ratios of seconds do.

    python -m benchmarks.oracles [--rounds 5] [--answers 600] [--threads 1] [--cases decoder,…]

The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.processes import Stopwatch
from benchmarks.record import Row, load_average, now, write_results

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so", "ta", "vi") for b in ("bel", "dor", "fen", "gas", "n")]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
K = 4
"""Answers to each prompt."""
Texts = Sequence[tuple[str, list[str]]]
"""A question with its answers."""


class Contender(NamedTuple):
    """An oracle and its bare loop, as functions of texts; both return the number of questions."""

    bare: Callable[[Texts], int]
    task: Callable[[Texts], int]


def texts_of(seed: int, answers: int) -> Texts:
    """Questions with K answers each, of lognormal lengths: most of 15 to 80 words."""
    noise = np.random.default_rng(seed)

    def text(mean: float) -> str:
        length = int(np.clip(noise.lognormal(np.log(mean), 0.6), 2, 160))
        return " ".join(noise.choice(WORDS, length))

    return [(text(12), [text(35) for _ in range(K)]) for _ in range(answers // K)]


def decoder(folder: Path, *, trained_here: bool = False) -> Contender:
    """A Llama with a head and a chat template, from outside, or as `train_reward` marks it."""
    from transformers import LlamaConfig

    size = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    mark = {"alignflow_score": "end_of_turn"} if trained_here else {}
    tokenizer = _tokenizer(folder, chat=True)
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **size, **mark)

    def encoded(texts: Texts) -> Any:
        talks = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            for question, answers in texts for answer in answers
        ]  # fmt: skip
        return {"input_ids": tokenizer.apply_chat_template(talks, tokenize=True, return_dict=False)}

    return _classifier(folder, config, encoded)


def encoder(folder: Path) -> Contender:
    """A DeBERTa-v2 with a head, which reads question and answer as a pair."""
    tokenizer = _tokenizer(folder, chat=False)
    config = _deberta(len(tokenizer), num_labels=1)

    def encoded(texts: Texts) -> Any:
        pairs = [(question, answer) for question, answers in texts for answer in answers]
        return tokenizer(*map(list, zip(*pairs, strict=True)))

    return _classifier(folder, config, encoded)


def pair_rm(folder: Path) -> Contender:
    """A PairRM of the same size, on all pairs of each prompt's answers in both orders."""
    import torch

    from tasks.judge import compare
    from tasks.kinds import PreferenceModel
    from tasks.training.pair_rm import PairRM
    from tasks.training.pair_rm_files import ARCHITECTURE, PREFIXES

    tokenizer = _tokenizer(folder, chat=False)
    tokenizer.add_tokens([*PREFIXES.values()])
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in PREFIXES.items()}
    config = _deberta(len(tokenizer), n_tasks=1, **ids)
    model = PairRM(config).eval()
    model.save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "architectures": [ARCHITECTURE]}))
    source = PreferenceModel(folder, digest="benchmark")
    live = source.open("float32")

    def rows(texts: Texts) -> list[list[int]]:
        prefixes = [*PREFIXES.values()]
        questions = tokenizer([prefixes[0] + question for question, _ in texts])["input_ids"]
        first, second = (
            tokenizer([p + a for _, several in texts for a in several])["input_ids"] for p in prefixes[1:3]
        )
        return [
            [*question, *first[K * n + i], *second[K * n + j]]
            for n, question in enumerate(questions) for i in range(K) for j in range(K) if i != j
        ]  # fmt: skip

    def forward(inputs: dict[str, Any]) -> Any:
        ids_ = inputs["input_ids"]
        wanted = [*ids.values()][:3]
        places = torch.stack([(ids_ == id).int().argmax(dim=1) for id in wanted], dim=1)
        return model(**inputs, prefixes=places)

    def task(texts: Texts) -> int:
        return _in_workspace(lambda work: len(compare(_completions(texts), _Opened(source, live), work)))

    return Contender(lambda texts: _bare(forward, model, {"input_ids": rows(texts)}), task)


CASES: dict[str, Callable[[Path], Contender]] = {
    "decoder": decoder,
    "decoder trained here": lambda folder: decoder(folder, trained_here=True),
    "encoder": encoder,
    "PairRM": pair_rm,
}


def _classifier(folder: Path, config: Any, encoded: Callable[[Texts], Any]) -> Contender:
    from transformers import AutoModelForSequenceClassification

    from tasks.judge import score
    from tasks.kinds import RewardModel

    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    source = RewardModel(folder, digest="benchmark")
    live = source.open("float32")

    def task(texts: Texts) -> int:
        return _in_workspace(lambda work: len(score(_completions(texts), _Opened(source, live), work)))

    return Contender(lambda texts: _bare(lambda x: model(**x).logits, model, encoded(texts)), task)


def _bare(forward: Callable[[dict[str, Any]], Any], model: Any, encoded: Any) -> int:
    import torch

    from tasks.training.device import this_device
    from tasks.training.model import packing_for

    budget, ids = packing_for(model, this_device(), 0).tokens, encoded["input_ids"]
    values: list[float] = [0.0] * len(ids)
    batch: list[int] = []
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for place, i in enumerate(order):
        batch.append(i)
        if place + 1 < len(order) and (len(batch) + 1) * len(ids[batch[0]]) <= budget:
            continue
        width = len(ids[batch[0]])
        inputs = {
            name: torch.tensor([[*encoded[name][j], *[0] * (width - len(ids[j]))] for j in batch])
            for name in ("input_ids", "token_type_ids") if name in encoded
        }  # fmt: skip
        inputs["attention_mask"] = torch.tensor([[1] * len(ids[j]) + [0] * (width - len(ids[j])) for j in batch])
        with torch.inference_mode():
            found = forward(inputs).flatten().tolist()
        for j, value in zip(batch, found, strict=True):
            values[j] = value
        batch = []
    return len(values)


def _Opened(source: Any, live: Any) -> Any:
    """A handle whose oracle is open already, and whose answers have an identity in the store."""

    class Opened(type(source)):  # type: ignore[misc]
        def open(self, dtype: str = "auto") -> Any:
            return live

    handle = Opened(source.path, source.digest)
    handle.opened_by = "benchmark"
    return handle


def _in_workspace(run: Callable[[Any], int]) -> int:
    from tasks.workspace import LocalWorkspace

    with tempfile.TemporaryDirectory() as folder:
        return run(LocalWorkspace(Path(folder)))


def _completions(texts: Texts) -> Any:
    import pyarrow as pa

    from tasks.kinds import Completions

    return Completions.of(pa.Table.from_pylist([
        {"prompt_id": f"p{n}", "prompt": [{"role": "user", "content": question}], "completion_id": f"p{n}/{k}",
         "completion": answer, "stream": 0, "k": k, "token_logps": [], "finish_reason": "stop"}
        for n, (question, answers) in enumerate(texts) for k, answer in enumerate(answers)
    ]))  # fmt: skip


def _tokenizer(folder: Path, *, chat: bool) -> Any:
    """A byte-level BPE that knows the words, with the special tokens of an encoder or of a chat."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "</s>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [" ".join(WORDS)] * 4,
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    more: dict[str, Any] = {"eos_token": "</s>", "chat_template": TEMPLATE}
    if not chat:
        more = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        bpe.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="[UNK]", pad_token="[PAD]", **more)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _deberta(vocabulary: int, **more: Any) -> Any:
    from transformers import DebertaV2Config

    return DebertaV2Config(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=64, max_relative_positions=-1,
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0, pad_token_id=0,
        max_position_embeddings=1024, **more,
    )  # fmt: skip


def measured(names: Sequence[str], rounds: int, answers: int, folder: Path) -> Iterator[Row]:
    """Two rows per round and case."""
    for name in names:
        place = folder / name.replace(" ", "_")
        place.mkdir()
        contender = CASES[name](place)
        for run in (contender.bare, contender.task):
            run(texts_of(10**6, 8 * K))
        for turn in range(rounds):
            texts = texts_of(turn, answers)
            both = [("bare", contender.bare), ("task", contender.task)]
            for kind, run in both if turn % 2 == 0 else reversed(both):
                watch = Stopwatch.start()
                questions = run(texts)
                wall, cpu = watch.seconds()
                yield {
                    "case": {"model": name, "seed": turn}, "name": kind, "questions": questions, "seconds": wall,
                    "cpu_seconds": cpu,
                }  # fmt: skip


def ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By case: medians over the rounds of the time of `bare` as a share of the task's; 1: as fast, 0.9: 10% slower."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["case"]["model"] for row in rows):
        own = [row for row in rows if row["case"]["model"] == name]
        times = {(row["name"], row["case"]["seed"]): row for row in own}
        seeds = sorted({row["case"]["seed"] for row in own})
        found[name] = {
            unit: median(times["bare", s][unit] / times["task", s][unit] for s in seeds)
            for unit in ("seconds", "cpu_seconds")
        } | {"questions_per_second": median(times["task", s]["questions"] / times["task", s]["seconds"] for s in seeds)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=600)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    started, load = now(), load_average()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*measured(options.cases.split(","), options.rounds, options.answers, Path(folder))]
    settings = {"rounds": options.rounds, "answers": options.answers, "threads": options.threads}
    found = ratios(rows)
    file = write_results("oracles", rows, settings={**settings, "ratios": found}, started=started, load=load)
    for name, several in found.items():
        by_cpu, speed = several["cpu_seconds"], several["questions_per_second"]
        print(f"{name:22} the task is {several['seconds']:.2f} times as fast as the bare loop ({by_cpu:.2f} by CPU "
              f"seconds), {speed:.0f} questions/s")  # fmt: skip
    print(file)


if __name__ == "__main__":
    main()
