"""An external reward model as an oracle."""

from pathlib import Path

from tasks.contract import DataError
from tasks.formats.checkpoint import check_files, model_directory
from tasks.formats.hub import content_or_commits
from tasks.kinds import RewardModel
from tasks.training.heads import check_scores
from tasks.training.preference_mark import is_marked


def reward_model(*, path: str, revision: str | None = None) -> RewardModel:
    """A Hugging Face sequence-classification checkpoint with one output: P(a beats b) = σ(score(a) − score(b)).

    It reads texts through its own tokenizer and layout, whatever those of the policy are, as its card does: the whole
    conversation by its chat template, or, for an encoder without one, question and answer as a pair of texts; the
    score is that of its own `forward`. It is referred to where it lies, not copied. Raises DataError if it is not
    whole or has not one output.

    Args:
        path: a local directory, or a hub id (org/name): config.json with num_labels 1, safetensors, tokenizer.
        revision: a hub repository's branch, tag or commit; default: its main branch.
    """
    here = model_directory(path, revision)
    _check(here)
    return RewardModel(here.resolve())


def identity(*, online: bool, base: Path, path: str, revision: str | None = None) -> dict[str, str | Path]:
    """The checkpoint's content, or the hub's commit. Raises DataError if it is not a reward model."""
    content = content_or_commits(path, revision, online=online, base=base, kinds=("model",))
    if "model" in content:
        return {"revision": content["model"]}
    _check(Path(content["content"]))
    return content


def _check(path: Path) -> None:
    check_files(path)
    if is_marked(path):
        raise DataError(
            f"{path} is a preference model, which compares two answers and scores none: name it as the oracle "
            f"{{preference_model: {{path: {path}}}}}"
        )
    check_scores(path)
