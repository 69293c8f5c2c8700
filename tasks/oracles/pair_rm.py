"""PairRM, the ranker of LLM-Blender, as an oracle."""

from pathlib import Path

from tasks.formats.checkpoint import check_files, model_directory
from tasks.formats.hub import content_or_commits
from tasks.kinds import PreferenceModel
from tasks.training.pair_rm_files import pair_rm_files


def pair_rm(*, path: str = "llm-blender/PairRM", revision: str | None = None) -> PreferenceModel:
    """A model that reads a prompt with two answers and gives the log-odds that the first is better, in both orders.

    A checkpoint in the layout of `llm-blender/PairRM` or of `llm-blender/PairRM-hf`, read without that package. Prompts
    are cut at 1224 tokens and answers at 412 (more where the prompt is shorter), or as config.json says
    (`source_maxlength`, `candidate_maxlength`). `win_rates` has SPPO's aggregation of its answers as
    `aggregation: scores`. It is referred to where it lies, not copied. Raises DataError if it is not whole, or not a
    PairRM.

    Args:
        path: a local directory, or a hub id (org/name).
        revision: a hub repository's branch, tag or commit; default: its main branch.
    """
    here = model_directory(path, revision)
    _check(here)
    return PreferenceModel(here.resolve())


def identity(
    *, online: bool, base: Path, path: str = "llm-blender/PairRM", revision: str | None = None
) -> dict[str, str | Path]:
    """The checkpoint's content, or the hub's commit. Raises DataError if it is not a PairRM."""
    content = content_or_commits(path, revision, online=online, base=base, kinds=("model",))
    if "model" in content:
        return {"revision": content["model"]}
    _check(Path(content["content"]))
    return content


def _check(path: Path) -> None:
    check_files(path)
    pair_rm_files(path)
