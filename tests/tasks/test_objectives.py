"""Weights of objectives in prompts, and what they mix."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import DataError, SpecError
from tasks.ids import prompt_id
from tasks.judging.conditions import drawn_weights, weights_in
from tasks.kinds import Completions, Prompts, WinProbs
from tasks.objectives import mix_win_probs, write_weights
from tests.answers import completions, rows, win_probs
from tests.workspace import Workspace

OBJECTIVES = ["quality", "length"]


def table(*texts: str) -> Prompts:
    messages = [[{"role": "user", "content": text, "extra": None}] for text in texts]
    import polars as pl

    return Prompts.of(pl.DataFrame([
        {"prompt_id": prompt_id(one), "prompt": one, "truth": "{}", "group": "g", "weight": None} for one in messages
    ], schema_overrides={"weight": pl.Float64}))  # fmt: skip


def test_weights_stand_before_the_message_and_name_the_group() -> None:
    [row] = rows(write_weights(table("where ?"), objectives=OBJECTIVES, weights=[3, 1]))
    assert [m["content"] for m in row["prompt"]] == ["quality 0.75, length 0.25\nwhere ?"]
    assert row["prompt_id"] == prompt_id(row["prompt"])
    assert (row["group"], row["truth"]) == ("quality 0.75, length 0.25", "{}")
    assert weights_in(row["prompt"], ["length", "quality"]) == [0.25, 0.75]


def test_drawn_weights_are_all_combinations_of_the_levels_equally_often_and_belong_to_the_prompt() -> None:
    counts = Counter(tuple(drawn_weights(f"p{i}", 3, 2, 0)) for i in range(6000))
    assert len(counts) == 6  # 2 halves over 3 objectives
    assert all(abs(n - 1000) < 150 for n in counts.values())
    assert all(sum(weights) == 1 for weights in counts)
    two = write_weights(table("a", "b"), objectives=OBJECTIVES)
    swapped = write_weights(table("b", "a"), objectives=OBJECTIVES)
    assert rows(two) == rows(swapped)[::-1]
    lines = {
        rows(write_weights(table("a"), objectives=OBJECTIVES, levels=9, seed=seed))[0]["group"] for seed in range(9)
    }
    assert len(lines) > 2


def asked(weights: dict[str, list[float]]) -> Completions:
    """Two answers to each prompt, whose messages carry the weights."""
    made = completions({one: ["long answer", "short"] for one in weights})
    frame = made.table.to_pylist()
    for row in frame:
        q, length = weights[row["prompt_id"]]
        row["prompt"] = [{"role": "user", "content": f"quality {q}, length {length}\nask", "extra": None}]
    import pyarrow as pa

    return Completions.of(pa.Table.from_pylist(frame, Completions.SCHEMA))


def judged(p: dict[str, float | None]) -> WinProbs:
    return win_probs([(one, f"{one}/0/0", f"{one}/0/1", value) for one, value in p.items()])


def test_each_prompt_mixes_the_objectives_by_its_own_weights(tmp_path: Path) -> None:
    answers = asked({"x": [0.75, 0.25], "y": [0.0, 1.0], "z": [0.5, 0.5]})
    quality, length = judged({"x": 0.2, "y": None, "z": None}), judged({"x": 0.8, "y": 0.9, "z": 0.9})
    work = Workspace(tmp_path)
    found = mix_win_probs([quality, length], answers, work, objectives=OBJECTIVES)
    values = [row["p"] for row in rows(found)]
    assert values[:2] == pytest.approx([0.75 * 0.2 + 0.25 * 0.8, 0.9])
    assert values[2] is None  # an objective that counts gave no answer
    assert work.totals["unanswered"] == 1


def test_prompts_without_weights_and_questions_that_differ_are_an_error(tmp_path: Path) -> None:
    answers, work = asked({"x": [0.75, 0.25]}), Workspace(tmp_path)
    plain = completions({"x": ["a", "b"]})
    same = judged({"x": 0.5})
    with pytest.raises(DataError, match="begins with 'ask x', which does not give the weights"):
        mix_win_probs([same, same], plain, work, objectives=OBJECTIVES)
    with pytest.raises(DataError, match=r"does not give the weights of \['quality', 'humour'\]"):
        mix_win_probs([same, same], answers, work, objectives=["quality", "humour"])
    with pytest.raises(DataError, match="the questions to 'length' are not those to 'quality'"):
        mix_win_probs([same, win_probs([("x", "x/0/1", "x/0/0", 0.5)])], answers, work, objectives=OBJECTIVES)
    with pytest.raises(DataError, match="sampled without the line"):
        write_weights(plain, objectives=OBJECTIVES)


@pytest.mark.parametrize(("given", "match"), [
    ({"objectives": ["a b", "c"]}, "different names of letters"), ({"objectives": ["a", "a"]}, "different names"),
    ({"objectives": OBJECTIVES, "weights": [1.0]}, "at least 0 for each of the 2 objectives"),
    ({"objectives": OBJECTIVES, "weights": [0.0, 0.0]}, "not all may be 0"),
    ({"objectives": OBJECTIVES, "weights": [2.0, -1.0]}, "at least 0"),
    ({"objectives": OBJECTIVES, "weights": [float("nan"), 1.0]}, "at least 0"),
])  # fmt: skip
def test_unsuitable_objectives_and_weights_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        write_weights(table("a"), **given)
