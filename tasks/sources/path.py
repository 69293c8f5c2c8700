"""What lies outside as a source: a local file or directory, or a repository of the Hugging Face hub.

The module top needs the standard library only: `identity` answers inside the light commands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from tasks.source import Source

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILE = re.compile(r"\.(jsonl?|parquet|arrow|feather|csv|tsv)(\.gz)?$", re.I)


def path(
    *,
    path: str,
    subset: str | None = None,
    revision: str | None = None,
    system: Literal["keep", "into_user"] = "keep",
    doubtful: Literal["skip", "swap", "keep"] = "skip",
) -> Source:
    """A local file, directory or model, or a hub repository.

    The format of its rows is recognised by all of its columns, and the run says which it is. Prompts: `prompt`,
    `instruction` (with `input`, `context`, `history`), `question`, `query`, `input`, or what both sides of a pair begin
    with; `system` becomes the system turn. Answers: `chosen` and `rejected`, judged answers as PandaLM, LLMBar and
    PKU-SafeRLHF have them, `completion` (with `label`), `response`, `output`, `answer`, or the last turn of `messages`
    or `conversations`. Each is a plain string, a message list (role and content, or from and value) or an HH-RLHF
    dialogue.
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
    _check(path, Path.cwd())
    from tasks.formats.outside import Outside

    return Outside(path, subset, revision, system, doubtful)


def identity(
    *,
    online: bool,
    base: Path,
    path: str,
    subset: str | None = None,
    revision: str | None = None,
    system: str = "keep",
    doubtful: str = "skip",
) -> dict[str, str | Path]:
    """What is read: the file or directory, or the commits that the hub id stands for (as a model, as a dataset).

    A relative path is relative to `base`, the folder of the pipelines file, where the task will run. Offline, and
    where the hub cannot be reached: the commit last downloaded. Raises SpecError where there is no such file and no
    hub id; DataError where the hub id's commit is not known here.
    """
    _check(path, base)
    local = base / Path(path).expanduser()
    if local.exists():
        return {"content": local.resolve()}
    asked = _asked(path, revision) if online and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0") else None
    commits = asked if asked is not None else _last_seen(path, revision)
    if not commits and asked is not None:
        raise SpecError(f"the hub has no repository '{path}' that can be read (private ones need HF_TOKEN), and there "
                        "is no such file or directory here")  # fmt: skip
    if not commits:
        raise DataError(f"'{path}' is no file here; as a hub id it was never downloaded, and the hub was not reached")
    return {**commits}


def _check(path: str, base: Path) -> None:
    """Refuse what can be neither a path that exists nor a hub id."""
    if (base / Path(path).expanduser()).exists():
        return
    if _FILE.search(path) or not _REPOSITORY.fullmatch(path):
        raise SpecError(f"there is no file or directory '{path}' (looked from {base})")


def _asked(path: str, revision: str | None) -> dict[str, str] | None:
    """The commits that the hub names now; None where it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    found = {}
    for kind in ("model", "dataset"):
        try:
            found[kind] = str(HfApi().repo_info(path, repo_type=kind, revision=revision, timeout=10).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            continue
        except (HfHubHTTPError, OSError):
            return None
        except Exception as e:
            if type(e).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "httpcore2"):
                raise
            return None
    return found


def _last_seen(path: str, revision: str | None) -> dict[str, str]:
    """The commits in the local hub cache: the revision's own, else the snapshot that came last."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", home)) / "hub"
    found = {}
    for kind in ("model", "dataset"):
        folder = Path(cache).expanduser() / f"{kind}s--{path.replace('/', '--')}"
        reference = folder / "refs" / (revision or "main")
        snapshots = sorted((folder / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime)
        if reference.exists():
            found[kind] = reference.read_text().strip()
        elif snapshots and revision in (None, snapshots[-1].name):
            found[kind] = snapshots[-1].name
    return found
