"""Loading: what the toy world gives, the blank policy, checkpoints from outside, the composites on top."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.composites import load_labels, load_policy, load_preferences
from tasks.contract import ChoiceSpec, Chosen, DataError, SpecError
from tasks.evaluations import assess
from tasks.formats.checkpoint import check_model
from tasks.kinds import Demonstrations, Policy
from tasks.load import init_policy, load_demonstrations, load_prompts, read_policy, read_preferences
from tasks.rendering import AnswerText, Rendered, Template
from tasks.sources import toy
from tasks.template import generation_config, stop_ids, tokenizer_of
from tests.workspace import Workspace

TOY = Chosen("sources", "toy", {})


def local(path: Path) -> Chosen:
    return Chosen("sources", "path", {"path": str(path)})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    return load_demonstrations(Workspace(tmp_path_factory.mktemp("told")), source=TOY, split="sft")


@pytest.fixture(scope="module")
def blank(told: Demonstrations, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return init_policy(told, Workspace(tmp_path_factory.mktemp("blank")))


@pytest.fixture
def folder(blank: Policy, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return shutil.copytree(blank.path, tmp_path / "ckpt")


def _edit(file: Path, **fields: object) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **fields}))


def test_prompts_carry_truth_and_stratum_and_their_ids_are_distinct(tmp_path: Path) -> None:
    rows = load_prompts(Workspace(tmp_path), source=TOY, split="heldout").table.to_pylist()
    assert len({r["prompt_id"] for r in rows}) == len(rows) == 128
    for row in rows:
        truth = json.loads(row["truth"])
        assert row["group"] == "+".join(truth["asked"])
        assert truth["animal"] in row["prompt"][0]["content"].split()


def test_there_are_three_demonstrations_per_prompt_with_ids_of_their_own(told: Demonstrations) -> None:
    rows = told.table.to_pylist()
    assert len(rows) == len({r["completion_id"] for r in rows}) == 3 * 1040
    assert len({r["prompt_id"] for r in rows}) == 1040


def test_demonstrations_of_a_split_are_those_of_its_prompts(told: Demonstrations, tmp_path: Path) -> None:
    rm = load_demonstrations(Workspace(tmp_path), source=TOY, split="rm").table
    assert rm.equals(told.table.slice(0, 1200))


def test_golden_answers_are_other_draws_than_mixed_ones(told: Demonstrations, tmp_path: Path) -> None:
    golden = load_demonstrations(Workspace(tmp_path), source=TOY, split="sft", answers="golden").table
    assert golden["prompt_id"].equals(told.table["prompt_id"])
    assert not set(golden["completion_id"].to_pylist()) & set(told.table["completion_id"].to_pylist())


def test_the_worlds_parameters_reach_its_tables(tmp_path: Path) -> None:
    def openings(source: Chosen) -> int:
        rows = load_demonstrations(Workspace(tmp_path / "step"), source=source, split="rm").table
        return sum(text.startswith("ahoy friend !") for text in rows["completion"].to_pylist())

    warm, playful, other_seed = (
        replace(TOY, params=params) for params in ({"tones": [1.0, 0.0, 0.0]}, {"tones": [0.0, 0.0, 1.0]}, {"seed": 1})
    )
    assert openings(warm) == 0 < openings(TOY) < openings(playful)
    one, other = (load_prompts(Workspace(tmp_path / "step"), source=s, split="rm") for s in (TOY, other_seed))
    assert one.table != other.table


def test_the_blank_policy_renders_bos_once_and_every_text_survives(blank: Policy, told: Demonstrations) -> None:
    tokenizer = tokenizer_of(blank)
    rows = told.table.slice(0, 200).to_pylist()
    for row, made in zip(
        rows, Template(blank).answers([AnswerText(r["prompt"], r["completion"]) for r in rows]), strict=True
    ):
        assert isinstance(made, Rendered)
        ids, answer = made.prompt, made.answer
        assert made.shared == len(ids)
        assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<bos>", "<user>"]
        assert tokenizer.convert_ids_to_tokens(ids)[-1] == "<bot>"
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(answer, skip_special_tokens=True) == row["completion"]
        assert len(ids) + len(answer) <= 128


def test_the_blank_policy_is_a_small_llama_whose_pad_is_not_its_eos(blank: Policy) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(blank.path), tokenizer_of(blank)
    assert 0.6e6 < sum(p.numel() for p in model.parameters()) < 0.7e6
    assert len(tokenizer) == model.config.vocab_size == 512
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert stop_ids(blank) == {tokenizer.eos_token_id}
    assert generation_config(blank.path)["max_new_tokens"] == 48


def test_equal_demonstrations_give_an_equal_policy_byte_by_byte_and_the_seed_changes_weights_only(
    blank: Policy, told: Demonstrations, tmp_path: Path
) -> None:
    def files(policy: Policy) -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in policy.path.iterdir()}

    again = files(init_policy(told, Workspace(tmp_path / "again")))
    other = files(init_policy(told, Workspace(tmp_path / "other"), seed=1))
    assert again == files(blank)
    assert [name for name in other if other[name] != again[name]] == ["model.safetensors"]


def test_sizes_that_cannot_be_are_refused(told: Demonstrations, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="multiple of 2·heads"):
        init_policy(told, Workspace(tmp_path), hidden=100, heads=3)


def test_a_local_checkpoint_is_referenced_where_it_lies(folder: Path) -> None:
    assert read_policy(source=local(folder)).path == folder.resolve()


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "json is missing"), ("model.safetensors", "no .*safetensors"), ("tokenizer.json", "no tokenizer"),
     ("chat_template.jinja", "no chat template")],
)  # fmt: skip
def test_a_checkpoint_that_lacks_something_is_refused(missing: str, message: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(DataError, match=message):
        read_policy(source=local(folder))


def test_a_checkpoint_without_an_end_of_sequence_is_refused(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", eos_token=None)
    check_model(folder)  # generation_config.json still names one
    _edit(folder / "generation_config.json", eos_token_id=None)
    _edit(folder / "config.json", eos_token_id=None)
    with pytest.raises(DataError, match="no end-of-sequence token: set eos_token in"):
        check_model(folder)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(folder: Path) -> None:
    _edit(folder / "config.json", vocab_size=600)
    check_model(folder)  # a larger embedding is usual
    _edit(folder / "config.json", vocab_size=511)
    with pytest.raises(DataError, match="the tokenizer has 512 entries, the model 511 embeddings"):
        check_model(folder)


def test_an_adapter_is_refused_with_what_to_do_even_beside_a_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    _edit(folder / "adapter_config.json", base_model_name_or_path="org/base")
    with pytest.raises(DataError, match=r"an adapter of org/base.*load_adapter, policy: BASE, source: "):
        check_model(folder)


def test_an_adapter_of_this_project_is_refused_as_a_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")
    (folder / "adapter.json").write_text("{}")
    with pytest.raises(DataError, match=r"its base is not known here: use the whole model that `alignflow export`"):
        check_model(folder)


def test_the_check_of_a_checkpoint_imports_nothing_heavy() -> None:
    code = "import sys, tasks.formats.checkpoint; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("kept", [1000, -10])
def test_weights_that_were_cut_off_are_refused(kept: int, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"not a whole safetensors file .*download it again"):
        read_policy(source=local(folder))


def test_a_pickle_is_no_weights_and_an_adapter_no_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model.bin is a pickle"):
        read_policy(source=local(folder))
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(DataError, match="not a whole model"):
        read_policy(source=local(folder))


def test_a_file_gives_no_policy_and_a_world_no_pairs_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "q"}\n')
    with pytest.raises(DataError, match="not a Hugging Face model directory"):
        read_policy(source=local(file))
    with pytest.raises(SpecError, match="has no preferences"):
        read_preferences(Workspace(tmp_path / "step"), source=TOY, split="rm")


class Steps:
    """What a composite adds: (task, name, inputs), in order; a step's result stands for itself by its number."""

    def __init__(self) -> None:
        self.added: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, task: str, name: str | None = None, **inputs: Any) -> str:
        self.added.append((name or task, inputs))
        return f"{name or task}#{len(self.added)}"

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.added]


WORLD = ChoiceSpec("sources", "toy", {"tones": [0.6, 0.3, 0.1], "seed": 5}, (), "World", toy.world)
FILE = ChoiceSpec("sources", "path", {"path": "pairs.jsonl"}, (), "Source")


def test_a_worlds_policy_is_trained_on_its_demonstrations_and_has_the_worlds_seed() -> None:
    steps = Steps()
    load_policy(steps, source=WORLD)
    assert steps.names == ["load_demonstrations", "init_policy", "train"]
    told, blank, train = (inputs for _, inputs in steps.added)
    assert told == {"source": WORLD, "split": "sft"}
    assert blank["seed"] == train["seed"] == 5
    assert (blank["demonstrations"], train["data"]) == ("load_demonstrations#1",) * 2


@pytest.mark.parametrize(
    ("split", "prompts", "num_pairs", "k"),
    [("rm", 400, 300, 2), ("rm", 400, 400, 2), ("rm", 400, 1200, 3), ("rm", 400, 3000, 5), ("heldout", 128, 1280, 5)],
)
def test_a_worlds_people_get_enough_answers_for_their_labels(split: str, prompts: int, num_pairs: int, k: int) -> None:
    steps = Steps()
    load_preferences(steps, source=WORLD, split=split, num_pairs=num_pairs)
    inputs = dict(steps.added)
    assert inputs["load_prompts"] == {"source": WORLD, "split": split}
    assert inputs["sample"]["k"] == k
    assert prompts * k * (k - 1) // 2 >= num_pairs
    assert inputs["load_oracle"] == {"oracle": "toy_gold"}
    assert steps.added[-1] == ("take_batch", {"table": "pairs#6", "index": 1, "size": num_pairs})


@pytest.mark.parametrize(
    ("split", "prompts", "num_pairs", "k"), [("rm", 400, 300, 2), ("rm", 400, 401, 4), ("heldout", 128, 1280, 20)]
)
def test_disjoint_pairs_take_two_answers_each(split: str, prompts: int, num_pairs: int, k: int) -> None:
    steps = Steps()
    load_preferences(steps, source=WORLD, split=split, num_pairs=num_pairs, disjoint=True, seed=3)
    inputs = dict(steps.added)
    assert inputs["sample"]["k"] == k
    assert prompts * k // 2 >= num_pairs
    assert inputs["pairs"]["rule"] == {"sampled": {"disjoint": True, "seed": 3}}


def test_real_pairs_are_read_and_assessed_without_an_oracle() -> None:
    steps = Steps()
    load_preferences(steps, source=FILE)
    assess(steps, "policy", "base", source=FILE)
    assert steps.names == [
        "read_preferences",
        "load_preferences",
        "tokenize",
        "logps",
        "ref_logps",
        "implicit_accuracy",
    ]
    assert dict(steps.added)["ref_logps"]["policy"] == "base"


def test_in_a_world_its_gold_oracle_assesses_policy_and_baseline() -> None:
    steps = Steps()
    assess(steps, "policy", "base", source=WORLD)
    assert steps.names == ["load_prompts", "load_oracle", "base_check", "evaluate"]
    assert [i["policy"] for _, i in steps.added[2:]] == ["base", "policy"]


def test_labels_of_a_world_are_those_of_its_peoples_pairs_and_others_are_read() -> None:
    steps = Steps()
    load_labels(steps, source=WORLD, num_pairs=30)
    load_labels(steps, source=FILE)
    assert steps.names == ["load_preferences", "labels", "read_labels"]
    assert steps.added[0][1]["num_pairs"] == 30
    assert steps.added[1][1] == {"pairs": "load_preferences#1"}
