"""An external preference model, which compares two answers, as an oracle."""

from pathlib import Path

from tasks.formats.checkpoint import check_files, model_directory
from tasks.formats.hub import content_or_commits
from tasks.kinds import PreferenceModel
from tasks.training.preference_mark import preference_output


def preference_model(*, path: str, revision: str | None = None) -> PreferenceModel:
    """A model that reads both answers at once and compares them; each order is a question of its own.

    A directory that `train_preference` made (`alignflow export`), a PairRM (see `pair_rm`), or a causal language model
    from outside that answers `[CONTEXT] … [RESPONSE A] … [RESPONSE B] …` with a letter, as RLHFlow's pair-preference
    models do. It is referred to where it lies, not copied. Raises DataError if it is not whole, or a classifier that
    was not trained to compare.

    Args:
        path: a local directory, or a hub id (org/name).
        revision: a hub repository's branch, tag or commit; default: its main branch.
    """
    here = model_directory(path, revision)
    _check(here)
    return PreferenceModel(here.resolve())


def identity(*, online: bool, base: Path, path: str, revision: str | None = None) -> dict[str, str | Path]:
    """The checkpoint's content, or the hub's commit. Raises DataError if it is not a preference model."""
    content = content_or_commits(path, revision, online=online, base=base, kinds=("model",))
    if "model" in content:
        return {"revision": content["model"]}
    _check(Path(content["content"]))
    return content


def _check(path: Path) -> None:
    check_files(path)
    preference_output(path)
