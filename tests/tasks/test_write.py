"""New prompts of a policy, and demonstrations of writing and rating."""

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.judging.rouge import Similarity, longest_common_subsequence, words_of
from tasks.judging.rubric import Rubric
from tasks.judging.writing import Writing, new_prompts, single_texts
from tasks.kinds import Completions, Policy, Prompts, Scores
from tasks.write import demonstrate_prompts, demonstrate_ratings, write_prompts
from tests.answers import completions, rows
from tests.tasks.training.tables import message
from tests.workspace import Workspace

TEXTS = [f"where does the {animal} live ?" for animal in ("swan", "fox", "bear", "mole", "crow", "duck")]
ENGINE = Chosen("engines", "transformers", {})


def prompts(texts: list[str]) -> Prompts:
    return Prompts.of(pa.Table.from_pylist([{"prompt_id": t, "prompt": message(t)} for t in texts]))


def texts_of(table: Prompts) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows(table)]


def test_the_longest_common_subsequence_is_that_of_dynamic_programming() -> None:
    import random

    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.choice("abcd") for _ in range(rng.randrange(12))] for _ in "ab")
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert longest_common_subsequence(a, b) == table[-1][-1]


def test_similarity_is_the_f1_of_rouge_l() -> None:
    # "the cat sat on the mat" and "on the mat sat the cat": a subsequence of 3 words, of 6 and 6: F1 = 0.5
    assert words_of("The cat, sat!") == ["the", "cat", "sat"]
    for limit, near in ((0.5, True), (0.51, False)):
        assert Similarity(limit, ["the cat sat on the mat"]).resembles("on the mat sat the cat") is near
    # 5 of 6 words are equal, in order: 0.83
    known = Similarity(0.7, TEXTS)
    assert known.resembles("Where does the goat live?")
    assert not known.resembles("what does the swan eat ?")
    assert not known.resembles("?!")
    assert not Similarity(1.0, TEXTS).resembles("where does the goat live ?")
    assert Similarity(1.0, TEXTS).resembles("Where does the swan live")


def sampled(texts: list[str], cut: tuple[str, ...] = ()) -> Completions:
    table = completions({"x": texts}).table
    reasons = pa.array(["length" if text in cut else "stop" for text in texts])
    return Completions.of(table.set_column(table.column_names.index("finish_reason"), "finish_reason", reasons))


def test_texts_that_are_empty_cut_or_similar_are_left_out_and_counted(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    written = sampled(
        ["how big is a newt ?", "", " ?", "how big is a newt", TEXTS[1], "tell me", "what eats seeds ?"],
        cut=("tell me",),
    )  # fmt: skip
    new = new_prompts(written, [prompts(TEXTS), prompts(["What eats seeds?"])], 0.9, work)
    assert texts_of(new) == ["how big is a newt ?"]
    assert [row["truth"] for row in rows(new)] == [None]
    assert work.totals == {"prompts_empty": 2, "prompts_cut": 1, "prompts_similar": 3, "prompts_new": 1}
    assert work.notices[0].startswith("1 of 7 texts are new prompts; left out: 2 empty or without a word, 1 cut")
    with pytest.raises(DataError, match="none of 1 texts is a new prompt: 1 that resemble"):
        new_prompts(sampled([TEXTS[0]]), [prompts(TEXTS)], 0.7, work)


def test_requests_show_different_examples_and_a_larger_number_begins_with_the_same() -> None:
    writing = Writing(prompts(TEXTS), 2, "{% for p in prompts %}{{ p }} | {% endfor %}", "0 0")
    few, many = (texts_of(writing.requests(size)) for size in (3, 12))
    assert many[:3] == few
    assert len(set(many)) == 12
    for request, further in islice(writing.pairs(), 12):
        shown = [part.strip() for part in request[0]["content"].split("|") if part.strip()]
        assert len({*shown, further}) == 3
        assert {*shown, further} <= {*TEXTS}
    other = Writing(prompts(TEXTS), 2, "{% for p in prompts %}{{ p }} | {% endfor %}", "0 1")
    assert texts_of(other.requests(12)) != many


def test_too_few_prompts_or_sets_of_examples_are_refused() -> None:
    with pytest.raises(DataError, match="6 prompts have a single plain message; 6 examples need more"):
        Writing(prompts(TEXTS), 6, "", "0")
    with pytest.raises(DataError, match=r"give only about \d+ different sets of 1 examples"):
        Writing(prompts(TEXTS[:3]), 1, "", "0").requests(50)
    with pytest.raises(SpecError, match="the instruction must show prompts"):
        Writing(prompts(TEXTS), 2, "write", "0")


def test_only_single_plain_messages_are_examples() -> None:
    turns = [*message("a ?"), {"role": "assistant", "content": "b"}, *message("c ?")]
    table = pa.Table.from_pylist([{"prompt_id": str(i), "prompt": p} for i, p in enumerate([turns, message("d ?")])])
    assert single_texts(Prompts.of(table)) == ["d ?"]


def test_a_policy_writes_prompts_that_are_not_there_yet(policy: Policy, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "size": 12,
        "shots": 2,
        "max_tokens": 8,
        "max_similarity": 1.0,
        "instruction": "{{ prompts[0] }} {{ prompts[1] }}",
        "temperature": 1.0,
        "engine": ENGINE,
    }
    work = Workspace(tmp_path / "one")
    new = write_prompts(policy, prompts(TEXTS), work, [prompts(["roots"])], **settings)
    assert work.totals["samples"] == 12
    assert len(new) == work.totals["prompts_new"] > 0
    again = write_prompts(policy, prompts(TEXTS), Workspace(tmp_path / "two"), [prompts(["roots"])], **settings)
    assert rows(again) == rows(new)
    held_out = texts_of(new)[0]
    less = write_prompts(policy, prompts(TEXTS), Workspace(tmp_path / "three"), [prompts([held_out])], **settings)
    assert texts_of(less) == texts_of(new)[1:]


def test_demonstrations_of_writing_end_with_a_prompt_that_is_not_shown() -> None:
    table = demonstrate_prompts(prompts(TEXTS), size=10, shots=3)
    for row in rows(table):
        assert row["completion"] in TEXTS
        assert row["completion"] not in row["prompt"][0]["content"]
    assert len({row["prompt_id"] for row in rows(table)}) == 10
    assert rows(demonstrate_prompts(prompts(TEXTS), size=10, shots=3, seed=1)) != rows(table)


def test_demonstrations_of_rating_ask_as_the_judge_does_and_answer_with_the_nearest_rating() -> None:
    table = completions({"x": ["a", "b", "c", "d", "e", "a"]}).table
    scores = Scores.of(table.append_column("score", pa.array([-1.0, 0.0, 0.49, 0.5, 9.0, 3.0])))
    made = rows(demonstrate_ratings(scores, least=0, most=5))
    assert [row["completion"] for row in made] == ["Score: 0", "Score: 0", "Score: 0", "Score: 1", "Score: 5"]
    first = rows(scores)[0]
    assert made[0]["prompt"][0]["content"] == Rubric().question(first["prompt"], "a")[0]["content"]
    missing = Scores.of(table.append_column("score", pa.array([1.0, None, 2.0, None, None, None])))
    assert [row["completion"] for row in rows(demonstrate_ratings(missing, lead="", lowest=1, highest=3))] == ["1", "3"]
    level = Scores.of(table.append_column("score", pa.array([1.0] * 6)))
    with pytest.raises(DataError, match="6 scores from 1 to 1 cannot be told apart"):
        demonstrate_ratings(level)
