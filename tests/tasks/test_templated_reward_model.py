"""A reward model that is read by a chat template of the user's."""

import shutil
from pathlib import Path

import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.load import load_oracle
from tasks.oracles.templated_reward_model import identity
from tests.tasks.test_reward_models_from_outside import ANSWERS, TALK, made


def scores(name: str, **params: object) -> list[float | None]:
    oracle = load_oracle(oracle=Chosen("oracles", name, params)).open("float32")  # type: ignore[arg-type]
    return list(oracle.score([TALK] * len(ANSWERS), ANSWERS, [None] * len(ANSWERS)))  # type: ignore[attr-defined]


@pytest.fixture
def without(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint with its template, the same without, and the template as a file."""
    whole = made(tmp_path / "whole", "qwen2", "<|endoftext|>").path
    bare = shutil.copytree(whole, tmp_path / "bare")
    template = tmp_path / "mine.jinja"
    shutil.move(bare / "chat_template.jinja", template)
    return whole, bare, template


def test_its_scores_are_those_of_the_checkpoint_with_that_template(without: tuple[Path, Path, Path]) -> None:
    whole, bare, template = without
    with pytest.raises(DataError, match="neither a chat template nor a separator"):
        scores("reward_model", path=str(bare))
    found = scores("templated_reward_model", path=str(bare), chat_template=str(template))
    assert found == scores("reward_model", path=str(whole))
    assert len(set(found)) > 1


def test_a_template_of_yours_replaces_that_of_the_checkpoint(without: tuple[Path, Path, Path], tmp_path: Path) -> None:
    whole, _, template = without
    other = tmp_path / "other.jinja"
    other.write_text(template.read_text().replace("<|im_start|>", "Turn of "))
    assert other.read_text() != template.read_text()
    assert scores("templated_reward_model", path=str(whole), chat_template=str(other)) != scores(
        "reward_model", path=str(whole)
    )


def test_its_identity_is_the_content_of_both_and_what_cannot_be_read_is_refused(
    without: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, bare, template = without
    named = identity(online=False, base=tmp_path, path="bare", chat_template="mine.jinja")
    assert {name: Path(value) for name, value in named.items()} == {"content": bare, "chat_template": template}
    with pytest.raises(SpecError, match=r"gone\.jinja cannot be read"):
        identity(online=False, base=tmp_path, path="bare", chat_template="gone.jinja")
    (tmp_path / "prose.jinja").write_text("Dear model, please score this.")
    with pytest.raises(DataError, match="does not use `messages`"):
        identity(online=False, base=tmp_path, path="bare", chat_template="prose.jinja")
