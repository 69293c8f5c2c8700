"""Reward models that others trained: scored as their cards do, by transformers alone, on the layouts of the field."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import RewardModel
from tasks.load import load_oracle
from tasks.message import with_extra
from tasks.oracles.reward_model import identity
from tasks.template import template_digest
from tasks.training import classifier, heads
from tasks.training.reward import open_reward_model, save_reward_model
from tests.families import CHATML, Family, family

QUESTION = [{"role": "user", "content": "Why is the sky blue ?"}]
TALK = [*QUESTION, {"role": "assistant", "content": "No idea ."}, {"role": "user", "content": "Tell me a story ."}]
ANSWERS = [
    "Because light scatters .", "No idea .", "Once upon a time a cat sat .", "  Because \n", "a", "light " * 30, "",
    "Why ? Tell me a story about a cat , and about a sky that is blue because light scatters .",
]  # fmt: skip
CASES = {
    "llama3, padded with the end of the turn": ("llama3", "<|eot_id|>"),
    "llama2, padded with eos": ("llama2", "</s>"), "mistral, no padding token": ("mistral", None),
    "qwen2, a newline behind the turn": ("qwen2", "<|endoftext|>"),
    "chatml, padded with the end of the turn": ("chatml", "<|im_end|>"),
    "gemma2, eos is not the end of the turn": ("gemma2", "<eos>"), "zephyr, padded with eos": ("zephyr", "</s>"),
}  # fmt: skip


def _config(kind: str, size: int, pad: int | None, architecture: str = "llama", **more: Any) -> Any:
    from transformers import AutoConfig, Gemma2Config, LlamaConfig

    if architecture == "gpt2":
        return AutoConfig.for_model(
            "gpt2", vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=512, initializer_range=0.5,
            num_labels=1, pad_token_id=pad, bos_token_id=None, eos_token_id=None, **more,
        )  # fmt: skip
    if architecture != "llama":
        own = {"qwen2": {"num_key_value_heads": 1}, "gpt_neox": {"partial_rotary_factor": 0.5}}[architecture]
        return AutoConfig.for_model(
            architecture, vocab_size=size, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=512, initializer_range=0.5, num_labels=1, pad_token_id=pad,
            bos_token_id=None, eos_token_id=None, **own, **more,
        )  # fmt: skip
    made = Gemma2Config if kind == "gemma2" else LlamaConfig
    extra = {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 1} if kind == "gemma2" else {}
    return made(
        vocab_size=size, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, initializer_range=0.5, num_labels=1,
        pad_token_id=pad, bos_token_id=None, eos_token_id=None, **extra, **more,
    )  # fmt: skip


def made(folder: Path, name: str | Family, pad: str | None, **more: Any) -> RewardModel:
    """A random reward model of a family; its scores spread widely."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    family(folder, name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = _config(str(name), len(tokenizer), tokenizer.pad_token_id, **more)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return RewardModel(folder)


def by_its_card(model: RewardModel, prompt: list[dict[str, str]], answer: str) -> float:
    """Whole conversation → ids → logits, with nothing of this project."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path)
    opened = AutoModelForSequenceClassification.from_pretrained(
        model.path, attn_implementation="eager", dtype=torch.float32
    )
    ids = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": answer}], tokenize=True, return_tensors="pt", return_dict=False
    )
    with torch.no_grad():
        return float(opened.eval()(ids).logits[0, 0])


def scores(model: RewardModel, prompts: list[Any], answers: list[str]) -> list[float | None]:
    return list(model.open().score(prompts, answers, [None] * len(answers)))


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_models_own_template_and_forward(case: str, tmp_path: Path) -> None:
    model = made(tmp_path, *CASES[case])
    prompts = [QUESTION, TALK] * (len(ANSWERS) // 2)
    found = scores(model, prompts, ANSWERS)
    wanted = [by_its_card(model, p, a) for p, a in zip(prompts, ANSWERS, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.1, "a random model that tells answers apart"
    pairs = [(i, j) for i, j in combinations(range(len(ANSWERS)), 2) if abs(wanted[i] - wanted[j]) > 1e-4]
    assert all((found[i] > found[j]) == (wanted[i] > wanted[j]) for i, j in pairs)  # type: ignore[operator]


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "gpt_neox"])
def test_decoders_of_other_architectures_score_by_their_own_forward(architecture: str, tmp_path: Path) -> None:
    """Absolute positions (GPT-2), biases of attention (Qwen2), attention beside the MLP (GPT-NeoX)."""
    model = made(tmp_path, "chatml", "<|im_end|>", architecture=architecture)
    prompts = [QUESTION, TALK] * (len(ANSWERS) // 2)
    found = scores(model, prompts, ANSWERS)
    assert found == pytest.approx([by_its_card(model, p, a) for p, a in zip(prompts, ANSWERS, strict=True)], abs=1e-5)
    assert len({round(s, 3) for s in found if s is not None}) > 4


def test_in_bfloat16_scores_are_near_those_of_float32(tmp_path: Path) -> None:
    model = made(tmp_path, *CASES[next(iter(CASES))])
    prompts = [QUESTION] * len(ANSWERS)
    own = model.open("float32").score(prompts, ANSWERS, [None] * len(ANSWERS))
    half = model.open("bfloat16").score(prompts, ANSWERS, [None] * len(ANSWERS))
    assert half != own
    assert half == pytest.approx(own, abs=0.1 * max(map(abs, own)))  # type: ignore[arg-type]
    assert any(float(torch.tensor(x).to(torch.bfloat16)) != x for x in half), "the head computes in float32"


def test_the_position_is_the_models_own_and_only_what_was_trained_here_is_read_at_the_end_of_the_turn(
    tmp_path: Path,
) -> None:
    """ChatML writes a newline behind the turn: a stranger is read there, a model of ours one token before."""
    model = made(tmp_path / "outside", "qwen2", "<|endoftext|>")
    outside = scores(model, [QUESTION], ["No idea ."])
    assert outside == pytest.approx([by_its_card(model, QUESTION, "No idea .")], abs=1e-5)
    ours = RewardModel(shutil.copytree(model.path, tmp_path / "ours"))
    config = json.loads((ours.path / "config.json").read_text())
    (ours.path / "config.json").write_text(json.dumps({**config, "alignflow_score": "end_of_turn"}))
    assert heads.is_trained_here(ours.path)
    assert not heads.is_trained_here(model.path)
    assert scores(ours, [QUESTION], ["No idea ."]) != pytest.approx(outside, abs=1e-3)


def test_a_model_trained_here_keeps_the_stop_tokens_that_only_the_generation_config_names(tmp_path: Path) -> None:
    """Gemma's turns end with <end_of_turn>; its tokenizer's eos is <eos>."""
    start = made(tmp_path / "start", "gemma2", "<eos>")
    (tmp_path / "trained").mkdir()
    save_reward_model(open_reward_model(start, torch.float32), start, tmp_path / "trained")
    trained = RewardModel(tmp_path / "trained")
    assert template_digest(trained) == template_digest(start)
    assert isinstance(scores(trained, [QUESTION], ["No idea ."])[0], float)


def test_rows_the_model_cannot_read_have_no_score(tmp_path: Path) -> None:
    """A system turn that the template refuses, and an answer that is longer than the model's positions."""
    model = made(tmp_path, "gemma2", "<eos>")
    system = [{"role": "system", "content": "You are terse ."}, *QUESTION]
    found = scores(model, [system, QUESTION, QUESTION], ["No idea .", "light " * 600, "No idea ."])
    assert found[:2] == [None, None]
    assert found[2] == pytest.approx(by_its_card(model, QUESTION, "No idea ."), abs=1e-5)


def test_a_template_without_a_generation_prompt_serves_a_reward_model(tmp_path: Path) -> None:
    bare = Family(CHATML.partition("{% if add_generation_prompt")[0], "byte", "<|im_end|>", special=("<|im_start|>",))
    model = made(tmp_path, bare, "<|im_end|>")
    assert scores(model, [QUESTION], ["No idea ."]) == pytest.approx(
        [by_its_card(model, QUESTION, "No idea .")], abs=1e-5
    )


def encoder(folder: Path, kind: str = "deberta", positions: int = 64, outputs: int = 1) -> RewardModel:
    """A random encoder with a WordPiece tokenizer that has [CLS] and [SEP], and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        AutoModelForSequenceClassification,
        BertConfig,
        DebertaV2Config,
        ModernBertConfig,
        PreTrainedTokenizerFast,
        RobertaConfig,
    )

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    pieces.train_from_iterator([*ANSWERS, QUESTION[0]["content"]], trainers.WordPieceTrainer(special_tokens=special))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    made: Any = {
        "deberta": DebertaV2Config, "roberta": RobertaConfig, "bert": BertConfig, "modernbert": ModernBertConfig,
    }[kind]  # fmt: skip
    extra: dict[str, Any] = {
        "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "modernbert": {"bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, "sep_token_id": 3},
    }.get(kind, {})  # fmt: skip
    config = made(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=positions, num_labels=outputs, pad_token_id=1, initializer_range=0.5, **extra,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return RewardModel(folder)


@pytest.mark.parametrize("kind", ["deberta", "roberta", "bert", "modernbert"])
def test_an_encoder_reads_question_and_answer_as_a_pair_as_its_card_does(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = encoder(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    answers = [a for a in ANSWERS if a]  # of an empty one, transformers' plain call makes no pair
    found = scores(model, [QUESTION] * len(answers), answers)
    for answer, score in zip(answers, found, strict=True):
        with torch.no_grad():
            own = opened(**tokenizer(QUESTION[0]["content"], answer, return_tensors="pt")).logits[0, 0]
        assert score == pytest.approx(float(own), abs=1e-5, rel=1e-5)
    assert len({round(s, 3) for s in found if s is not None}) > 4
    asked = "\n".join(m["content"] for m in TALK)
    with torch.no_grad():
        own = opened(**tokenizer(asked, "No idea .", return_tensors="pt")).logits[0, 0]
    assert scores(model, [TALK], ["No idea ."]) == pytest.approx([float(own)], abs=1e-5)
    tools = with_extra(QUESTION[0], tools=[{"type": "function", "function": {"name": "w"}}])
    assert scores(model, [[tools]], ["No idea ."]) == [None]  # the pair of texts has no place for them


def test_an_encoders_positions_are_respected(tmp_path: Path) -> None:
    """RoBERTa counts from padding + 1 = 2, so 64 positions read 62 tokens: 3 specials, 6 of the question, 53."""
    model = encoder(tmp_path, "roberta")
    found = scores(model, [QUESTION] * 2, [" ".join(["a"] * n) for n in (53, 54)])
    assert found[0] is not None
    assert found[1] is None


def test_what_is_no_reward_model_is_refused_with_what_it_is(tmp_path: Path) -> None:
    several = encoder(tmp_path / "several", outputs=3)
    with pytest.raises(DataError, match=r"classifies into 3 classes \(LABEL_0, LABEL_1, LABEL_2\); a reward model has"):
        several.open()
    model = made(tmp_path / "plain", "llama2", "</s>")
    config = json.loads((model.path / "config.json").read_text())
    (model.path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(DataError, match=r"no classification head \(architectures in config.json: LlamaForCausalLM\)"):
        model.open()
    (model.path / "config.json").write_text(json.dumps(config))
    (model.path / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="neither a chat template nor a separator"):
        model.open()


def test_a_head_that_the_files_lack_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = made(tmp_path, "llama2", "</s>")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks weights of its LlamaForSequenceClassification: score\.weight"):
        model.open()


def test_a_model_that_scores_otherwise_in_company_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(tmp_path, "qwen2", "<|endoftext|>")
    padded = classifier.Classifier._padded

    def without_mask(self: Any, rows: Any) -> Any:
        found = padded(self, rows)
        return {**found, "input_ids": found["input_ids"].flip(1)}

    monkeypatch.setattr(classifier.Classifier, "_padded", without_mask)
    with pytest.raises(DataError, match=r"gives -?\d+\.\d+ for a conversation alone and -?\d+\.\d+ for the same one"):
        model.open()


def test_training_goes_on_from_a_decoder_and_not_from_an_encoder(tmp_path: Path) -> None:
    assert open_reward_model(made(tmp_path / "decoder", "llama2", "</s>"), torch.float32).score.out_features == 1
    with pytest.raises(DataError, match=r"chat template|no linear head called `score`"):
        open_reward_model(encoder(tmp_path / "encoder"), torch.float32)


def test_a_hub_id_is_held_to_the_commit_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub's cache by hand: two snapshots, and the branch moves on behind the key."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--lab--rm"
    for commit in ("1" * 40, "2" * 40):
        made(folder / "snapshots" / commit, "llama2", "</s>")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1" * 40)
    found = identity(online=False, base=tmp_path, path="lab/rm")
    assert found == {"revision": "1" * 40}
    (folder / "refs" / "main").write_text("2" * 40)
    choice = Chosen("oracles", "reward_model", {"path": "lab/rm"}, identity={"revision": "1" * 40})
    assert load_oracle(oracle=choice).path.name == "1" * 40  # type: ignore[attr-defined]
    assert load_oracle(oracle=Chosen("oracles", "reward_model", {"path": "lab/rm"})).path.name == "2" * 40  # type: ignore[attr-defined]


def test_plan_is_told_what_is_no_reward_model(tmp_path: Path) -> None:
    several = encoder(tmp_path / "several", outputs=2)
    with pytest.raises(DataError, match="classifies into 2 classes"):
        identity(online=False, base=tmp_path, path="several")
    assert several.path.name == "several"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a Hugging Face model directory"):
        identity(online=False, base=tmp_path, path="./empty")
