"""Local paths and hub repositories: the file or commit that a path refers to.

Imports only the standard library at the top, because light commands call `identity` functions.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tasks.contract import DataError, SpecError

UNKEYED = {"os.environ": "location of the hub's cache and offline mode; the resulting commit is in the key"}
Repository = Literal["model", "dataset"]
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILE = re.compile(r"\.(jsonl?|parquet|arrow|feather|csv|tsv)(\.gz)?$", re.I)


def content_or_commits(
    path: str, revision: str | None, *, online: bool, base: Path, kinds: Sequence[Repository]
) -> dict[str, str | Path]:
    """{"content": the local file or directory}, or the commit of each kind of hub repository.

    A relative path is relative to `base`. Offline, or if the hub is unreachable, the last downloaded commit counts.
    Raises SpecError for a path that does not exist and is not a hub id; DataError if the commit is unknown.
    """
    check_path(path, base)
    local = base / Path(path).expanduser()
    if local.exists():
        return {"content": local.resolve()}
    online = online and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")
    current = _commits_on_hub(path, revision, kinds) if online else None
    commits = current if current is not None else _commits_in_cache(path, revision, kinds)
    if not commits and current is not None:
        raise SpecError(f"'{path}' is neither a local file or directory nor a readable hub repository (private ones "
                        "need HF_TOKEN)")  # fmt: skip
    if not commits:
        raise DataError(f"'{path}' is not a local file; the hub was not reached, and its cache has no such repository")
    return {**commits}


def check_path(path: str, base: Path) -> None:
    """Raises SpecError unless `path` exists or could be a hub id."""
    if (base / Path(path).expanduser()).exists():
        return
    if _FILE.search(path) or not _REPOSITORY.fullmatch(path):
        raise SpecError(f"there is no file or directory '{path}' (relative to {base})")


def _commits_on_hub(path: str, revision: str | None, kinds: Sequence[Repository]) -> dict[str, str] | None:
    """The current commits on the hub; None if it is unreachable."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    commits: dict[str, str] = {}
    for kind in kinds:
        try:
            commits[kind] = str(HfApi().repo_info(path, repo_type=kind, revision=revision, timeout=10).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            continue
        except (HfHubHTTPError, OSError):
            return None
        except Exception as e:
            if type(e).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "httpcore2"):
                raise
            return None
    return commits


def cached_folder(path: str, revision: str | None) -> Path | None:
    """Where the local hub cache holds a model; None where it does not."""
    commit = _commits_in_cache(path, revision, ["model"]).get("model")
    folder = _cached(path, "model") / "snapshots" / commit if commit else None
    return folder if folder and folder.is_dir() else None


def _cached(path: str, kind: Repository) -> Path:
    """The folder of a repository in the local hub cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", home)) / "hub"
    return Path(cache).expanduser() / f"{kind}s--{path.replace('/', '--')}"


def _commits_in_cache(path: str, revision: str | None, kinds: Sequence[Repository]) -> dict[str, str]:
    """The commits in the local hub cache: that of the revision, else the latest snapshot."""
    commits: dict[str, str] = {}
    for kind in kinds:
        folder = _cached(path, kind)
        reference = folder / "refs" / (revision or "main")
        snapshots = sorted((folder / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime)
        if reference.exists():
            commits[kind] = reference.read_text().strip()
        elif snapshots and revision in (None, snapshots[-1].name):
            commits[kind] = snapshots[-1].name
    return commits
