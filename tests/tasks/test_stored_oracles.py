"""Which answers of local models serve again: those of the same content, code, precision and device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import Chosen
from tasks.judge import compare, score
from tasks.judging.opening import open_oracle
from tasks.kinds import Ensemble, Oracle, RewardModel, Scorer
from tests.answers import completions, rows
from tests.workspace import Workspace

ASKED: list[str] = []


class Model(RewardModel):
    """A reward model that scores by length and writes down what it is asked."""

    def open(self, dtype: str = "auto") -> Scorer:  # type: ignore[override]
        def answers(prompts: Any, texts: Sequence[str], truths: Any) -> list[float]:
            ASKED.extend(texts)
            return [float(len(text)) for text in texts]

        return Scorer.scoring(answers)


@pytest.fixture(autouse=True)
def asked() -> list[str]:
    ASKED.clear()
    return ASKED


def model(folder: Path, digest: str = "content", code: str = "code") -> Model:
    made = Model(folder, digest)
    made.opened_by = code
    return made


def judged(folder: Path, oracle: Scorer, *texts: str, dtype: Any = "float32") -> Workspace:
    work = Workspace(folder / f"step {len(list(folder.glob('step *')))}", folder / "answers")
    score(completions({"x": texts}), oracle, work, dtype=dtype)
    return work


def test_another_step_asks_a_model_only_what_no_step_asked_it(tmp_path: Path) -> None:
    judged(tmp_path, model(tmp_path), "a", "bb")
    work = judged(tmp_path, model(tmp_path), "bb", "ccc", "a")
    assert ASKED == ["a", "bb", "ccc"]
    assert {"queries": 3, "queries_asked": 1, "queries_reused": 2}.items() <= work.totals.items()


@pytest.mark.parametrize(
    ("changed", "dtype"),
    [({"digest": "other weights"}, "float32"), ({"code": "another forward"}, "float32"), ({}, "bfloat16")],
)
def test_other_weights_other_code_or_another_precision_are_asked_anew(
    changed: dict[str, str], dtype: str, tmp_path: Path
) -> None:
    judged(tmp_path, model(tmp_path), "a")
    judged(tmp_path, model(tmp_path, **changed), "a", dtype=dtype)
    assert ASKED == ["a", "a"]


def test_a_model_of_unknown_content_or_code_is_asked_each_time(tmp_path: Path) -> None:
    for unknown in (model(tmp_path, digest=""), model(tmp_path, code="")):
        ASKED.clear()
        judged(tmp_path, unknown, "a")
        judged(tmp_path, unknown, "a")
        assert ASKED == ["a", "a"]
    assert not (tmp_path / "answers").exists()


def test_the_members_of_an_ensemble_have_the_answers_that_they_gave_alone(tmp_path: Path) -> None:
    members = [model(tmp_path, "one"), model(tmp_path, "two")]
    judged(tmp_path, members[0], "a", "bb")
    (tmp_path / "made").mkdir()
    params = {"how": "mean", "weights": None, "c": 1.0, "uncertainty": "ensemble"}
    together = Ensemble.made_of({"member": members}, params, tmp_path / "made")
    together.opened_by = "code of ensembles"
    work = judged(tmp_path, together, "a", "bb")
    assert ASKED == ["a", "bb", "a", "bb"]
    assert {"queries": 2, "queries_asked": 2, "queries_reused": 2}.items() <= work.totals.items()


def test_where_every_answer_is_new_a_local_model_is_asked_without_the_store(tmp_path: Path) -> None:
    live = open_oracle(model(tmp_path), "float32", Workspace(tmp_path / "step"), stored=False)
    assert live.score([[]], ["a"], [None]) == live.score([[]], ["a"], [None]) == [1.0]
    assert ASKED == ["a", "a"]


def test_the_answers_of_a_rule_with_a_name_belong_to_its_code_and_parameters(tmp_path: Path) -> None:
    class Rule(Oracle):
        def open(self, dtype: str = "auto") -> Any:
            def answers(prompts: Any, a: Sequence[str], b: Sequence[str], truths: Any) -> list[float]:
                ASKED.extend(f"{x}{y}" for x, y in zip(a, b, strict=True))
                return [0.75] * len(a)

            return Oracle.of(compare=answers, stored_as="by a slow rule")

    for number, choice in enumerate([
        Chosen("oracles", "slow", {"depth": 1}, "code 1"), Chosen("oracles", "slow", {"depth": 1}, "code 1"),
        Chosen("oracles", "slow", {"depth": 2}, "code 1"), Chosen("oracles", "slow", {"depth": 1}, "code 2"),
        Chosen("oracles", "slow", {"depth": 1}, "code 1", {"file": "changed"}),
    ]):  # fmt: skip
        work = Workspace(tmp_path / str(number), tmp_path / "answers")
        compare(completions({"x": ["a", "b"]}), Rule().with_choice(choice), work)
    assert ASKED == ["ab"] * 4


def test_what_is_read_of_a_table_with_stored_answers_is_what_was_computed(tmp_path: Path) -> None:
    table = completions({"x": ["a", "bb", "a"], "y": ["bb"]})
    first, second = (
        rows(score(table, model(tmp_path), Workspace(tmp_path / name, tmp_path / "answers"))) for name in ("1", "2")
    )
    assert first == second
