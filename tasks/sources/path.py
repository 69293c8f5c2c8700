"""External data as a source: a local file or directory, or a repository of the Hugging Face hub.

The module top needs the standard library only, because light commands call `identity`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.formats.hub import check_path, content_or_commits

if TYPE_CHECKING:
    from tasks.source import Source


def path(
    *,
    path: str,
    subset: str | None = None,
    revision: str | None = None,
    system: Literal["keep", "into_user"] = "keep",
    doubtful: Literal["skip", "swap", "keep"] = "skip",
) -> Source:
    """A local file, directory or model, or a hub repository.

    The format of its rows is recognised by all of its columns, and a notice of the run names it. Prompts: `prompt`,
    `instruction` (with `input`, `context`, `history`), `question`, `query`, `input`, or what both sides of a pair begin
    with; `system` becomes the system turn, and `tools` go to the chat template, as do calls of tools in messages.
    Answers: `chosen` and `rejected`, judged answers as PandaLM, LLMBar and PKU-SafeRLHF have them, two answers
    (`response_a` and `response_b`, `output_1` and `output_2`, …) with a `winner` or with the verdict of each annotator
    (`annotator_1`, …), `completion`, `response`, `output`, `answer`, or the last turn of `messages` or
    `conversations`; single answers may have a `label` (true or false, 1 or 0, thumbs_up or thumbs_down). Each is a
    plain string, a message list (role and content, or from and value) or an HH-RLHF dialogue.
    Splits: several named ones are taken by name, also where a suffix follows (train finds train_prefs); `heldout` also
    finds test or validation; rm, policy and gate are cut from train by hash, 1/3, 5/9, 1/9. A source with one split or
    none is divided by a hash of prompt_id: rm 0.3, policy 0.5, gate 0.1, heldout 0.1; train and sft are rm and policy
    together. `all` is every row there is.

    Args:
        path: a file (.jsonl, .json, .csv, .tsv, each also .gz; .parquet, .arrow), a directory (data files, a saved
            dataset, a model), or a hub id (org/name).
        subset: a hub dataset's configuration, where it has several.
        revision: a hub repository's branch, tag or commit; default: its main branch.
        system: `into_user` puts the system turn's text before the first user's message, for templates that have no
            system role.
        doubtful: what to do with pairs whose scores, margin or judges call the rejected answer as good or better:
            `skip` them, `swap` the sides (ties are skipped), or `keep` them as they are.
    """
    check_path(path, Path.cwd())
    from tasks.formats.external import ExternalSource

    return ExternalSource(path, subset, revision, system, doubtful)


def identity(*, online: bool, base: Path, path: str, revision: str | None = None, **_: object) -> dict[str, str | Path]:
    """The file or directory, or the commits that the hub id refers to (as a model, as a dataset).

    A relative path is relative to `base`, the folder of the pipelines file, where the task will run. Offline, and
    where the hub cannot be reached: the commit last downloaded. Raises SpecError if there is no such file and no hub
    id; DataError if the hub id's commit is not known here.
    """
    return content_or_commits(path, revision, online=online, base=base, kinds=("model", "dataset"))
