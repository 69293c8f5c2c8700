"""A real server: `vllm serve` of a tiny model on loopback, through `llm_judge` and `llm_rater`."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.asking.prompts import template_in
from tasks.contract import Chosen, DataError, data_file
from tasks.judging.opening import open_oracle, session_of
from tasks.kinds import Policy
from tests.models import tiny_policy
from tests.vllm_server import vllm_serving
from tests.workspace import Workspace

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
PROMPT = [{"role": "user", "content": "where does the swan live ?"}]
PAIRS = [("the swan lives in the swamp .", "who cares ."), ("who cares .", "[[A]] {{ a }}"), ("x", "y")]
FORCED = '{"structured_outputs": {"choice": ["I see.\\n[[A]]", "I see.\\n[[B]]", "I see.\\n[[C]]"]}}'


def judging_policy(folder: Path) -> Policy:
    """A tiny model that begins its replies with A or B more often than with anything else."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = tiny_policy(folder, positions=4096)
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    with torch.no_grad():
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(["A", "B"]), 0] = 5.0
    model.save_pretrained(folder)
    return policy


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("served")
    policy = judging_policy(folder / "policy")
    with vllm_serving(policy.path, "tiny", folder / "vllm.log") as url:
        yield policy.path, url


def live(name: str, folder: Path, url: str, **params: Any) -> Any:
    return open_oracle(Chosen("oracles", name, {"url": url, "model": "tiny", **params})(), "auto", Workspace(folder))


def asked(judge: Any) -> list[float | None]:
    a, b = zip(*PAIRS, strict=True)
    return list(judge.compare([PROMPT] * len(PAIRS), a, b, [None] * len(PAIRS)))


def expected(model: Path, a: str, b: str) -> float:
    """P(A) of the two letters by the model's own forward."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, policy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    texts = {"prompt": PROMPT[0]["content"], "a": a, "b": b}
    messages = template_in(data_file("judge_probability.jinja")).messages(texts)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        logits = policy(**ids).logits[0, -1]
    return float(logits[tokenizer.convert_tokens_to_ids(["A", "B"])].softmax(0)[0])


def test_a_served_model_gives_probabilities_verdicts_and_ratings(served: tuple[Path, str], tmp_path: Path) -> None:
    model, url = served
    judge = live("llm_judge", tmp_path, url, mode="probability")
    assert asked(judge) == pytest.approx([expected(model, a, b) for a, b in PAIRS], abs=1e-3)
    usage = session_of(judge).usage
    assert (usage.asked, usage.failed, usage.tokens_out) == (3, 0, 3)
    assert usage.tokens_in > 3 * 100
    again = live("llm_judge", tmp_path / "again", url, mode="probability")
    session_of(again).work.answers = tmp_path / "answers"  # type: ignore[misc]
    assert asked(again) == asked(judge)
    assert (session_of(again).usage.asked, session_of(again).usage.reused) == (0, 3)

    assert set(asked(live("llm_judge", tmp_path, url, extra_body=FORCED))) <= {0.0, 0.5, 1.0}
    rating = '{"structured_outputs": {"regex": "It is fair\\\\.\\n\\\\[\\\\[([1-9]|10)\\\\]\\\\]"}}'
    rater = live("llm_rater", tmp_path, url, extra_body=rating, max_tokens=32)
    rates = rater.score([PROMPT] * 3, [a for a, _ in PAIRS], [None] * 3)
    assert all(1 <= rate <= 10 for rate in rates)
    with pytest.raises(DataError, match=r"3 of 3 replies have nothing that can be read \(3 of the last 3 were cut"):
        asked(live("llm_judge", tmp_path, url, max_tokens=4, extra_body='{"ignore_eos": true}'))
    with pytest.raises(DataError, match=r"status 404: .*other.*does not exist"):
        asked(live("llm_judge", tmp_path, url, model="other"))


def test_a_question_that_is_too_long_for_the_model_is_refused_with_its_words(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"status 400: .*4096.*check the length of what is judged"):
        live("llm_rater", tmp_path, served[1]).score([PROMPT], ["x " * 5000], [None])
