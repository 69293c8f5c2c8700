"""Sources: what files, directories and hub ids give, in which formats and splits."""

import csv
import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tasks.contract import DataError, SpecError
from tasks.formats.messages import messages
from tasks.ids import prompt_id
from tasks.source import Source
from tasks.sources.path import identity, path
from tasks.sources.toy import toy
from tests.tasks.reading import Rows, Step, bot, rows_of, user, write

DATA = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason="the real pairs are not on this machine")

DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is 2+2?\n\nAssistant:"
ASKED = [
    {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "what is 2+2?"},
]  # fmt: skip


def pairs_of(source: Rows, tmp_path: Path, split: str = "all") -> list[dict[str, Any]]:
    return rows_of(Step(tmp_path).pairs(source, split))


PAIRS = {
    "explicit, plain": {"prompt": "what is 2+2?", "chosen": "4", "rejected": "5"},
    "explicit, conversational": {"prompt": user("what is 2+2?"), "chosen": bot("4"), "rejected": bot("5")},
    "implicit, conversational": {
        "chosen": [*user("what is 2+2?"), *bot("4")], "rejected": [*user("what is 2+2?"), *bot("5")],
    },
    "explicit prompt, whole conversations": {
        "prompt": "what is 2+2?", "chosen": [*user("what is 2+2?"), *bot("4")],
        "rejected": [*user("what is 2+2?"), *bot("5")], "score_chosen": 8.5, "score_rejected": 6.0,
    },
    "from and value": {
        "chosen": [{"from": "human", "value": "what is 2+2?"}, {"from": "gpt", "value": "4"}],
        "rejected": [{"from": "human", "value": "what is 2+2?"}, {"from": "gpt", "value": "5"}],
    },
    "PandaLM": {
        "instruction": "what is 2+2?", "input": "", "response1": "5", "response2": "4", "annotator1": 2,
        "annotator2": 2, "annotator3": 1,
    },
    "LLMBar": {"input": "what is 2+2?", "output_1": "5", "output_2": "4", "label": 2},
    "explicit, dialogue": {"prompt": "\n\nHuman: what is 2+2?\n\nAssistant:", "chosen": " 4", "rejected": " 5"},
    "implicit, dialogue": {
        "chosen": "\n\nHuman: what is 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: what is 2+2?\n\nAssistant: 5",
    },
}  # fmt: skip


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_format_of_pairs_gives_the_same_pair(row: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = pairs_of([row], tmp_path)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (user("what is 2+2?"), "4", "5")
    assert pair["prompt_id"] == prompt_id(user("what is 2+2?"))
    assert pair["chosen_id"] != pair["rejected_id"]


def test_scores_give_the_margin_and_annotators_the_probability(tmp_path: Path) -> None:
    (scored,) = pairs_of([PAIRS["explicit prompt, whole conversations"]], tmp_path)
    (voted,) = pairs_of([PAIRS["PandaLM"]], tmp_path)
    assert (scored["margin"], scored["p"]) == (2.5, None)
    assert voted["p"] == pytest.approx(2 / 3)


def test_a_dialogue_becomes_alternating_messages_and_its_last_marker_none() -> None:
    assert messages(DIALOGUE) == ASKED


def test_neighbours_of_one_role_are_joined_and_empty_turns_vanish() -> None:
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nHuman: c\n\nAssistant:"
    assert messages(text) == user("a\n\nb\n\nc")


def test_an_answer_that_begins_with_human_is_an_answer(tmp_path: Path) -> None:
    row = {"prompt": DIALOGUE, "chosen": " Human: four", "rejected": " Human: five"}
    (pair,) = pairs_of([row], tmp_path)
    assert (pair["prompt"], pair["chosen"]) == (ASKED, "Human: four")


def test_plain_sides_that_begin_alike_share_the_prompt(tmp_path: Path) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    (pair,) = pairs_of([row], tmp_path)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (user("The sky is"), "blue.", "green.")


def test_rows_that_are_no_pair_are_counted_listed_and_skipped(tmp_path: Path) -> None:
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [good, good | {"chosen": "a\n\nHuman: more"}, good | {"prompt": ""}, good | {"rejected": None}, good]
    step = Step(tmp_path)
    table, work = step.pairs(rows), step.work
    listed = [json.loads(line) for line in (table.path / "skipped.jsonl").read_text().splitlines()]
    assert len(table) == 2
    assert work.totals == {"rows_skipped": 3}
    assert [row["row"] for row in listed] == [2, 3, 4]
    assert "further turns" in listed[0]["reason"]
    assert "3 of 5 rows (60.0%) skipped" in work.notices[-1]


def test_sides_that_part_before_the_last_turn_are_skipped(tmp_path: Path) -> None:
    row = {"chosen": DIALOGUE + " 4", "rejected": DIALOGUE.replace("hello", "bye") + " 5"}
    with pytest.raises(DataError, match=r"the two conversations differ before their last turn \(1\)"):
        pairs_of([row], tmp_path)


def test_an_empty_side_is_kept_for_tokenize_to_count(tmp_path: Path) -> None:
    (pair,) = pairs_of([{"prompt": DIALOGUE, "chosen": "4", "rejected": " "}], tmp_path)
    assert pair["rejected"] == ""


ANSWERS = {
    "prompt-completion": {"prompt": "q", "completion": "a"},
    "prompt-completion, conversational": {"prompt": user("q"), "completion": bot("a")},
    "conversation": {"messages": [*user("q"), *bot("a")]},
    "instruction": {"instruction": "q", "input": "", "output": "a"},
    "question and answer": {"question": "q", "answer": "a"},
    "pairs: the chosen ones": {"prompt": "q", "chosen": "a", "rejected": "b"},
}


@pytest.mark.parametrize("row", ANSWERS.values(), ids=ANSWERS)
def test_every_format_of_demonstrations_gives_the_same_answer(row: dict[str, Any], tmp_path: Path) -> None:
    (demonstration,) = rows_of(Step(tmp_path).demonstrations([row]))
    (prompt,) = rows_of(Step(tmp_path).prompts([row]))
    assert (demonstration["prompt"], demonstration["completion"]) == (user("q"), "a")
    assert prompt["prompt_id"] == demonstration["prompt_id"]


def test_undesirable_answers_are_no_demonstrations(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": c, "label": c == "good"} for c in ("bad", "good")]
    step = Step(tmp_path, max_skipped=0)
    assert step.demonstrations(rows).table["completion"].to_pylist() == ["good"]
    assert "1 answers labelled false are not used as demonstrations" in step.work.notices[1]


def test_prompts_of_pairs_are_distinct_and_in_order(tmp_path: Path) -> None:
    rows = [{"prompt": q, "chosen": c, "rejected": "x"} for q, c in (("b", "1"), ("a", "2"), ("b", "3"))]
    prompts = Step(tmp_path).prompts(rows)
    assert [p["prompt"][0]["content"] for p in prompts.table.to_pylist()] == ["b", "a"]


def _rows(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {i % (n // 2)}", "chosen": f"a{i}", "rejected": "b"} for i in range(n)]


def test_a_file_is_divided_by_prompt_in_the_stated_shares(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", _rows(2000))
    split = {s: pairs_of(file, tmp_path, s) for s in ("rm", "policy", "gate", "heldout", "train", "sft", "all")}
    for name, share in (("rm", 0.3), ("policy", 0.5), ("gate", 0.1), ("heldout", 0.1)):
        assert len(split[name]) / 2000 == pytest.approx(share, abs=0.04)
    asked = [{r["prompt_id"] for r in split[s]} for s in ("rm", "policy", "gate", "heldout")]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 1000
    assert len(split["train"]) == len(split["sft"]) == len(split["rm"]) + len(split["policy"])
    assert len(split["all"]) == 2000


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".csv.gz", ".tsv", ".parquet", ".arrow"])
def test_every_kind_of_file_reads_the_same(suffix: str, tmp_path: Path) -> None:
    file, rows = tmp_path / f"pairs{suffix}", _rows(20)
    if ".jsonl" in suffix:
        write(file, rows)
    elif suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".arrow":
        with pa.ipc.new_file(str(file), pa.Table.from_pylist(rows).schema) as out:
            out.write_table(pa.Table.from_pylist(rows))
    else:
        opened = gzip.open if suffix.endswith(".gz") else open
        with opened(file, "wt", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    found = pairs_of(file, tmp_path)
    assert found == pairs_of(rows, tmp_path)


def test_a_saved_dataset_gives_its_named_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    saved = tmp_path / "saved"
    DatasetDict({
        "train": Dataset.from_list(_rows(400)), "test": Dataset.from_list([PAIRS["explicit, plain"]])
    }).save_to_disk(saved)  # fmt: skip
    assert len(pairs_of(saved, tmp_path, "train")) == 400
    assert [r["chosen"] for r in pairs_of(saved, tmp_path, "test")] == ["4"]
    assert pairs_of(saved, tmp_path, "heldout") == pairs_of(saved, tmp_path, "test")
    assert sum(len(pairs_of(saved, tmp_path, s)) for s in ("rm", "policy", "gate")) == 400
    with pytest.raises(SpecError, match=r"no split 'other'; choose one of \['all', 'test', 'train'\]"):
        pairs_of(saved, tmp_path, "other")


def test_a_directory_of_data_files_is_read_by_the_datasets_library(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "train.jsonl", _rows(40))
    assert len(pairs_of(tmp_path / "folder", tmp_path)) == 40


def test_unknown_columns_are_an_error_that_names_place_columns_and_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl': .*\['question_text'\].*to 'prompt'.*pairs: chosen, rejected"):
        Step(tmp_path).prompts([{"question_text": "q"}])


def test_a_later_row_without_a_column_and_a_broken_line_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q"}])
    with pytest.raises(DataError, match=r"1 of 2 rows.*rows.jsonl:2 \(chosen and rejected are missing"):
        Step(tmp_path, max_skipped=0.4).pairs(file)
    file.write_text('{"prompt": "q"}\n{"prom')
    with pytest.raises(DataError, match=r"rows.jsonl:2: invalid JSON"):
        Step(tmp_path).prompts(file)


def test_what_a_source_lacks_is_refused_with_what_it_gives(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no preferences: its rows are prompts \(prompt\)"):
        pairs_of([{"prompt": "q"}], tmp_path)
    with pytest.raises(SpecError, match="source 'toy' has no preferences; it provides prompts, demonstrations"):
        Step(tmp_path).pairs(toy(), "rm")
    with pytest.raises(SpecError, match="provides nothing"):
        Step(tmp_path).prompts(Source("empty"))


def test_truth_group_and_weight_pass_through(tmp_path: Path) -> None:
    row = {"prompt": "q", "truth": '{"answer": 4}', "group": "sums", "weight": 2}
    (found,) = rows_of(Step(tmp_path).prompts([row]))
    assert (found["truth"], found["group"], found["weight"]) == ('{"answer": 4}', "sums", 2.0)


NO_DATA = {
    "pairs.parquet": b"no parquet", "pairs.arrow": b"no arrow", "pairs.jsonl.gz": b"no gzip",
    "pairs.jsonl": '{"prompt": "é"}'.encode("latin-1"), "pairs.json": b'[{"prompt": ', "pairs.csv": b'a,"b\n',
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), NO_DATA.items(), ids=NO_DATA)
def test_a_file_that_is_not_what_its_name_says_is_an_error_that_names_it(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        pairs_of(tmp_path / name, tmp_path)


def test_a_missing_file_is_refused_at_once() -> None:
    for name in ("./nowhere", "nowhere/pairs.jsonl", "pairs.csv.gz"):
        with pytest.raises(SpecError, match="no file or directory"):
            path(path=name)
        with pytest.raises(SpecError, match="no file or directory"):
            identity(online=False, base=Path.cwd(), path=name)


def test_a_relative_path_is_relative_to_the_folder_of_the_pipelines_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder, text in ((base, "mine"), (elsewhere, "another's")):
        folder.mkdir()
        (folder / "pairs.jsonl").write_text(text)
    monkeypatch.chdir(elsewhere)
    said = identity(online=False, base=base, path="pairs.jsonl")
    assert said == {"content": base.resolve() / "pairs.jsonl"}
    (base / "pairs.jsonl").unlink()
    with pytest.raises(SpecError, match=f"relative to {base}"):
        identity(online=False, base=base, path="pairs.jsonl")


def test_offline_the_identity_of_a_hub_id_is_the_commit_last_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="its cache has no such repository"):
        identity(online=False, base=Path.cwd(), path="org/model")
    refs = tmp_path / "models--org--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc123\n")
    (tmp_path / "datasets--org--model" / "snapshots" / "def456").mkdir(parents=True)
    assert identity(online=True, base=Path.cwd(), path="org/model") == {"model": "abc123", "dataset": "def456"}
    assert identity(online=False, base=Path.cwd(), path="org/model", revision="def456") == {"dataset": "def456"}


@real
@pytest.mark.parametrize(
    ("name", "kept", "skipped"),
    [("harmless_base_test", 2307, 5), ("helpful_test", 2343, 9), ("pandalm_testset", 908, 91), ("llmbar", 419, 0)],
)
def test_the_real_pairs_are_read(name: str, kept: int, skipped: int, tmp_path: Path) -> None:
    step = Step(tmp_path, max_skipped=0.1)
    table, work = step.pairs(DATA / "preferences" / f"{name}.jsonl.gz"), step.work
    assert (len(table), work.totals.get("rows_skipped", 0)) == (kept, skipped)
    for prompt in table.table["prompt"].to_pylist():
        roles = [m["role"] for m in prompt]
        assert roles[-1] == "user"
        assert all(a != b for a, b in pairwise(roles))


@real
@pytest.mark.parametrize(
    ("name", "n"),
    [("arena_hard_v0.1_question", 500), ("mt_bench_question", 80), ("vicuna_bench_question", 80),
     ("self_instruct_seed_tasks", 175)],
)  # fmt: skip
def test_the_real_prompts_are_read(name: str, n: int, tmp_path: Path) -> None:
    assert len(Step(tmp_path, max_skipped=0).prompts(DATA / "prompts" / f"{name}.jsonl")) == n
