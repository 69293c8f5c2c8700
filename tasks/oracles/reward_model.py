"""A reward model from outside as the one who decides."""

from __future__ import annotations

from pathlib import Path

from tasks.contract import SpecError
from tasks.formats.checkpoint import check_model
from tasks.kinds import RewardModel


def reward_model(*, path: str) -> RewardModel:
    """A Hugging Face sequence-classification checkpoint with one output: P(a beats b) = σ(score(a) − score(b)).

    It reads texts through its own tokenizer and chat template, whatever those of the policy are, and scores at the EOS
    behind the answer. It is referred to where it lies, not copied. Raises DataError if it is not whole.

    Args:
        path: a local directory: config.json with num_labels 1, safetensors, tokenizer, chat template.
    """
    here = Path(path).expanduser().resolve()
    if not here.is_dir():
        raise SpecError(f"there is no directory '{path}' with a reward model")
    check_model(here)
    return RewardModel(here)


def identity(*, online: bool, base: Path, path: str) -> dict[str, str | Path]:
    """The checkpoint's content. Raises SpecError where there is none."""
    here = (base / Path(path).expanduser()).resolve()
    if not here.is_dir():
        raise SpecError(f"there is no directory '{path}' with a reward model (looked from {base})")
    return {"content": here}
