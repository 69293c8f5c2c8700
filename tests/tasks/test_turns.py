"""Conversations of two turns: MT-bench's layout, the next turn's prompts, references, ratings by turn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.asking.prompts import template_in
from tasks.contract import Chosen, DataError, SpecError, data_file
from tasks.ids import prompt_id
from tasks.judge import score
from tasks.judging.opening import open_oracle
from tasks.judging.turns import following_question, reference_answer
from tasks.kinds import Completions, Prompts, Scores
from tasks.load import load_oracle
from tasks.turns import next_turn, take_groups, turn_ratings
from tests.answers import named
from tests.chat_server import ChatServer, saying
from tests.tasks.reading import Step, bot, rows_of, user
from tests.workspace import Workspace

FASTCHAT = Path("../shared/data/prompts/mt_bench_question.jsonl")
LAYOUT = [
    {"question_id": 1, "category": "math", "turns": ["1 + 1 ?", "and + 1 ?"], "reference": ["2", "3"]},
    {"question_id": 2, "category": "writing", "turns": ["a poem", "as a limerick"]},
    {"question_id": 3, "category": "writing", "turns": ["one turn"]},
]


def _questions(folder: Path) -> Prompts:
    folder.mkdir(exist_ok=True)
    return Step(folder).prompts(LAYOUT)


def _answers(prompts: Prompts, texts: Mapping[str, str], k: int = 1) -> Completions:
    """The answer to each prompt by the text of its last message; prompts without one have none."""
    made = [
        {**{name: row[name] for name in Prompts.SCHEMA.names}, "completion_id": f"{row['prompt_id']}/{n}",
         "completion": texts[row["prompt"][-1]["content"]], "stream": 0, "k": n, "token_logps": [-1.0],
         "finish_reason": "stop"}
        for row in prompts.table.to_pylist() if row["prompt"][-1]["content"] in texts for n in range(k)
    ]  # fmt: skip
    return Completions.of(pa.Table.from_pylist(made, Completions.SCHEMA))


def _scored(answers: Completions, scores: list[float | None]) -> Scores:
    return Scores.of(answers.table.append_column("score", pa.array(scores, pa.float64())))


ONE = {"1 + 1 ?": "two", "a poem": "roses"}


def test_mt_benchs_layout_gives_first_turns_and_keeps_the_others(tmp_path: Path) -> None:
    rows = rows_of(_questions(tmp_path))
    assert [row["prompt"] for row in rows] == [user("1 + 1 ?"), user("a poem"), user("one turn")]
    assert [row["group"] for row in rows] == ["math", "writing", "writing"]
    truth = rows[0]["truth"]
    assert following_question(truth, user("1 + 1 ?")) == "and + 1 ?"
    assert following_question(truth, [*user("1 + 1 ?"), *bot("2"), *user("and + 1 ?")]) is None
    assert reference_answer(truth, user("1 + 1 ?")) == "2"
    assert reference_answer(truth, [*user("1 + 1 ?"), *bot("5"), *user("and + 1 ?")]) == "3"
    assert reference_answer(rows[1]["truth"], user("a poem")) == ""
    assert rows[2]["truth"] is None
    assert reference_answer("no JSON", user("x")) == ""


@pytest.mark.skipif(not FASTCHAT.exists(), reason="the published questions are not on this machine")
def test_the_published_questions_have_two_turns_in_eight_categories(tmp_path: Path) -> None:
    rows = rows_of(Step(tmp_path).prompts(FASTCHAT))
    assert len(rows) == 80
    assert len({row["group"] for row in rows}) == 8
    assert all(following_question(row["truth"], row["prompt"]) for row in rows)
    with_reference = [row["group"] for row in rows if reference_answer(row["truth"], row["prompt"])]
    assert {"math", "reasoning", "coding"} <= set(with_reference)


def test_the_next_turn_is_the_conversation_with_its_answer_and_the_next_question(tmp_path: Path) -> None:
    work, first = Workspace(tmp_path / "work"), _questions(tmp_path)
    made = rows_of(next_turn(_answers(first, {**ONE, "one turn": "yes"}), work))
    assert [row["prompt"] for row in made] == [
        [*user("1 + 1 ?"), *bot("two"), *user("and + 1 ?")], [*user("a poem"), *bot("roses"), *user("as a limerick")]
    ]  # fmt: skip
    assert made[0]["prompt_id"] == prompt_id(made[0]["prompt"])
    assert [row["group"] for row in made] == ["math", "writing"]
    assert work.notices == ["1 of 3 conversations have no further turn and end here"]


def test_a_conversation_goes_on_with_one_answer_and_only_if_there_is_a_turn(tmp_path: Path) -> None:
    first = _questions(tmp_path)
    with pytest.raises(DataError, match="several answers, and a conversation goes on with one: sample with k = 1"):
        next_turn(_answers(first, ONE, k=2), Workspace(tmp_path / "work"))
    with pytest.raises(DataError, match="none of 1 conversations has a further turn"):
        next_turn(_answers(first, {"one turn": "yes"}), Workspace(tmp_path / "work"))


def test_ratings_are_means_over_answers_by_turn_and_group_without_those_that_could_not_be_read(tmp_path: Path) -> None:
    """Math 8 and 4, writing 6 and unread: all (8 + 4 + 6) / 3, turn 1: 7, turn 2: 4, math 6, writing 6."""
    first = _answers(_questions(tmp_path), ONE)
    second = _answers(next_turn(first, Workspace(tmp_path)), {"and + 1 ?": "three", "as a limerick": "there was"})
    work = Workspace(tmp_path / "work")
    report = turn_ratings([_scored(first, [8.0, 6.0]), _scored(second, [4.0, None])], work)
    values = {name: row["value"] for name, row in named(report).items()}
    assert values == {
        "eval/rating": 6, "eval/rating/1": 7, "eval/rating/2": 4, "eval/rating_by_group/math": 6,
        "eval/rating_by_group/writing": 6, "eval/unrated": 0.25,
    }  # fmt: skip
    assert {name: row["n"] for name, row in named(report).items()}["eval/rating"] == 2
    assert work.notices == ["1 of 4 answers have no rating that could be read, and are dropped"]
    assert report.per_prompt is not None
    assert report.per_prompt.to_pylist() == [
        {"prompt_id": prompt_id(user("1 + 1 ?")), "rating": 6.0, "rating/1": 8.0, "rating/2": 4.0},
        {"prompt_id": prompt_id(user("a poem")), "rating": 6.0, "rating/1": 6.0, "rating/2": None},
    ]


def test_ratings_of_other_conversations_and_no_ratings_are_refused(tmp_path: Path) -> None:
    first = _answers(_questions(tmp_path), ONE)
    with pytest.raises(DataError, match="2 answers of later turns are to conversations that do not begin with"):
        turn_ratings([_scored(first, [1.0, 2.0]), _scored(first, [1.0, 2.0])], Workspace(tmp_path))
    with pytest.raises(DataError, match="none of 2 answers has a rating"):
        turn_ratings([_scored(first, [None, None])], Workspace(tmp_path))


def test_prompts_of_some_groups_and_groups_for_which_nothing_is_set(tmp_path: Path) -> None:
    first = _questions(tmp_path)
    assert len(take_groups(first, groups=["writing"], others=["math"])) == 2
    with pytest.raises(DataError, match=r"no prompt is of the groups \['stem'\]; the groups are \['math', 'writing'\]"):
        take_groups(first, groups=["stem", "math"], others=["writing"])
    with pytest.raises(DataError, match=r"prompts are of the groups \['writing'\], for which nothing is set"):
        take_groups(first, groups=["math"])


def test_a_rater_is_shown_both_turns_and_the_reference_of_the_last_one(tmp_path: Path) -> None:
    """Rates 9 beside a reference and 5 without; of the second turn's reply nothing can be read."""
    seen: list[str] = []

    def rate(body: Mapping[str, Any]) -> Mapping[str, Any]:
        text = body["messages"][1]["content"]
        seen.append(text)
        return saying("so so" if "limerick" in text else "[[9]]" if "[reference answer begins" in text else "[[5]]")

    first = _answers(_questions(tmp_path), ONE)
    second = _answers(next_turn(first, Workspace(tmp_path / "t")), {"and + 1 ?": "three", "as a limerick": "there was"})
    with ChatServer(answer=rate) as server:
        params = {"url": server.url, "model": "m", "max_unparsed": 0.5}
        rater = load_oracle(oracle=Chosen("oracles", "llm_rater", params))
        works = [Workspace(tmp_path / str(turn)) for turn in (1, 2)]
        scores = [score(t, rater, w) for t, w in zip((first, second), works, strict=True)]  # type: ignore[arg-type]
    assert [row["score"] for table in scores for row in table.table.to_pylist()] == [9, 5, 9, None]
    whole = next(text for text in seen if "and + 1 ?" in text)
    assert "user: 1 + 1 ?\nassistant: two\nuser: and + 1 ?" in whole
    assert "\n3\n[reference answer ends" in whole
    report = named(turn_ratings(scores, Workspace(tmp_path / "report")))
    assert report["eval/rating"]["value"] == pytest.approx(23 / 3)
    assert report["eval/unrated"]["value"] == 0.25


def test_a_template_of_ones_own_need_not_show_references(tmp_path: Path) -> None:
    plain = template_in(data_file("rater_rating.jinja")).messages({"prompt": "p", "answer": "a"})
    assert "reference" not in "".join(message["content"] for message in plain)
    file = tmp_path / "own.jinja"
    file.write_text("{% block user %}{{ answer }} for {{ prompt }}, 1 to 10?{% endblock %}")
    with ChatServer(answer=lambda _: saying("[[7]]")) as server:
        chosen = Chosen("oracles", "llm_rater", {"url": server.url, "model": "m", "template": str(file)})
        rater = open_oracle(chosen(), "auto", Workspace(tmp_path))
        assert list(rater.score([user("x")], ["y"], ['{"reference": ["z"]}'])) == [7]


def test_several_answers_per_prompt_are_refused_before_anything_runs(tmp_path: Path) -> None:
    from flows.wiring.graph import compile_pipeline

    (tmp_path / "pipelines.yaml").write_text(
        "pipelines:\n  p:\n    steps:\n"
        "      base: {task: load_policy, source: toy}\n"
        "      questions: {task: load_prompts, source: toy, split: gate}\n"
        "      answers: {task: sample, policy: base, prompts: questions, k: 2}\n"
        "      report: {task: next_turn, completions: answers}\n"
    )
    with pytest.raises(SpecError, match="`completions` has 2 answers per prompt, and a conversation goes on with one"):
        compile_pipeline(tmp_path / "pipelines.yaml", "p", cache=tmp_path / "python.json")
