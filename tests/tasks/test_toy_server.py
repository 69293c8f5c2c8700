"""The toy judge behind a server answers as the oracle that is named as its model."""

import threading
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import Chosen, DataError
from tasks.judging.opening import open_oracle
from tasks.worlds.toy import ToyWorld
from tasks.worlds.toy_server import ToyServer
from tasks.worlds.toy_writers import golden, mixed
from tests.workspace import Workspace

WORLD = ToyWorld()
QUESTIONS = WORLD.questions("heldout")[:6]
PROMPTS = [[{"role": "user", "content": q.text}] for q in QUESTIONS]
A, B = [golden(WORLD, q, 0) for q in QUESTIONS], [mixed(WORLD, q, 1) for q in QUESTIONS]
TRUTHS = [q.truth for q in QUESTIONS]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ToyServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.url
        server.shutdown()


def live(name: str, folder: Path, **params: Any) -> Any:
    return open_oracle(Chosen("oracles", name, params)(), "auto", Workspace(folder))


def test_probabilities_and_verdicts_are_those_of_the_rule(url: str, tmp_path: Path) -> None:
    rule = Chosen("oracles", "toy_judge", {})()
    differences = [a - b for a, b in zip(rule.score(PROMPTS, A, TRUTHS), rule.score(PROMPTS, B, TRUTHS), strict=True)]
    expected = [1 / (1 + exp(-0.8 * d)) for d in differences]
    p = live("llm_judge", tmp_path, url=url, model="toy_judge", mode="probability").compare(PROMPTS, A, B, TRUTHS)
    assert p == pytest.approx(expected, abs=1e-9)
    verdicts = live("llm_judge", tmp_path, url=url, model="toy_judge").compare(PROMPTS, A, B, [None] * 6)
    assert verdicts == [1.0 if p > 0.5 else 0.0 if p < 0.5 else 0.5 for p in expected]


def test_ratings_order_answers_as_the_rule_does(url: str, tmp_path: Path) -> None:
    gold = Chosen("oracles", "toy_gold", {})().score(PROMPTS, B, TRUTHS)
    for params in ({}, {"mode": "rubric"}, {"mode": "criteria", "criteria": {"right": 1, "kind": 1}}):
        rates = live("llm_rater", tmp_path, url=url, model="toy_gold", **params).score(PROMPTS, B, TRUTHS)
        assert sorted(range(6), key=lambda i: gold[i]) == sorted(range(6), key=lambda i: (rates[i], gold[i]))


def test_other_questions_and_other_models_are_refused(url: str, tmp_path: Path) -> None:
    judge = live("llm_judge", tmp_path, url=url, model="toy_judge")
    with pytest.raises(DataError, match="status 400: 'who are you' is no question of this toy world"):
        judge.compare([[{"role": "user", "content": "who are you"}]], ["a"], ["b"], [None])
    with pytest.raises(DataError, match="there is no model 'gpt'; there are toy_judge"):
        live("llm_judge", tmp_path, url=url, model="gpt").compare(PROMPTS, A, B, TRUTHS)
